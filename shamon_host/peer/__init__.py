"""The attested handshake between two hosts, and its transport."""
