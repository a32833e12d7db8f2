"""UDP sockets created under an SELinux context."""
