"""Unified images of Xen in a few hundred bytes."""

from shamon_host.testing.uki_file import pe_file


def xen_image(*, policy: bytes = b"policy", without: str = "") -> bytes:
    """Hypervisor, configuration, FLASK policy, dom0's kernel and initramfs; one of the sections may be missing."""
    sections = {
        ".text": b"hypervisor",
        ".config": b"[global]\n",
        ".xsm": policy,
        ".kernel": b"kernel",
        ".ramdisk": b"initramfs",
    }
    return pe_file({name: content for name, content in sections.items() if name != without})
