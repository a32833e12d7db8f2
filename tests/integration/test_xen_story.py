"""The story on hosts with Xen, and on hosts of both kinds; then what the hypervisor's own policy is for: a policy that
somebody swaps, domains that somebody starts or relabels.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from shamon_host.domain.flask_labels import flask_context, flask_type
from shamon_host.domain.policy import HypervisorKind
from shamon_host.domain.policy_file import parse_policy
from shamon_host.interchange.flask import flask_source
from shamon_host.testing.story_report import StoryReport
from tests.integration.lab.host import LabHost
from tests.integration.lab.lab import Lab
from tests.integration.lab.link_pair import RED, LinkPair
from tests.integration.lab.story import told_on
from tests.integration.lab.waiting import wait_until

pytestmark = pytest.mark.full
XEN, QEMU = HypervisorKind.XEN, HypervisorKind.QEMU
_APP = "/var/lib/libvirt/images/app"
_IN_TOOLSTACK = "systemd-run -q --wait --pipe --collect /usr/local/sbin/lab-in-toolstack"
_BASE = "/usr/share/shamon/flask"
_RELABEL = """
import ctypes, sys
xen = ctypes.CDLL("libxenctrl.so.4.17", use_errno=True)
xen.xc_interface_open.restype = ctypes.c_void_p
handle = ctypes.c_void_p(xen.xc_interface_open(None, None, 0))
sid, label = ctypes.c_uint32(), sys.argv[2].encode()
assert xen.xc_flask_context_to_sid(handle, ctypes.create_string_buffer(label), len(label), ctypes.byref(sid)) == 0
sys.exit(0 if xen.xc_flask_relabel_domain(handle, int(sys.argv[1]), sid) == 0 else 13)
"""


def _check(report: StoryReport) -> None:
    assert report.ok, [step for step in report.steps if not step.ok]
    assert {"handshake_ms", "quote_ms", "detect_to_teardown_ms"} <= set(report.figures)


@pytest.mark.parametrize("kinds", [(XEN, QEMU), (QEMU, XEN)], ids=["xen,kvm", "kvm,xen"])
def test_the_story_on_hosts_of_both_kinds(kinds: Sequence[HypervisorKind]) -> None:
    for _, report in told_on(kinds):
        _check(report)


@pytest.fixture(scope="module")
def told() -> Iterator[tuple[Lab, StoryReport]]:
    yield from told_on([XEN])


def test_the_story_on_xen(told: tuple[Lab, StoryReport]) -> None:
    _check(told[1])


@dataclass(frozen=True)
class Attacked:
    """alpha and beta, whose daemons run, and whose VMs talk; alpha is the one that somebody attacks."""

    pair: LinkPair

    @property
    def host(self) -> LabHost:
        return self.pair.alpha

    def by_toolstack(self, command: str, *, check: bool = True) -> tuple[int, str]:
        done = self.host.run(f"{_IN_TOOLSTACK} {command}", check=check, timeout_s=180)
        return done.status, done.stdout

    def domains(self) -> str:
        return self.by_toolstack("xl list -Z")[1]

    def until_audited(self, kind: str, after: int) -> dict[str, Any]:
        """The first entry of this kind in alpha's audit log behind that number."""

        def found() -> list[dict[str, Any]]:
            return [entry for entry in self.pair.audit_since(self.host, after) if entry["kind"] == kind]

        wait_until(lambda: bool(found()), timeout_s=90, what=f"{kind} in the audit log", every_s=1)
        return found()[0]


@pytest.fixture(scope="module")
def attacked(told: tuple[Lab, StoryReport]) -> Attacked:
    lab, report = told
    if not report.ok:
        pytest.skip("the story did not come to its end")
    pair = LinkPair(lab)
    pair.start([RED])
    return Attacked(pair)


def test_a_domain_that_somebody_starts_is_stopped(attacked: Attacked) -> None:
    """Under a label of the coalition, past Shamon and libvirt: judged like any start, gone, and nothing else is."""
    since = attacked.pair.audit_end(attacked.host)
    lines = ['name="web2"', 'type="pv"', f'kernel="{_APP}/vmlinux"', f'ramdisk="{_APP}/initrd"', "memory=128"]
    attacked.host.put("/root/web2.cfg", "\n".join([*lines, f'seclabel="{flask_context("red")}"', ""]))
    attacked.by_toolstack("xl create -q /root/web2.cfg", check=False)  # it may be gone before it is whole
    entry = attacked.until_audited("vm.stranger", since)
    assert "the policy knows no VM" in entry["detail"]["reason"]
    wait_until(lambda: "web2" not in attacked.domains(), timeout_s=60, what="the stranger is gone")
    assert "web " in attacked.domains()
    attacked.pair.until_carried([RED])


def test_a_vm_under_a_label_that_xen_does_not_know(attacked: Attacked) -> None:
    """libxl starts it as a domain without a label, and says nothing; Shamon reads it back."""
    since = attacked.pair.audit_end(attacked.host)
    attacked.host.put(
        "/root/probe.xml",
        f"<domain type='xen'><name>probe</name><memory unit='MiB'>128</memory><os><type>linux</type>"
        f"<kernel>{_APP}/vmlinux</kernel><initrd>{_APP}/initrd</initrd></os>"
        "<seclabel type='static' model='flask' relabel='no'><label>system_u:system_r:no_such_t</label></seclabel>"
        "</domain>",
    )
    attacked.host.run("virsh -q -c xen:///system create /root/probe.xml", timeout_s=120)
    entry = attacked.until_audited("vm.mislabelled", since)
    assert (entry["subject"], entry["detail"]["found"]) == ("probe", str(flask_context("unlabelled")))
    wait_until(lambda: "probe" not in attacked.domains(), timeout_s=60, what="it is gone")


def test_nobody_relabels_a_domain(attacked: Attacked) -> None:
    """Not even the toolstack: the hypervisor refuses, and says so."""
    number = attacked.host.run("virsh -q -c xen:///system domid web").stdout.strip()
    attacked.host.put("/root/relabel.py", _RELABEL)
    attacked.by_toolstack("xl dmesg -c > /dev/null")
    status, _ = attacked.by_toolstack(
        f"/usr/bin/python3 /root/relabel.py {number} {flask_context('blue')}", check=False
    )
    assert status == 13
    assert "relabel" in "\n".join(
        line for line in attacked.by_toolstack("xl dmesg")[1].splitlines() if "denied" in line
    )
    assert str(flask_context("red")) in next(
        line for line in attacked.domains().splitlines() if line.startswith("web ")
    )


def test_a_policy_that_somebody_swaps(attacked: Attacked) -> None:
    """A laxer one, with all that the coalition's allows: it is replaced, peers hear of it, and cut the host off."""
    host, pair = attacked.host, attacked.pair
    since = attacked.pair.audit_end(attacked.host)
    policy = parse_policy(host.get("/etc/shamon/policy.toml"), source="policy")
    red, blue = flask_type("red"), flask_type("blue")
    module = flask_source(policy)
    lax = "\n".join([module.split("neverallow")[0].rpartition("#" * 80)[0], f"allow {red} {blue}:grant map_read;", ""])
    host.put("/root/lax.te", lax)
    host.run(f"cat {_BASE}/before.conf /root/lax.te {_BASE}/after.conf > /root/lax.conf")
    host.run("checkpolicy -t Xen -c 30 -o /root/lax.policy /root/lax.conf", timeout_s=120)
    attacked.by_toolstack("xl loadpolicy /root/lax.policy")
    told = json.dumps(attacked.until_audited("flask.foreign", since)["detail"])
    assert (red in told, blue in told, "map_read" in told) == (True, True, True), told

    def cut_off() -> bool:
        (peer,) = (row for row in pair.ask(pair.beta, "peers") if row["host"] == "alpha")
        return bool(peer["state"] != "admitted")

    wait_until(cut_off, timeout_s=120, what="beta cuts alpha off", every_s=1)
    assert red in json.dumps(pair.ask(host, "status")["flask"])
    pair.until_carried([RED])
