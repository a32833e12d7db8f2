"""The whole story in memory, with the report that `shamon demo --json` writes."""

import json

import pytest

from shamon_host.cli.main import main


def test_every_step_holds(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert len(report["steps"]) == 24
    assert all(step["ok"] for step in report["steps"])
    assert {"name", "ok", "elapsed_ms", "detail"} == set(report["steps"][0])
    assert {"handshake_ms", "quote_ms", "detect_to_teardown_ms"} <= set(report["figures"])


def test_plain_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("ok   ") for line in lines) == 24
    assert "24 of 24 steps held" in lines[-1]


@pytest.mark.parametrize("hosts", ["xen,xen", "xen,qemu", "qemu,xen,xen"])
def test_it_is_the_same_on_xen_and_on_both(hosts: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--json", "--hosts", hosts]) == 0
    report = json.loads(capsys.readouterr().out)
    assert all(step["ok"] for step in report["steps"])
    (contexts,) = (step["detail"]["contexts"] for step in report["steps"] if "contexts" in step["detail"])
    alpha, beta = hosts.split(",")[:2]
    for vm, kind in (("web", alpha), ("db", beta), ("spy", beta)):
        assert ("shamon_vm_" if kind == "xen" else "svirt_t") in contexts[vm]


@pytest.mark.parametrize("hosts", ["qemu,qemu", "xen,xen", "xen,qemu"])
def test_it_is_the_same_with_mac_vms(hosts: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--json", "--mac-vms", "--hosts", hosts]) == 0
    report = json.loads(capsys.readouterr().out)
    assert all(step["ok"] for step in report["steps"])


@pytest.mark.parametrize("hosts", ["kvm", "", "xen,xen,xen,xen"])
def test_hosts_that_there_are_not(hosts: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["demo", "--hosts", hosts])
    assert "expected qemu or xen" in capsys.readouterr().err
