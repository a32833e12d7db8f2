"""The two kernels of a host with a MAC VM keep the contract of one, over the real agent and its wire."""

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from shamon_host.domain.errors import BackendFailed
from shamon_host.domain.label_map import EMPTY, LabelMap, allocate
from shamon_host.domain.labels import HostName
from shamon_host.link_agent.setup import host_uplink, uplink
from shamon_host.links.desired import bridge_name
from shamon_host.links.manager import LinkManager
from shamon_host.links.model import AttachPort, CreateBridge, DeleteBridge, DetachPort, InstallGuard
from shamon_host.testing.contracts.kernel import CATEGORY, Bench, LinkKernelContract, link
from shamon_host.testing.contracts.kernel_changes import KernelChangesContract
from shamon_host.testing.contracts.kernel_limits import SaLimitsContract
from tests.unit.link_agent.divided import DividedBench
from tests.unit.link_agent.hostile import HostileMacVm
from tests.unit.links.conftest import RED, MemoryDocuments

BRIDGE = bridge_name(CATEGORY)


@pytest.fixture
def bench() -> Iterator[DividedBench]:
    made = DividedBench()
    yield made
    made.close()


class TestDividedKernel(LinkKernelContract, KernelChangesContract, SaLimitsContract):
    @pytest.fixture
    def bench(self) -> Iterator[Bench]:
        made = DividedBench()
        yield made
        made.close()


def test_a_bridge_is_joined_on_both_sides_and_its_joint_does_not_show(bench: DividedBench) -> None:
    bench.divided.apply([InstallGuard(), CreateBridge(name=BRIDGE)])
    found = bench.divided.read().bridges[BRIDGE]
    assert found.sealed
    assert found.ports == {}
    assert bench.host.read().bridges[BRIDGE].ports == {host_uplink(BRIDGE): False}
    assert bench.mac_vm.read().bridges[BRIDGE].ports == {uplink(BRIDGE): False}


@pytest.mark.parametrize("half", ["host", "mac_vm"])
def test_a_bridge_that_is_not_joined_is_not_whole_and_is_joined_again(bench: DividedBench, half: str) -> None:
    bench.divided.apply([InstallGuard(), CreateBridge(name=BRIDGE)])
    kernel, port = {"host": (bench.host, host_uplink(BRIDGE)), "mac_vm": (bench.mac_vm, uplink(BRIDGE))}[half]
    kernel.apply([DetachPort(interface=port)])
    assert not bench.divided.read().bridges[BRIDGE].sealed
    bench.divided.apply([CreateBridge(name=BRIDGE)])
    assert bench.divided.read().bridges[BRIDGE].sealed


def test_while_the_mac_vm_is_in_quarantine_the_halves_are_apart_and_nothing_joins_them(bench: DividedBench) -> None:
    bench.divided.apply([InstallGuard(), CreateBridge(name=BRIDGE)])
    bench.divided.apart = lambda: True
    assert not bench.divided.read().bridges[BRIDGE].sealed, "it is joined, and is not to be"
    bench.divided.apply([CreateBridge(name=BRIDGE)])
    found = bench.divided.read().bridges[BRIDGE]
    assert (found.sealed, found.ports) == (True, {})
    assert bench.host.read().bridges[BRIDGE].ports == {}
    bench.divided.apart = lambda: False
    assert not bench.divided.read().bridges[BRIDGE].sealed
    bench.divided.apply([CreateBridge(name=BRIDGE)])
    assert bench.host.read().bridges[BRIDGE].ports == {host_uplink(BRIDGE): False}


@pytest.mark.parametrize("half", ["host", "mac_vm"])
def test_a_half_that_is_unsealed_shows(bench: DividedBench, half: str) -> None:
    bench.divided.apply([InstallGuard(), CreateBridge(name=BRIDGE)])
    {"host": bench.host, "mac_vm": bench.mac_vm}[half].unseal(BRIDGE)
    assert not bench.divided.read().bridges[BRIDGE].sealed


def test_taps_are_ports_of_the_hosts_half_and_links_devices_of_the_other(bench: DividedBench) -> None:
    wanted = link(bench)
    bench.divided.apply([InstallGuard(), CreateBridge(name=BRIDGE)])
    bench.host.add_tap("shvm1-0", lambda _: None)
    bench.divided.apply([AttachPort(bridge=BRIDGE, interface="shvm1-0", isolated=False)])
    assert bench.divided.read().bridges[BRIDGE].ports == {"shvm1-0": False}
    assert "shvm1-0" in bench.host.read().bridges[BRIDGE].ports
    assert wanted.device not in bench.mac_vm.read().bridges[BRIDGE].ports


@pytest.mark.parametrize("half", ["host", "mac_vm"])
def test_a_stranger_in_either_half_shows_and_goes(bench: DividedBench, half: str) -> None:
    bench.divided.apply([InstallGuard(), CreateBridge(name=BRIDGE)])
    kernel = {"host": bench.host, "mac_vm": bench.mac_vm}[half]
    kernel.add_tap("eth7", lambda _: None)
    kernel.put_port(BRIDGE, "eth7")
    assert bench.divided.read().bridges[BRIDGE].ports == {"eth7": False}
    bench.divided.apply([DetachPort(interface="eth7")])
    assert bench.divided.read().bridges[BRIDGE].ports == {}


def test_a_bridge_that_goes_leaves_nobody_in_the_hosts_half(bench: DividedBench) -> None:
    bench.divided.apply([InstallGuard(), CreateBridge(name=BRIDGE)])
    bench.host.add_tap("shvm1-0", lambda _: None)
    bench.divided.apply([AttachPort(bridge=BRIDGE, interface="shvm1-0", isolated=False)])
    bench.divided.apply([DeleteBridge(name=BRIDGE)])
    assert bench.divided.read().bridges == {}
    assert bench.mac_vm.read().bridges == {}
    assert set(bench.host.read().bridges[BRIDGE].ports) <= {host_uplink(BRIDGE)}


def test_a_vm_in_the_hosts_half_alone_shows(bench: DividedBench) -> None:
    """The MAC VM was started anew and has no bridges yet."""
    bench.divided.apply([InstallGuard(), CreateBridge(name=BRIDGE)])
    bench.host.add_tap("shvm1-0", lambda _: None)
    bench.divided.apply([AttachPort(bridge=BRIDGE, interface="shvm1-0", isolated=False)])
    bench.mac_vm.apply([DeleteBridge(name=BRIDGE)])
    found = bench.divided.read().bridges[BRIDGE]
    assert (found.sealed, found.ports) == (False, {"shvm1-0": False})


def test_guard_sysctls_and_selinux_hold_only_where_both_have_them(bench: DividedBench) -> None:
    bench.divided.apply([InstallGuard()])
    assert bench.divided.read().guard
    bench.host.flush_nft()
    assert not bench.divided.read().guard
    bench.divided.apply([InstallGuard()])
    bench.host.set_sysctl("net.ipv4.ip_forward", "1")
    assert bench.divided.read().sysctls["net.ipv4.ip_forward"] == "1 on the host"
    bench.host.set_sysctl("net.ipv4.ip_forward", "0")
    bench.mac_vm.set_sysctl("net.ipv4.ip_forward", "1")
    assert bench.divided.read().sysctls["net.ipv4.ip_forward"] == "1 in the MAC VM"
    bench.mac_vm.set_enforcing(False)
    assert not bench.divided.read().selinux_enforcing


def test_a_link_in_the_hosts_own_kernel_is_foreign(bench: DividedBench) -> None:
    entry, _ = link(bench).spd_entries
    bench.divided.apply([InstallGuard()])
    bench.host.put_policy(entry)
    assert any(each.startswith("on the host: SPD entry") for each in bench.divided.read().foreign)


def test_a_port_comes_off_while_somebody_waits_for_the_mac_vm(bench: DividedBench) -> None:
    bench.divided.apply([InstallGuard(), CreateBridge(name=BRIDGE)])
    bench.host.add_tap("shvm1-0", lambda _: None)
    bench.divided.apply([AttachPort(bridge=BRIDGE, interface="shvm1-0", isolated=False)])
    silent = HostileMacVm(b" ", slow_s=3600.0)
    with silent.kernel() as kernel:
        bench.divided.mac_vm = kernel
        manager = _manager(bench, EMPTY)
        waits = threading.Thread(target=_reconcile, args=(manager,), daemon=True)
        waits.start()
        assert silent.asked.wait(10)
        cuts_off = threading.Thread(target=manager.detach_port, args=("shvm1-0",), daemon=True)
        cuts_off.start()
        cuts_off.join(10)
        assert waits.is_alive()
        assert "shvm1-0" not in bench.host.read().bridges[BRIDGE].ports
    waits.join(10)
    bench.divided.mac_vm = bench.remote


def _manager(bench: DividedBench, label_map: LabelMap) -> LinkManager:
    return LinkManager(
        host=HostName("alpha"),
        address=bench.own,
        kernel=bench.divided,
        documents=MemoryDocuments(),
        label_map=lambda: label_map,
        audit=lambda *_: None,
        boottime_s=bench.clock.boottime_s,
        boot_id="boot-1",
    )


def _reconcile(manager: LinkManager) -> None:
    with suppress(BackendFailed):
        manager.reconcile({}, {})


def test_what_is_told_of_the_mac_vm(bench: DividedBench) -> None:
    assert bench.remote.boot_id() == "boot-1"
    assert bench.remote.denials() == ("avc:  denied one",)


def test_a_mac_vm_that_is_gone_fails_every_call_and_says_so(bench: DividedBench) -> None:
    bench.divided.apply([InstallGuard()])
    bench.remote._connect = _refused
    bench.remote.close()
    with pytest.raises(BackendFailed, match="the MAC VM does not answer"):
        bench.divided.read()
    (failed,) = bench.divided.mac_vm.attempt([InstallGuard()])
    assert "does not answer" in str(failed)


@pytest.mark.parametrize("wanted", [False, True])
def test_ports_of_vms_go_and_stay_without_the_mac_vm(bench: DividedBench, *, wanted: bool) -> None:
    label_map = allocate(EMPTY, [RED], [])
    bridge = bridge_name(label_map.types[RED])
    bench.divided.apply([InstallGuard(), CreateBridge(name=bridge)])
    bench.host.add_tap("shvm1-0", lambda _: None)
    bench.divided.apply([AttachPort(bridge=bridge, interface="shvm1-0", isolated=False)])
    bench.remote._connect = _refused
    bench.remote.close()
    manager = _manager(bench, label_map)
    with pytest.raises(BackendFailed):
        manager.reconcile({}, {})
    manager.narrow(bench.divided.read_host(), {"shvm1-0": RED} if wanted else {}, {})
    assert ("shvm1-0" in bench.host.read().bridges[bridge].ports) is wanted


def _refused() -> socket.socket:
    raise ConnectionRefusedError("nobody there")
