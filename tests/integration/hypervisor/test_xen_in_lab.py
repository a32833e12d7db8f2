"""The adapters to Xen in a lab host: each test of `xen_suite.py` is one test here, and what dom0 keeps from whom."""

import stat
from collections.abc import Iterator

import pytest

from shamon_host.domain.flask_labels import flask_context
from shamon_host.domain.labels import VmName
from shamon_host.domain.policy import HypervisorKind
from shamon_host.hypervisor.libvirt_domain import xen_domain_xml
from shamon_host.hypervisor.ports import VmSpec
from tests.integration.lab import Lab
from tests.integration.lab.console import VmConsole
from tests.integration.lab.host import LabHost
from tests.integration.lab.images import host_images
from tests.integration.lab.remote_pytest import RemoteOutcomes, run_suite, suite_tests
from vm_images.app import archive

SUITE = "tests/integration/hypervisor/xen_suite.py"
pytestmark = pytest.mark.full
_LOAD = """
from pathlib import Path
from shamon_host.hypervisor.xen_control import XenControl
from shamon_host.hypervisor.xen_flask import XenFlask
from shamon_host.interchange.flask import flask_source
from shamon_host.testing.contracts.flask import POLICY
XenFlask(control=XenControl(), work=Path("/run/suite")).load(flask_source(POLICY))
"""
_APP = "/var/lib/libvirt/images/app"
_IN_DAEMONS_DOMAIN = "systemd-run -q --wait --pipe --collect /usr/local/sbin/lab-in-domain"
_IN_TOOLSTACK = "systemd-run -q --wait --pipe --collect /usr/local/sbin/lab-in-toolstack"


@pytest.fixture(scope="module")
def host() -> Iterator[LabHost]:
    """A host with Xen, in a lab of its own."""
    with Lab(host_images(), xen_images=host_images(HypervisorKind.XEN), xen=["alpha"]) as lab:
        (alpha,) = lab.boot("alpha")
        yield alpha


def test_who_reaches_the_hypervisor(host: LabHost) -> None:
    """Root's own domain does not by any of the devices, the toolstack's does."""
    assert host.run("getenforce").stdout.strip() == "Enforcing"
    assert "permission denied" in host.run("xl list 2>&1", check=False).stdout.lower()
    for device in ("/dev/xen/privcmd", "/dev/xen/hypercall", "/dev/xen/gntdev", "/proc/xen/privcmd"):
        said = host.run(f": < {device}", check=False)
        assert said.status != 0, device
        assert "permission denied" in said.stderr.lower(), said.stderr
    told = host.run(f"{_IN_TOOLSTACK} xl list -Z").stdout
    assert "system_u:system_r:dom0_t" in told
    assert [line for line in host.denials() if 'name="privcmd"' in line and "unconfined_t" in line]


@pytest.fixture(scope="module")
def outcomes(host: LabHost) -> RemoteOutcomes:
    """The suite's run."""
    return run_suite(host, SUITE, confined=True, timeout_s=1800)


@pytest.mark.parametrize("test", suite_tests(SUITE))
def test_in_host(outcomes: RemoteOutcomes, test: str) -> None:
    """One test of the suite, as it went there."""
    outcomes.report(test)


class Guests:
    """Running guests by name, each with a program that tries what FLASK decides."""

    def __init__(self, host: LabHost) -> None:
        self._host = host

    def start(self, number: int, name: str, label: str) -> None:
        spec = VmSpec(
            name=VmName(name),
            uuid=f"00000000-0000-4000-8000-{number:012d}",
            context=flask_context(label),
            disk=f"{_APP}/{name}.raw",
            interfaces=(),
            kernel=f"{_APP}/vmlinux",
            initrd=f"{_APP}/probe",
            cmdline=f"console=hvc0 quiet app.name={name}",
            memory_mib=128,
        )
        self._host.put(f"/root/{name}.xml", xen_domain_xml(spec))
        self._host.run(f"cp {_APP}/disk.raw {_APP}/{name}.raw")
        self._host.run(f"virsh -q -c xen:///system create /root/{name}.xml", timeout_s=120)

    def number(self, name: str) -> str:
        return self._host.run(f"virsh -q -c xen:///system domid {name}").stdout.strip()

    def tries(self, name: str, *words: str) -> tuple[int, str]:
        """Exit status and output of the program in a guest."""
        done = VmConsole(self._host, name).run(" ".join(("/guest_probe", *words)))
        return done.status, done.stdout.strip()


@pytest.fixture(scope="module")
def guests(host: LabHost, outcomes: RemoteOutcomes) -> Iterator[Guests]:
    """Two red ones and a blue one, under the contract's policy."""
    probe = (host.images / "guest_probe").read_bytes()
    host.put(f"{_APP}/probe.cpio", archive([("guest_probe", stat.S_IFREG | 0o755, probe)]))
    host.run(f"cat {_APP}/initrd {_APP}/probe.cpio > {_APP}/probe")
    host.put("/run/suite/load.py", _LOAD)
    host.run(f"{_IN_DAEMONS_DOMAIN} env PYTHONPATH=/run/suite/code /opt/shamon/bin/python /run/suite/load.py")
    made = Guests(host)
    names = ("first", "second", "other")
    for number, (name, label) in enumerate(zip(names, ("red", "red", "blue"), strict=True), 1):
        made.start(number, name, label)
    for name in names:
        VmConsole(host, name).wait_ready()
    yield made
    for name in names:
        host.run(f"virsh -q -c xen:///system destroy {name}", check=False)


@pytest.mark.parametrize(("keep", "use", "class_of"), [("offer", "map", "grant"), ("listen", "bind", "event")])
def test_guests_meet_only_where_their_labels_may(
    host: LabHost, guests: Guests, keep: str, use: str, class_of: str
) -> None:
    """Pages that one guest offers to another, and event channels: real attempts, decided by the hypervisor."""
    status, said = guests.tries("first", keep, guests.number("second"))
    assert status == 0, said
    status, told = guests.tries("second", use, guests.number("first"), said.split()[-1])
    assert (status, "refused" in told) == (0, False), told
    host.run(f"{_IN_TOOLSTACK} xl dmesg -c > /dev/null")
    status, said = guests.tries("first", keep, guests.number("other"))
    if status == 0:  # the offer alone reaches nobody; where its use is what FLASK asks about, that is refused
        status, said = guests.tries("other", use, guests.number("first"), said.split()[-1])
    assert status == 1, said
    assert "refused" in said
    denials = [line for line in host.run(f"{_IN_TOOLSTACK} xl dmesg").stdout.splitlines() if "denied" in line]
    assert any(f"tclass={class_of}" in line and "shamon_vm_blue_t" in line for line in denials), denials
