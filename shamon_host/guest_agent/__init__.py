"""What runs inside a VM that is attested: an agent that answers its host with Evidence, and a command that asks the
host about other hosts. Nothing of the daemon is imported here, and the host's word counts as far as it is signed."""
