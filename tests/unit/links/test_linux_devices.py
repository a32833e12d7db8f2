"""Devices as the kernel tells of them, sysctls as a host's files have them, and labels only where SELinux enforces."""

import socket
import struct
from pathlib import Path

import pytest

from shamon_host.domain.errors import BackendFailed
from shamon_host.domain.labels import SelinuxContext
from shamon_host.links import linux_devices, linux_labelled_socket
from shamon_host.links.linux_bridge_settings import PORT_SETTINGS, right_settings
from shamon_host.links.linux_devices import IFINFO, Device, device_of, read_sysctls, write_sysctl
from shamon_host.links.linux_labelled_socket import is_socket_of, open_link_socket, read_label
from shamon_host.links.linux_netlink import NetlinkError, pack_number, pack_text
from shamon_host.links.linux_selinux import LinkConditions
from shamon_host.links.model import Tunnel
from shamon_host.pyxfrm.attributes import pack_attribute
from shamon_host.selinux.selinuxfs import SelinuxFs

TUNNEL = Tunnel(
    interface="shl21",
    local="127.0.0.1",
    remote="127.0.0.1",
    local_port=0x6001,
    peer_port=0x6002,
    context=SelinuxContext(user="system_u", role="object_r", type="shamon_link_t", categories=frozenset({7})),
)


def test_a_port_of_a_bridge() -> None:
    slave = pack_text(4, "bridge") + pack_attribute(5, pack_number(33, 1, 1))
    body = IFINFO.pack(0, 0, 9, 1, 0) + pack_text(3, "shl21") + pack_number(10, 4, 4) + pack_attribute(18, slave)
    assert device_of(body) == Device(index=9, name="shl21", kind="", up=True, master=4, isolated=True)


def test_a_bridge() -> None:
    data = pack_number(5, 1, 4) + pack_number(23, 1, 1)
    info = pack_text(1, "bridge") + pack_attribute(2, data)
    found = device_of(IFINFO.pack(0, 0, 4, 0, 0) + pack_text(3, "shbr7") + pack_attribute(18, info))
    assert (found.kind, found.up, found.isolated) == ("bridge", False, None)
    assert found.faults == ("spanning tree is 1", "multicast snooping is 1")


def test_what_is_set_otherwise_in_a_port_is_named() -> None:
    right = b"".join(
        pack_number(each.kind, each.right, each.size) for each in PORT_SETTINGS if each.name != "backup port"
    )
    for setting in PORT_SETTINGS:
        wrong = pack_number(setting.kind, setting.right ^ 1, setting.size)
        for told, faults in ((right, ()), (right + wrong, (f"{setting.name} is {setting.right ^ 1}",))):
            slave = pack_text(4, "bridge") + pack_attribute(5, told)
            body = (
                IFINFO.pack(0, 0, 9, 1, 0) + pack_text(3, "shl21") + pack_number(10, 4, 4) + pack_attribute(18, slave)
            )
            assert device_of(body).faults == faults


def test_what_puts_right_what_is_wrong_is_that_alone() -> None:
    assert right_settings(PORT_SETTINGS, ("hairpin is 1", "learning is 0", "MTU is 1400")) == (
        pack_number(4, 0, 1) + pack_number(8, 1, 1)
    )


def test_the_mtu_of_a_port_counts_and_of_no_other_device() -> None:
    slave = pack_text(4, "bridge") + pack_attribute(5, b"")
    device = IFINFO.pack(0, 0, 9, 1, 0) + pack_text(3, "shl21") + pack_number(4, 1412, 4)
    assert device_of(device + pack_attribute(18, slave)).faults == ("MTU is 1412",)
    assert device_of(device).faults == ()


@pytest.mark.parametrize("body", [b"", bytes(15), IFINFO.pack(0, 0, 1, 0, 0) + b"\xff\x00\x03\x00"])
def test_what_cannot_be_understood_is_an_error(body: bytes) -> None:
    with pytest.raises(NetlinkError):
        device_of(body)


@pytest.fixture
def sysctls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(linux_devices, "_SYSCTL", tmp_path)
    for interface, value in (("all", "0"), ("default", "0"), ("lo", "1"), ("wire0", "0")):
        (tmp_path / "ipv4/conf" / interface).mkdir(parents=True)
        (tmp_path / "ipv4/conf" / interface / "disable_policy").write_text(f"{value}\n")
    return tmp_path


def test_a_sysctl_of_every_interface(sysctls: Path) -> None:
    """lo does not count; another value is named with its interface; what is not there is absent."""
    name = "net.ipv4.conf.*.disable_policy"
    assert read_sysctls(name) == "0"
    (sysctls / "ipv4/conf/wire0/disable_policy").write_text("1\n")
    assert read_sysctls(name) == "1 at wire0"
    assert read_sysctls("net.ipv4.conf.*.disable_xfrm") == "absent"
    assert read_sysctls("net.ipv6.conf.*.disable_policy") == "absent"
    assert read_sysctls("net.bridge.bridge-nf-call-iptables") == "absent"


def test_a_sysctl_that_cannot_be_set(sysctls: Path) -> None:
    write_sysctl("ipv4/conf/wire0/disable_policy", "1")
    assert read_sysctls("net.ipv4.conf.wire0.disable_policy") == "1"
    with pytest.raises(BackendFailed, match="cannot be set"):
        write_sysctl("ipv4/conf/wire0", "1")


@pytest.mark.parametrize("content", [struct.pack("=5I", 1, 2, 0, 1, 0), b"", b"1", None])
def test_no_labelled_socket_without_selinux(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Permissive, unreadable, or not there at all."""
    if content is not None:
        (tmp_path / "status").write_bytes(content)
    monkeypatch.setattr(linux_labelled_socket, "LINK_CONDITIONS", LinkConditions(SelinuxFs(tmp_path)))
    with pytest.raises(BackendFailed, match="not enforcing"):
        open_link_socket(TUNNEL)


def test_a_socket_that_is_none_of_the_tunnels() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        assert not is_socket_of(other, TUNNEL)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        assert not is_socket_of(other, TUNNEL)
        assert read_label(10**6) is None
