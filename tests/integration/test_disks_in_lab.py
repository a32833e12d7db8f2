"""Disks that VMs share, on real hosts: SELinux labels the files, the kernel keeps other VMs from them, peers agree."""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shamon_host.domain.policy_file import parse_policy
from shamon_host.testing.story_policy import VM_ADDRESSES
from tests.integration.lab.coalition import DISKS, SHAMON, Coalition
from tests.integration.lab.console import VmConsole
from tests.integration.lab.host import LabHost
from tests.integration.lab.lab import Lab
from tests.integration.lab.story_world import LAB_TIMING
from tests.integration.lab.waiting import wait_until

pytestmark = pytest.mark.full
_BOOK = b"what red and blue read\n".ljust(1 << 20, b"\0")
_CHANGES = (
    ('[vms.web]\nlabel = "red"', '[vms.web]\nlabel = "red"\nresources = ["book", "cache"]'),
    ('[vms.shop]\nlabel = "blue"', '[vms.shop]\nlabel = "blue"\nresources = ["book"]'),
    (
        "[vms.probe]",
        '[resources.cache]\ntypes = ["acme/red"]\n\n[resources.book]\ntypes = ["acme/red", "rival/blue"]\n'
        f'sha256 = "{hashlib.sha256(_BOOK).hexdigest()}"\n\n[vms.probe]',
    ),
)
_WITHIN_S = 6 * LAB_TIMING.lease_s


class Hosts:
    """alpha, whose VMs web and shop have disks, and beta, which runs db."""

    def __init__(self, lab: Lab) -> None:
        coalition = Coalition(lab, timing=LAB_TIMING, hosts=("alpha", "beta"), changes=_CHANGES)
        coalition.found()
        self.policy = coalition.policy
        self.alpha, self.beta = lab.host("alpha"), lab.host("beta")
        self.alpha.put(f"{DISKS}/book.raw", _BOOK)
        self.alpha.run(f"truncate -s 1M {DISKS}/cache.raw; restorecon -RF {DISKS}")
        for host in (self.alpha, self.beta):
            host.run("systemctl enable --now shamon.service", timeout_s=240)
            self.until_answers(host)

    def ask(self, *arguments: str, host: LabHost | None = None, status: int = 0) -> Any:
        """What `shamon ... --json` says, on alpha."""
        command = f"{SHAMON} {' '.join(arguments)} --json"
        told = (host or self.alpha).run(command, check=False, timeout_s=300)
        assert told.status == status, told.stdout + told.stderr
        return json.loads(told.stdout)

    def until_answers(self, host: LabHost) -> None:
        wait_until(
            lambda: host.run(f"{SHAMON} status", check=False, timeout_s=60).status == 0,
            timeout_s=180,
            what=f"the daemon of {host.name} answers",
        )

    def states(self) -> dict[str, str]:
        return {row["name"]: row["state"] for row in self.ask("disks")}

    def label(self, disk: str) -> str:
        return self.alpha.run(f"stat -c %C {DISKS}/{disk}.raw").stdout.strip()

    def runs(self, vm: str) -> bool:
        return vm in self.alpha.run("virsh -q list --name").stdout.split()

    def records(self, kind: str, subject: str) -> list[Any]:
        found = []
        after = 0
        while batch := self.ask("audit", "--after", str(after), "--limit", "1000"):
            found += [row["detail"] for row in batch if (row["kind"], row["subject"]) == (kind, subject)]
            after = batch[-1]["sequence"]
        return found


def _next(policy: str, old: str, new: str) -> str:
    """The version after this one, with one change."""
    assert old in policy
    before = parse_policy(policy.encode(), source="policy.toml")
    parent = f'version = {before.version + 1}\nparent = "{before.digest}"\n'
    text = re.sub(r'version = \d+\n(parent = "\w+"\n)?', parent, policy, count=1)
    return text.replace(old, new)


@pytest.fixture(scope="module")
def hosts(images: Path) -> Iterator[Hosts]:
    with Lab(images) as lab:
        yield Hosts(lab)


def test_one_vm_writes_its_disk_and_two_of_other_types_read_one(hosts: Hosts) -> None:
    assert hosts.states() == {"book": "new", "cache": "new"}
    hosts.ask("vm", "start", "db", host=hosts.beta)
    hosts.ask("vm", "start", "web")
    hosts.ask("vm", "start", "shop")
    assert hosts.states() == {"book": "ready", "cache": "ready"}
    web, shop = VmConsole(hosts.alpha, "web"), VmConsole(hosts.alpha, "shop")
    for console in (web, shop):
        console.wait_ready()
        seen = console.run("cat /sys/block/vdb/ro; head -c 22 /dev/vdb", check=True).stdout
        assert [line.strip() for line in seen.splitlines()] == ["1", "what red and blue read"]
        assert console.run("echo changed > /dev/vdb").status != 0
    assert shop.run("ls /dev/vdc").status != 0
    web.run("echo from web > /dev/vdc && sync", check=True)
    assert hosts.alpha.run(f"head -c 8 {DISKS}/cache.raw").stdout == "from web"


def test_files_and_machines_have_the_categories_that_the_kernel_compares(hosts: Hosts) -> None:
    book, cache = hosts.label("book"), hosts.label("cache")
    assert book.startswith("system_u:object_r:virt_content_t:s0:c")
    assert cache.startswith("system_u:object_r:svirt_image_t:s0:c")
    contexts = {row["name"]: row["context"] for row in hosts.ask("vms")}
    question = (
        "import sys; from pathlib import Path; from shamon_host.domain.labels import SelinuxContext as C; "
        "print(*[C.parse(disk).categories <= C.parse(vm).categories for vm in sys.argv[1:3] for disk in sys.argv[3:]])"
    )
    told = hosts.alpha.run(
        f"/opt/shamon/bin/python -c '{question}' {contexts['web']} {contexts['shop']} {book} {cache}"
    ).stdout.split()
    assert told == ["True", "True", "True", "False"]


def test_the_peer_admits_the_host_and_its_vms_talk(hosts: Hosts) -> None:
    wait_until(
        lambda: VmConsole(hosts.alpha, "web").reaches(VM_ADDRESSES["db"][0], timeout_s=1),
        timeout_s=_WITHIN_S,
        what="web reaches db",
    )


def test_a_disk_that_is_attached_by_hand_is_the_end_of_the_vm(hosts: Hosts) -> None:
    """The label of the file is right for it, so nothing but the comparison with the policy notices."""
    hosts.alpha.run(f"truncate -s 1M {DISKS}/gift.raw; restorecon -F {DISKS}/gift.raw")
    hosts.alpha.run(f"virsh -q attach-disk shop {DISKS}/gift.raw vdc --subdriver raw")
    wait_until(lambda: not hosts.runs("shop"), timeout_s=60, what="shop is stopped")
    assert f"{DISKS}/gift.raw" in hosts.records("vm.other-disks", "shop")[0]["found"]
    assert hosts.runs("web")


def test_labels_outlive_the_machines_and_a_restart_of_the_daemon(hosts: Hosts) -> None:
    before = hosts.label("book"), hosts.label("cache")
    hosts.alpha.run("systemctl restart shamon.service", timeout_s=240)
    hosts.until_answers(hosts.alpha)
    assert hosts.runs("web")
    hosts.ask("vm", "stop", "web")
    assert (hosts.label("book"), hosts.label("cache")) == before
    assert len(hosts.records("disk.label", "cache")) == 1


def test_another_file_in_its_place_starts_nothing_until_it_is_adopted(hosts: Hosts) -> None:
    hosts.alpha.run(
        f"mv {DISKS}/cache.raw {DISKS}/kept.raw; truncate -s 1M {DISKS}/cache.raw; restorecon -F {DISKS}/cache.raw"
    )
    assert hosts.states() == {"book": "ready", "cache": "other"}
    assert "disk adopt" in hosts.ask("vm", "start", "web", status=3)["error"]["remedy"]
    assert not hosts.runs("web")
    assert hosts.label("cache") == "system_u:object_r:virt_image_t:s0"
    assert hosts.ask("disk", "adopt", "cache")["state"] == "new"
    hosts.ask("vm", "start", "web")
    assert hosts.label("cache") == hosts.alpha.run(f"stat -c %C {DISKS}/kept.raw").stdout.strip()
    assert hosts.ask("disk", "adopt", "cache", status=1)["error"]["found"] == "web"
    hosts.ask("vm", "stop", "web")
    hosts.alpha.run(f"mv {DISKS}/cache.raw {DISKS}/second.raw; mv {DISKS}/kept.raw {DISKS}/cache.raw")
    assert hosts.states()["cache"] == "other"
    hosts.alpha.run(f"mv {DISKS}/cache.raw {DISKS}/kept.raw; cp -a {DISKS}/second.raw {DISKS}/cache.raw")
    assert hosts.states()["cache"] == "other", "a copy, with the label of the disk"
    hosts.alpha.run(f"mv {DISKS}/second.raw {DISKS}/cache.raw")
    assert hosts.states()["cache"] == "ready"
    hosts.ask("vm", "start", "web")


def test_a_hard_link_is_no_disk(hosts: Hosts) -> None:
    hosts.alpha.run(f"ln {DISKS}/book.raw {DISKS}/again.raw")
    assert "hard links" in hosts.ask("vm", "start", "shop", status=1)["error"]["found"]
    hosts.alpha.run(f"rm {DISKS}/again.raw")
    hosts.ask("vm", "start", "shop")
    hosts.ask("vm", "stop", "shop")


def test_a_version_of_the_policy_may_pin_what_was_written_and_take_a_disk_away(hosts: Hosts) -> None:
    """An unsigned policy is changed by hand, on a host whose VMs stand still."""
    hosts.ask("vm", "stop", "web")
    pinned = hashlib.sha256(hosts.alpha.get(f"{DISKS}/cache.raw")).hexdigest()
    versions = [hosts.policy]
    versions.append(_next(versions[-1], "[resources.cache]\n", f'[resources.cache]\nsha256 = "{pinned}"\n'))
    versions.append(_next(versions[-1], '["book", "cache"]', '["book"]'))
    for version, kind, types in (
        (versions[1], "virt_content_t", True),
        (versions[2], "virt_image_t", False),
    ):
        hosts.alpha.put("/etc/shamon/policy.toml", version)
        hosts.alpha.run("systemctl restart shamon.service", timeout_s=240)
        hosts.until_answers(hosts.alpha)
        if types:
            hosts.ask("vm", "start", "web")
            (web,) = [row for row in hosts.ask("vms") if row["name"] == "web"]
            assert [disk["read_only"] for disk in web["disks"]] == [True, True]
            hosts.ask("vm", "stop", "web")
        assert f"object_r:{kind}:s0:c" in hosts.label("cache")
    assert hosts.records("disk.withdraw", "cache")


def test_other_content_than_the_pinned_starts_nothing(hosts: Hosts) -> None:
    hosts.alpha.run(f"printf ! | dd of={DISKS}/book.raw conv=notrunc bs=1 seek=7 status=none")
    told = hosts.ask("vm", "start", "shop", status=3)["error"]
    assert hashlib.sha256(_BOOK).hexdigest() in told["expected"]
    assert not hosts.runs("shop")


def test_selinux_denied_the_daemon_no_file(hosts: Hosts) -> None:
    """All of the above went as it did because the daemon may do it, not because nobody enforces, or looks."""
    assert hosts.alpha.run("getenforce").stdout.strip() == "Enforcing"
    denied = [line for line in hosts.alpha.denials() if re.search(r"scontext=\S*:shamon_t:\S* .*tclass=file", line)]
    assert denied == []
