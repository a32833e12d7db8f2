"""L2TPv3 Ethernet tunnels over labelled UDP sockets."""
