"""`shamon doctor` on a lab host: nothing is wrong with a good one, and each fault that is put in is its own finding.

Faults that outlive being put back come last: the module of SELinux is taken out and loaded again; after `setenforce 0`
the log of the boot says so for good.
"""

import datetime
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from shamon_host.doctor.examination import NAMES
from shamon_host.peer.coalition_ca import CoalitionCa, parse_certificate
from tests.integration.lab.coalition import SHAMON, Coalition
from tests.integration.lab.host import LabHost
from tests.integration.lab.lab import Lab
from tests.integration.lab.story_world import LAB_TIMING
from tests.integration.lab.waiting import wait_until

pytestmark = pytest.mark.full
_LAB_MODULE = Path(__file__).parents[2] / "vm_images/host/lab_domain.cil"
_BUILD_S = 600
_LIMIT_S = 400
_TO_BE_EXPECTED = frozenset(
    {
        "acceleration",  # the lab's hosts are emulated
        "clock-synchronised",  # and ask no time server
        "ek-certificate",  # their TPMs are swtpm's
        "registry",  # beta and gamma of the policy have not joined
        "reference-values",
        "disk-space",  # their disks are small
        "uefi",  # efivarfs may not be mounted
    }
)
"""What is a warning on every good host here."""
_REST_ON_LIBVIRT = frozenset({"security-driver", "acceleration", "default-network"})
_RANGE = "net.ipv4.ip_local_port_range"
_LIBVIRT = "libvirtd.socket libvirtd-ro.socket libvirtd-admin.socket"
_HOLD_TCP = (
    "import socket, time; s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); "
    "s.bind(('', 7443)); s.listen(); time.sleep(3600)"
)
_HOLD_UDP = "import socket, time; s = socket.socket(type=socket.SOCK_DGRAM); s.bind(('', 20000)); time.sleep(3600)"


class Patient:
    """alpha, a member of a coalition whose daemon was never started."""

    def __init__(self, lab: Lab) -> None:
        Coalition(lab, timing=LAB_TIMING, hosts=("alpha",)).found()
        self.host = lab.host("alpha")
        self.ca = lab.directory / "coalition" / "ca"

    def examined(self, *options: str) -> tuple[int, Any]:
        """Exit code and report."""
        done = self.host.run(f"{SHAMON} doctor --json {' '.join(options)}", check=False, timeout_s=_LIMIT_S)
        return done.status, json.loads(done.stdout)

    def found(self, verdict: str, *options: str) -> dict[str, str]:
        """Name of a check → what it found, of those with this verdict."""
        _, report = self.examined(*options)
        return {item["name"]: item["found"] for item in report["findings"] if item["verdict"] == verdict}


@pytest.fixture(scope="module")
def patient(images: Path) -> Iterator[Patient]:
    with Lab(images) as lab:
        yield Patient(lab)


def test_a_good_host_is_fit(patient: Patient) -> None:
    code, report = patient.examined()
    verdicts = {item["name"]: item["verdict"] for item in report["findings"]}
    unexpected = [item for item in report["findings"] if item["verdict"] in ("wrong", "unknown")]
    assert unexpected == []
    assert code == 0
    assert {name for name, verdict in verdicts.items() if verdict == "warning"} <= _TO_BE_EXPECTED
    assert set(NAMES) - set(verdicts) <= {"xen", "daemon"}
    text = patient.host.run(f"{SHAMON} doctor", timeout_s=_LIMIT_S).stdout
    assert "This host is fit for a coalition." in text


def test_nothing_was_changed_by_looking(patient: Patient) -> None:
    look = "sysctl -n net.ipv4.ip_forward; getenforce; nft list tables; cut -d' ' -f1 /proc/modules; ls -lR /etc/shamon"
    before = patient.host.run(look).stdout
    patient.examined()
    assert patient.host.run(look).stdout == before


def test_a_user_is_told_what_takes_root(patient: Patient) -> None:
    as_nobody = f"setpriv --reuid nobody --regid nogroup --clear-groups {SHAMON} doctor --json"
    done = patient.host.run(as_nobody, check=False, timeout_s=_LIMIT_S)
    report = json.loads(done.stdout)
    assert done.status == 1
    unknown = {item["name"]: item["remedy"] for item in report["findings"] if item["verdict"] == "unknown"}
    assert {"tpm", "ima-log", "ima-policy", "host-key"} <= set(unknown)
    assert "as root" in unknown["tpm"]


Fault = Callable[["Patient"], Any]


def _commands(put_in: str, put_back: str) -> Fault:
    """A fault by a shell command, and the command that undoes it."""

    @contextmanager
    def fault(patient: Patient) -> Iterator[None]:
        patient.host.run(put_in, timeout_s=_BUILD_S)
        try:
            yield
        finally:
            patient.host.run(put_back, timeout_s=_BUILD_S)

    return fault


def _rewritten(path: str, change: Callable[[Patient, bytes], bytes], *, mode: str = "0644") -> Fault:
    """A file with another content."""

    @contextmanager
    def fault(patient: Patient) -> Iterator[None]:
        content = patient.host.get(path)
        patient.host.put(path, change(patient, content), mode=mode)
        try:
            yield
        finally:
            patient.host.put(path, content, mode=mode)

    return fault


def _held(program: str) -> Fault:
    """A program that runs meanwhile."""
    start = f'(exec >/dev/null 2>&1 </dev/null; exec python3 -c "{program}") & echo $! > /run/holder.pid'
    return _commands(start, "kill $(cat /run/holder.pid)")


def _expired(patient: Patient, pem: bytes) -> bytes:
    """The same certificate, which ended yesterday."""
    own, now = parse_certificate(pem, where="host.pem"), datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    builder = (
        x509.CertificateBuilder()
        .subject_name(own.subject)
        .issuer_name(own.issuer)
        .public_key(own.public_key())
        .serial_number(own.serial_number)
        .not_valid_before(now - 2 * day)
        .not_valid_after(now - day)
    )
    for extension in own.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    return builder.sign(CoalitionCa.load(patient.ca).key, SHA256()).public_bytes(Encoding.PEM)


def _without_alpha(patient: Patient, policy: bytes) -> bytes:
    return policy.replace(b"[hosts.alpha]", b"[hosts.delta]").replace(b'host = "alpha"', b'host = "delta"')


_FAULTS: dict[str, tuple[Fault, str]] = {
    "sysctls": (
        _commands("sysctl -w net.ipv4.ip_forward=1", "sysctl -w net.ipv4.ip_forward=0"),
        "net.ipv4.ip_forward is 1",
    ),
    "local-ports": (
        _commands(
            "sysctl -w net.ipv4.ip_local_port_range='1024 60999'",
            "sysctl -w net.ipv4.ip_local_port_range='32768 60999'",
        ),
        "1024-60999",
    ),
    "peer-port": (_held(_HOLD_TCP), "7443 is used by process"),
    "link-ports": (_held(_HOLD_UDP), "20000 is used by process"),
    "default-network": (
        _commands("virsh -q net-autostart default", "virsh -q net-autostart --disable default"),
        "starts with libvirt",
    ),
    "host-key": (_commands("chmod 0644 /etc/shamon/host.key", "chmod 0600 /etc/shamon/host.key"), "mode 0644"),
    "certificate": (_rewritten("/etc/shamon/host.pem", _expired), "expired at"),
    "policy": (_rewritten("/etc/shamon/policy.toml", _without_alpha), "does not know the host alpha"),
    "tpm": (
        _commands("mount --bind /dev/null /dev/tpmrm0", "umount /dev/tpmrm0"),
        "/dev/tpmrm0 is not the TPM's device",
    ),
    "ima-policy": (_rewritten("/etc/ima/ima-policy", lambda _, rules: rules + b"# another end\n"), "loaded was"),
    "pcr-extenders": (
        _commands(
            "rm /etc/systemd/system/systemd-pcrphase.service",
            "ln -s /dev/null /etc/systemd/system/systemd-pcrphase.service",
        ),
        "not masked: systemd-pcrphase.service",
    ),
    "libvirt": (
        _commands(f"systemctl stop {_LIBVIRT} libvirtd.service", f"systemctl start {_LIBVIRT}"),
        "virsh",
    ),
}


@pytest.mark.parametrize("name", _FAULTS)
def test_a_fault_is_its_own_finding(patient: Patient, name: str) -> None:
    put_in, words = _FAULTS[name]
    with put_in(patient):
        # A program that was started a moment ago may not have its port yet.
        wait_until(lambda: name in patient.found("wrong", "--only", name), timeout_s=120, what=f"{name} is wrong")
        code, report = patient.examined()
        wrong = {item["name"]: item for item in report["findings"] if item["verdict"] == "wrong"}
        assert set(wrong) == {name}, wrong
        assert words in wrong[name]["found"]
        assert wrong[name]["remedy"]
        assert code == 1
        unknown = {item["name"] for item in report["findings"] if item["verdict"] == "unknown"}
        assert unknown <= (_REST_ON_LIBVIRT if name == "libvirt" else set())
    wait_until(lambda: not patient.found("wrong", "--only", name), timeout_s=120, what=f"{name} is well again")


def test_without_shamons_module(patient: Patient) -> None:
    """The lab's own module stands on Shamon's, and has to go first; kvm_host goes with it."""
    host: LabHost = patient.host
    host.run(f"semodule -r {_LAB_MODULE.stem}", timeout_s=_BUILD_S)
    host.run(f"{SHAMON} selinux remove --kvm", timeout_s=_BUILD_S)
    try:
        wrong = patient.found("wrong")
        assert set(wrong) == {"selinux-policy"}, wrong
        assert "answers" in wrong["selinux-policy"]
    finally:
        host.run(f"{SHAMON} selinux install --kvm", timeout_s=_BUILD_S)
        host.put(f"/root/{_LAB_MODULE.name}", _LAB_MODULE)
        host.run(f"semodule -i /root/{_LAB_MODULE.name} && rm /root/{_LAB_MODULE.name}", timeout_s=_BUILD_S)
    assert patient.found("wrong") == {}


def test_permissive_and_never_forgotten(patient: Patient) -> None:
    patient.host.run("setenforce 0")
    assert patient.found("wrong") == {"selinux-mode": "permissive"}
    patient.host.run("setenforce 1")
    assert patient.found("wrong") == {"selinux-mode": "enforcing now, permissive at some time since the boot"}
