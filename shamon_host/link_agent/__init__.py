"""The part of the program that runs inside a MAC VM, and the host's end of the wire to it.

A MAC VM is the MAC domain of a host in the profile `vm`: a small VM that holds the host's links. It decides nothing:
the host's daemon decides, and has each operation on the kernel carried out in there (`remote_kernel`); what peers send
reaches the daemon through it (`relay`), still inside their TLS. Why so: docs/decisions/mac-vm-carries-out.md.
"""
