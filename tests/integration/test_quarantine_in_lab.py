"""Quarantine by its grades and rolling replacement on a real host: libvirt writes the memory, SELinux lets it, the
bridge has no port of what is cut off, and a daemon that is killed makes no difference."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shamon_host.domain.policy_file import parse_policy
from tests.integration.lab.coalition import SHAMON, Coalition
from tests.integration.lab.console import VmConsole
from tests.integration.lab.lab import Lab
from tests.integration.lab.story_world import LAB_TIMING
from tests.integration.lab.waiting import wait_until

pytestmark = pytest.mark.full
_KEPT = "/var/lib/libvirt/images/shamon-kept"
_IMAGE = "/var/lib/libvirt/images/app/disk.raw"
_CHANGES = tuple((f"[labels.{label}]\n", f'[labels.{label}]\nquarantine = "note"\n') for label in ("red", "blue"))


class Alpha:
    """A host by itself, which runs web and shop."""

    def __init__(self, lab: Lab) -> None:
        coalition = Coalition(lab, timing=LAB_TIMING, hosts=("alpha",), changes=_CHANGES)
        coalition.found()
        self.policy, self.image_sha256 = coalition.policy, coalition.image_sha256
        self.host = lab.host("alpha")
        self.host.run("systemctl enable --now shamon.service", timeout_s=240)
        self.until_answers()
        for vm in ("web", "shop"):
            self.ask("vm", "start", vm)
            VmConsole(self.host, vm).wait_ready()

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

    def vm(self, name: str) -> Any:
        return next(row for row in self.ask("vms") if row["name"] == name)

    def bridge(self, tap: str) -> str:
        """The bridge that a tap is a port of; empty when it is of none."""
        return Path(self.host.run(f"readlink /sys/class/net/{tap}/master", check=False).stdout.strip()).name

    def runs(self, vm: str) -> bool:
        return vm in self.host.run("virsh -q list --name --state-running").stdout.split()

    def kill_daemon(self) -> None:
        """systemd starts it again."""
        before = self.host.run("systemctl show -P MainPID shamon.service").stdout
        self.host.run("systemctl kill --signal=KILL shamon.service")
        wait_until(
            lambda: self.host.run("systemctl show -P MainPID shamon.service").stdout not in (before, "0\n"),
            timeout_s=60,
            what="another daemon runs",
        )
        self.until_answers()

    def records(self, kind: str, subject: str) -> list[Any]:
        found: list[Any] = []
        after = 0
        while batch := self.ask("audit", "--after", str(after), "--limit", "1000"):
            found += [row["detail"] for row in batch if (row["kind"], row["subject"]) == (kind, subject)]
            after = batch[-1]["sequence"]
        return found

    def stat(self, path: str) -> list[str]:
        """Mode, owner, size and label of a file."""
        return self.host.run(f"stat -c '%a %U %s %C' {path}").stdout.split()


@pytest.fixture(scope="module")
def alpha(images: Path) -> Iterator[Alpha]:
    with Lab(images) as lab:
        yield Alpha(lab)


def test_a_note_changes_nothing(alpha: Alpha) -> None:
    told = alpha.ask("vm", "quarantine", "web", "--reason", "odd")
    assert (told["state"], told["quarantine"]["grade"]) == ("running", "note")
    (interface,) = told["interfaces"]
    assert alpha.bridge(interface["device"]) == interface["bridge"]
    alpha.ask("vm", "quarantine", "web", "--keep-memory", status=2)


def test_ports_down_with_the_memory_kept(alpha: Alpha) -> None:
    told = alpha.ask("vm", "quarantine", "web", "--grade", "ports-down", "--keep-memory")
    assert (told["state"], told["quarantine"]["memory"]) == ("running", "kept")
    (path,) = told["quarantine"]["kept"]
    assert path.startswith(f"{_KEPT}/web-")
    mode, owner, size, label = alpha.stat(path)
    assert (mode, owner, label) == ("600", "root", "system_u:object_r:virt_image_t:s0")
    assert int(size) > 32 << 20
    assert alpha.host.run(f"head -c 4 {path}").stdout == "\x7fELF"
    assert alpha.stat(_KEPT)[:2] == ["700", "root"]
    (interface,) = told["interfaces"]
    assert alpha.bridge(interface["device"]) == ""
    VmConsole(alpha.host, "web").run("true", check=True)
    shop = alpha.vm("shop")["interfaces"][0]
    assert alpha.bridge(shop["device"]) == shop["bridge"]


def test_a_tap_that_is_put_back_is_taken_off_again_by_this_daemon_and_by_the_next(alpha: Alpha) -> None:
    (interface,) = alpha.vm("web")["interfaces"]
    tap = interface["device"]
    # The bridge went with the last VM that needed it; what is made by hand in its place is removed, too.
    alpha.host.run(f"ip link add {interface['bridge']} type bridge", check=False)
    alpha.host.run(f"ip link set {tap} master {interface['bridge']}", check=False)
    wait_until(lambda: alpha.bridge(tap) == "", timeout_s=30, what="the tap is in no bridge")
    alpha.kill_daemon()
    assert alpha.bridge(tap) == ""
    assert alpha.runs("web")
    assert alpha.vm("web")["quarantine"]["grade"] == "ports-down"


def test_release_brings_it_back(alpha: Alpha) -> None:
    told = alpha.ask("vm", "start", "web")
    (interface,) = told["interfaces"]
    wait_until(
        lambda: alpha.bridge(interface["device"]) == interface["bridge"], timeout_s=30, what="it is in its bridge"
    )


def test_destroyed_with_its_disk_kept(alpha: Alpha) -> None:
    VmConsole(alpha.host, "web").write_marker("traces")
    told = alpha.ask("vm", "quarantine", "web", "--grade", "destroy", "--keep-disk", "--keep-memory")
    assert (told["state"], told["image_state"]) == ("absent", "none")
    memory, disk = told["quarantine"]["kept"]
    assert (memory.endswith(".memory"), disk.endswith(".disk")) == (True, True)
    assert alpha.stat(disk)[0] == "600"
    alpha.host.run(f"qemu-img check -q {disk}")
    alpha.kill_daemon()
    assert "web" not in alpha.host.run("virsh -q list --all --name").stdout.split()
    assert alpha.runs("shop")
    alpha.ask("vm", "start", "web")
    console = VmConsole(alpha.host, "web")
    console.wait_ready()
    assert console.marker() is None


def test_a_daemon_that_is_killed_in_the_midst_of_a_replacement(alpha: Alpha) -> None:
    VmConsole(alpha.host, "web").write_marker("traces")
    alpha.host.run(f"{SHAMON} vm replace web >/dev/null 2>&1 & sleep 0.3; systemctl kill --signal=KILL shamon.service")
    alpha.until_answers()
    wait_until(lambda: alpha.vm("web")["replacing"] == "" and alpha.runs("web"), timeout_s=240, what="web is back")
    console = VmConsole(alpha.host, "web")
    console.wait_ready()
    begun = alpha.records("vm.replace", "web")
    assert console.marker() == (None if begun else "traces")
    assert alpha.host.run("virsh -q list --all --name").stdout.split().count("web") == 1


def test_a_patched_image_is_rolled(alpha: Alpha) -> None:
    """An unsigned policy is changed by hand. The old image stays open under the VMs that run."""
    assert alpha.ask("images")[0]["current"] == ["shop", "web"]
    alpha.host.run(f"cp -a --sparse=always {_IMAGE} {_IMAGE}.new && truncate -s +1M {_IMAGE}.new")
    patched = alpha.host.run(f"sha256sum {_IMAGE}.new", timeout_s=240).stdout.split()[0]
    before = parse_policy(alpha.policy.encode(), source="policy.toml")
    text = re.sub(
        r"version = \d+\n", f'version = {before.version + 1}\nparent = "{before.digest}"\n', alpha.policy, count=1
    )
    alpha.host.put("/etc/shamon/policy.toml", text.replace(alpha.image_sha256, patched))
    alpha.host.run("systemctl restart shamon.service", timeout_s=240)
    alpha.until_answers()
    assert alpha.ask("images")[0]["outdated"] == ["shop", "web"]
    assert alpha.runs("web")
    alpha.ask("image", "roll", "app", status=3)
    assert alpha.runs("web"), "the image of this host is not the pinned one yet: nothing is touched"
    alpha.host.run(f"mv {_IMAGE}.new {_IMAGE}")
    told = alpha.ask("image", "roll", "app")
    assert [row["name"] for row in told["replaced"]] == ["shop", "web"]
    assert alpha.ask("images")[0]["current"] == ["shop", "web"]
    for vm in ("shop", "web"):
        VmConsole(alpha.host, vm).wait_ready()
    assert alpha.ask("image", "roll", "app")["replaced"] == []


def test_nothing_of_it_was_denied(alpha: Alpha) -> None:
    """But the capability that `systemctl` asks for whoever runs it, and does without."""
    denied = [line for line in alpha.host.denials() if "shamon_t" in line or "virtd_t" in line]
    assert [line for line in denied if "sys_resource" not in line] == []
