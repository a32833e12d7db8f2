"""The Xen host: the host image with the toolstack and libvirt's driver for it, booted by one EFI file that holds all
that the firmware has to measure: hypervisor, FLASK policy, both command lines, dom0's kernel and initramfs.

The packages are only unpacked, as the services that they bring are started by the host's own units.
"""

from collections.abc import Callable
from pathlib import Path

from shamon_host.interchange.flask import flask_base_source
from shamon_host.selinux.installing import modules_named
from vm_images import base, host
from vm_images.added_root import added_root
from vm_images.cache import cached, digest_of
from vm_images.commands import run_in_root
from vm_images.hypervisor import build_hypervisor, compile_flask
from vm_images.uki import add_sections

HERE = Path(__file__).parent
RECIPE = HERE / "xen"
_CODE = [HERE / name for name in ("xen_host.py", "hypervisor.py")]
_POLICY_HOME = "usr/share/shamon/flask"
_CONFIG = """\
[global]
default=host
[host]
options={options}
kernel=vmlinuz {cmdline}
ramdisk=initrd
"""


def build_xen_host(say: Callable[[str], None]) -> Path:
    """The directory with the files that `vm_images.host.build_host` names, of a Xen host; and ``guest_probe``, with
    which a guest tries what FLASK decides.
    """
    hypervisor = build_hypervisor(say)

    def boot(image: Path, cmdline: str, root: Path, out: Path) -> None:
        _make_image(hypervisor, image, cmdline, root, out)

    kind = host.Kind(
        name="xen-host",
        recipes=[host.RECIPE, RECIPE],
        modules=modules_named(xen=True),
        boot=boot,
        parts=[hypervisor.name, *_CODE],
        files={_POLICY_HOME: hypervisor / "flask"},
        directories=["var/log/xen"],
        beside=[_guest_probe(say)],
    )
    root = added_root("xen", base.base_root(say), RECIPE / "packages.txt", say)
    return host.build_kind(kind, root, say)


def _guest_probe(say: Callable[[str], None]) -> Path:
    """Without shared libraries, for a guest that has none."""
    source, tools = RECIPE / "guest_probe.c", base.build_root(say)

    def build(out: Path) -> None:
        compiler = ["gcc", "-static", "-Os", "-Wall", "-Werror", "-s", "-o", "/out/guest_probe", "/in.c"]
        run_in_root(tools, compiler, binds={source: "/in.c", out: "/out"})

    return cached("guest-probe", digest_of(source, tools.parent.name), build, say) / "guest_probe"


def _make_image(hypervisor: Path, image: Path, cmdline: str, root: Path, out: Path) -> None:
    """`.config`, `.xsm`, `.kernel` and `.ramdisk` are the names that Xen looks for (docs/misc/efi.pandoc)."""
    config, policy = out / "xen.cfg", out / "xenpolicy"
    config.write_text(_CONFIG.format(options=(RECIPE / "options").read_text().strip(), cmdline=cmdline))
    base_policy = hypervisor / "flask"
    compile_flask(base_policy / "before.conf", flask_base_source(), base_policy / "after.conf", root, policy)
    sections = {".config": config, ".xsm": policy, ".kernel": out / "vmlinuz", ".ramdisk": out / "initrd"}
    add_sections(image, hypervisor / "xen.efi", sections)
    config.unlink()
    policy.unlink()
