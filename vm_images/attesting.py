"""A host whose VMs are attested: the host image with swtpm, and the image of such VMs in it."""

from collections.abc import Callable
from pathlib import Path

from vm_images import base, host
from vm_images.added_root import added_root
from vm_images.guest import build_guest

HERE = Path(__file__).parent
RECIPE = HERE / "attesting"
GUEST_HOME = "var/lib/libvirt/images/guest"


def build_attesting_host(say: Callable[[str], None]) -> Path:
    """The directory with the files that `vm_images.host.build_host` names, of a host with the files of
    `vm_images.guest.build_guest` in it; and that directory's ``guest.json``."""
    guest = build_guest(say)
    kind = host.Kind(
        name="attesting-host",
        recipes=[host.RECIPE, RECIPE],
        boot=host.make_host_uki,
        parts=[guest.name, HERE / "attesting.py"],
        files={GUEST_HOME: guest},
        beside=[guest / "guest.json"],
        directories=["var/lib/libvirt/swtpm", "var/log/swtpm/libvirt/qemu"],
        owned={"var/lib/swtpm-localca": "tss"},
    )
    root = added_root("attesting", base.base_root(say), RECIPE / "packages.txt", say)
    return host.build_kind(kind, root, say)
