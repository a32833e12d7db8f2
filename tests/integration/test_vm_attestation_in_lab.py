"""A VM that is attested on a real host: swtpm under libvirt and SELinux, vsock, IMA in the guest; a strange program in
it, and the clean one in its place."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shamon_host.domain.policy_file import parse_policy
from tests.integration.hypervisor.test_libvirt_in_lab import SUITE
from tests.integration.lab.coalition import SHAMON, Coalition
from tests.integration.lab.console import VmConsole
from tests.integration.lab.errors import LabError
from tests.integration.lab.images import attesting_host_images
from tests.integration.lab.lab import Lab
from tests.integration.lab.remote_pytest import run_suite
from tests.integration.lab.ssh import Result
from tests.integration.lab.story_world import LAB_TIMING
from tests.integration.lab.waiting import wait_until

pytestmark = pytest.mark.full
_APP, _GUEST = "/var/lib/libvirt/images/app", "/var/lib/libvirt/images/guest"
_LEASE_S = 240
"""A VM in an emulated host takes long for its first answer."""
_WEB = '[vms.web]\nlabel = "red"\nimage = "app"'
_CONFIG = (
    f'[vms.web]\nmemory_mib = 128\nkernel = "{_APP}/vmlinux"\n'
    f'initrd = "{_APP}/initrd"\ncmdline = "console=ttyS0 quiet ',
    f'[images.guest]\npath = "{_GUEST}/disk.raw"\nformat = "raw"\n\n[vms.web]\nmemory_mib = 384\n'
    f'kernel = "{_GUEST}/vmlinux"\ninitrd = "{_GUEST}/initrd"\n'
    'cmdline = "root=/dev/vda rw console=ttyS0 quiet ima_policy=tcb systemd.show_status=no ',
)


def _good(result: Result) -> Result | None:
    return result if result.status == 0 else None


class Alpha:
    """A host by itself, whose VM web is attested."""

    def __init__(self, lab: Lab) -> None:
        guest = json.loads((lab.images / "guest.json").read_text())
        demand = f'sha256 = "{"0" * 64}"\nperiod_s = 5\nlease_s = {_LEASE_S}\non_failure = "replace"'
        web = _WEB.replace('"app"', '"guest"') + '\nattest = "small"'
        changes = ((_WEB, f'[images.guest]\nsha256 = "{guest["disk.raw"]}"\n\n[guests.small]\n{demand}\n\n{web}'),)
        self.coalition = Coalition(lab, timing=LAB_TIMING, hosts=("alpha",), changes=changes, config_changes=(_CONFIG,))
        self.coalition.found()
        self.policy = self.coalition.policy
        self.host = lab.host("alpha")
        self.host.run("systemctl enable --now shamon.service", timeout_s=240)
        self.until_answers()

    def ask(self, *arguments: str, status: int = 0) -> Any:
        """What `shamon ... --json` says."""
        told = self.host.run(f"{SHAMON} {' '.join(arguments)} --json", check=False, timeout_s=600)
        assert told.status == status, told.stdout + told.stderr
        return json.loads(told.stdout)

    def until_answers(self) -> None:
        wait_until(
            lambda: self.host.run(f"{SHAMON} status", check=False, timeout_s=60).status == 0,
            timeout_s=180,
            what="the daemon answers",
        )

    def web(self) -> Any:
        return next(row for row in self.ask("vms") if row["name"] == "web")

    def until_attested(self, timeout_s: float) -> None:
        def it_is() -> bool:
            return bool(self.web()["attestation"]["attested"])

        try:
            wait_until(it_is, timeout_s=timeout_s, what="web is attested")
        except LabError as error:
            raise LabError(f"{error}: {self.web()['attestation']}") from error

    def port_is_up(self) -> bool:
        (interface,) = self.web()["interfaces"]
        master = self.host.run(f"readlink /sys/class/net/{interface['device']}/master", check=False).stdout.strip()
        return bool(Path(master).name == interface["bridge"])

    def records(self, kind: str) -> list[Any]:
        found: list[Any] = []
        after = 0
        while batch := self.ask("audit", "--after", str(after), "--limit", "1000"):
            found += [row["detail"] for row in batch if (row["kind"], row["subject"]) == (kind, "web")]
            after = batch[-1]["sequence"]
        return found

    def tpm_state(self) -> str:
        uuid = self.host.run("virsh -q domuuid web").stdout.strip()
        state = f"/var/lib/libvirt/swtpm/{uuid}/tpm2"
        made = self.host.run(f"stat -c '%i-%W' {state}").stdout.strip()
        return f"{made} " + self.host.run(f"stat -c '%U %C' {state}/tpm2-00.permall").stdout.strip()


@pytest.fixture(scope="module")
def alpha() -> Iterator[Alpha]:
    with Lab(attesting_host_images()) as lab:
        yield Alpha(lab)


def test_it_starts_with_its_port_down(alpha: Alpha) -> None:
    told = alpha.ask("vm", "start", "web")
    assert told["state"] == "running"
    assert not alpha.port_is_up()
    VmConsole(alpha.host, "web").wait_ready(timeout_s=400)
    assert not alpha.port_is_up()
    _, owner, label = alpha.tpm_state().split()
    assert owner == "tss"
    assert label.startswith("system_u:object_r:svirt_image_t:s0:c")
    pid = alpha.host.run("pgrep -f 'swtpm socket.*web'").stdout.split()[0]
    assert alpha.host.run(f"cat /proc/{pid}/attr/current").stdout.rstrip("\0\n") == told["context"]


def test_it_is_recorded_and_then_attested(alpha: Alpha) -> None:
    """Its start is the known-good one; the digest goes into the next version of the policy, changed by hand."""
    alpha.host.run("mkdir -p /etc/shamon/reference/guests")
    record = (
        f"{SHAMON} reference record-vm web --out /etc/shamon/reference/guests/small.json "
        f"--manifest {_GUEST}/manifest.json --json"
    )
    recorded = wait_until(
        lambda: _good(alpha.host.run(record, check=False, timeout_s=120)), timeout_s=120, what="the agent answers"
    )
    assert recorded is not None
    told = json.loads(recorded.stdout)
    print("in no manifest:", told["boot_alone"])
    before = parse_policy(alpha.policy.encode(), source="policy.toml")
    text = re.sub(
        r"version = \d+\n", f'version = {before.version + 1}\nparent = "{before.digest}"\n', alpha.policy, count=1
    )
    alpha.host.put("/etc/shamon/policy.toml", text.replace("0" * 64, told["digest"]))
    alpha.host.run("restorecon -RF /etc/shamon; systemctl restart shamon.service", timeout_s=240)
    alpha.until_answers()
    alpha.until_attested(120)
    assert alpha.port_is_up()
    (first,) = alpha.records("vm.appraised")
    assert first["trusted"] is True
    assert len(alpha.records("vm.ak")) == 1


def test_what_it_asks_its_host(alpha: Alpha) -> None:
    """Of hosts that enforce its type, which in this lab are never appraised."""
    console = VmConsole(alpha.host, "web")
    ca = alpha.host.get("/etc/shamon/ca.pem").decode()
    for line in ca.splitlines():
        console.run(f"echo '{line}' >> /root/ca.pem", check=True)
    told = console.run("/opt/shamon/bin/shamon-guest hosts --ca /root/ca.pem", check=True, timeout_s=120).stdout
    print(told)
    assert "web on alpha, which says:" in told
    assert "beta: enrolled, for acme/red; never appraised" in told
    alpha.until_attested(30)


def test_a_strange_program_in_it(alpha: Alpha) -> None:
    console = VmConsole(alpha.host, "web")
    before = alpha.tpm_state()
    console.run("cp /bin/true /root/strange && echo x >> /root/strange && /root/strange", check=True)
    wait_until(lambda: bool(alpha.records("vm.quarantine")), timeout_s=60, what="web is in quarantine")
    (quarantine,) = alpha.records("vm.quarantine")
    assert "/root/strange" in quarantine["reason"]
    alpha.until_attested(400)
    assert alpha.port_is_up()
    assert alpha.web()["quarantine"] is None
    assert alpha.tpm_state() != before
    assert VmConsole(alpha.host, "web").run("ls /root/strange").status != 0
    assert len(alpha.records("vm.ak")) == 2
    (again,) = alpha.records("vm.connected-again")
    print("from the verdict to the ports of the clean one, ms:", again["ms"])
    for name, figure in alpha.ask("status")["figures"].items():
        print(f"{name}: {figure}")


def test_a_daemon_that_starts_again(alpha: Alpha) -> None:
    alpha.host.run("systemctl restart shamon.service", timeout_s=240)
    alpha.until_answers()
    assert alpha.port_is_up(), "within its lease"
    alpha.until_attested(30)


def test_nothing_of_it_was_denied(alpha: Alpha) -> None:
    """But the capability that `systemctl` asks for whoever runs it, and does without."""
    denied = [line for line in alpha.host.denials() if any(each in line for each in ("shamon_t", "virtd_t", "svirt_t"))]
    assert [line for line in denied if "sys_resource" not in line] == []


def test_libvirts_adapter_keeps_its_contract_about_tpms(alpha: Alpha) -> None:
    alpha.host.run("systemctl stop shamon.service; virsh -q destroy web", check=False, timeout_s=240)
    outcomes = run_suite(alpha.host, SUITE)
    outcomes.report("TestLibvirtQemu::test_the_state_of_a_tpm_outlives_its_domain_until_it_is_forgotten")
