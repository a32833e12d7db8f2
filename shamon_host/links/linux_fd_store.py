"""systemd's file descriptor store: link sockets outlive the daemon there."""
