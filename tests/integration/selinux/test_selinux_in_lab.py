"""`shamon selinux` on a host that enforces: what the kernel itself answers, and what is told when a domain is
permissive or the module is gone. Building a policy takes most of a minute there."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.lab import Lab, LabHost
from tests.integration.lab.ssh import Result
from tests.integration.links.probe import Probe, ProbeError

SHAMON = "/opt/shamon/bin/shamon"
_LAB_MODULE = Path(__file__).parents[3] / "vm_images/host/lab_domain.cil"
_BUILD_S = 600
_SA = """
from shamon_host.domain.labels import SelinuxContext
sa = SecurityAssociation(
    source="192.0.2.77", destination="{address}", spi=0x7777, reqid=0x6000, hard_lifetime_s=600, key=bytes(36),
    context=SelinuxContext(
        user="system_u", role="object_r", type="shamon_link_t", categories=frozenset({{7}})
    ),
)
kernel.apply([AddSa(sa=sa)])
"""


@pytest.fixture(scope="module")
def host(lab: Lab) -> LabHost:
    """alpha, where nothing else uses links meanwhile."""
    (alpha,) = lab.boot("alpha")
    alpha.run("systemctl stop shamon", check=False)
    return alpha


@pytest.fixture
def probe(host: LabHost) -> Iterator[Probe]:
    """The real kernel's adapter in the daemon's domain."""
    probe = Probe(host=host)
    probe.start()
    yield probe
    probe.stop()


def test_an_enforcing_host_passes_every_check(host: LabHost) -> None:
    told = _check(host)
    assert [item for item in told["findings"] if not item["ok"]] == []
    assert {item["about"] for item in told["findings"]} >= {"mode", "contexts", "links", "types apart", "no lock-out"}
    text = host.run(f"{SHAMON} selinux check").stdout
    assert "answers are as they should be" in text
    assert len(text.splitlines()) < len(told["findings"])


def test_what_is_in_place_is_left_alone(host: LabHost) -> None:
    said = host.run(f"{SHAMON} selinux install --kvm", timeout_s=_BUILD_S).stdout
    assert said.startswith("module shamon: is in place\nmodule kvm_host: is in place\n")
    assert "building" not in said


def test_a_permissive_domain_ends_links_at_once(host: LabHost, probe: Probe) -> None:
    """shamon_link_t permissive: a packet of another type would be let in, and logged."""
    assert probe.ask("answer = kernel.read().no_links_because") == ""
    probe.ask("events.clear()")
    host.put("/root/permissive_link.cil", "(typepermissive shamon_link_t)\n")
    host.run("semodule -i /root/permissive_link.cil", timeout_s=_BUILD_S)
    try:
        assert "permissive" in probe.ask("answer = kernel.read().no_links_because")
        assert "an SELinux policy was loaded" in probe.ask("answer = repr(events)")
        with pytest.raises(ProbeError, match="not fit for links"):
            probe.ask(_SA.format(address=host.ipv4))
        wrong = [item for item in _check(host, status=1)["findings"] if not item["ok"]]
        assert {item["who"] for item in wrong} == {"shamon_link_t"}
    finally:
        host.run("semodule -r permissive_link", timeout_s=_BUILD_S)
    assert probe.ask("answer = kernel.read().no_links_because") == ""


def test_no_removal_while_something_labelled_is_there(host: LabHost, probe: Probe) -> None:
    refused = _refused(host, "remove")
    assert "the daemon runs" in refused
    probe.ask(_SA.format(address=host.ipv4))
    probe.stop()
    assert "0x00007777" in _refused(host, "remove")
    probe.start()
    probe.ask(f"kernel.apply([DeleteSas(ids=(SaId(destination='{host.ipv4}', spi=0x7777),))])")


@pytest.mark.full
def test_removed_and_installed_again(host: LabHost) -> None:
    """The lab has a module of its own that stands on Shamon's: with it, no policy can be built without Shamon's."""
    assert "semodule failed" in _refused(host, "remove")
    assert _check(host)["ok"]
    host.run(f"semodule -r {_LAB_MODULE.stem}", timeout_s=_BUILD_S)
    said = host.run(f"{SHAMON} selinux remove", timeout_s=_BUILD_S).stdout
    assert said.startswith("module shamon: will be removed\n")
    told = _check(host, status=1)
    assert {item["about"] for item in told["findings"] if not item["ok"]} == {"contexts"}
    assert "shamon selinux install" in host.run(f"{SHAMON} selinux check", check=False).stdout
    assert "shamon" not in host.run("stat -c %C /etc/shamon /opt/shamon/bin/shamon").stdout
    said = host.run(f"{SHAMON} selinux install", timeout_s=_BUILD_S).stdout
    assert said.startswith("module shamon: will be installed\nbuilding and loading the policy\nlabels of files: ")
    assert "answers are as they should be" in said
    assert "shamon_exec_t" in host.run("stat -c %C /opt/shamon/bin/shamon").stdout
    host.put(f"/root/{_LAB_MODULE.name}", _LAB_MODULE)
    host.run(f"semodule -i /root/{_LAB_MODULE.name} && rm /root/{_LAB_MODULE.name}", timeout_s=_BUILD_S)


def _check(host: LabHost, *, status: int = 0) -> Any:
    result = host.run(f"{SHAMON} selinux check --json", check=False)
    assert result.status == status, result.stdout + result.stderr
    return json.loads(result.stdout)


def _refused(host: LabHost, action: str) -> str:
    result: Result = host.run(f"{SHAMON} selinux {action}", check=False, timeout_s=_BUILD_S)
    assert result.status == 1
    return result.stderr
