"""The devices of passages: one link-local address, nothing else of IPv6, no bridge. Who reaches them the guard says
(`linux_nft`)."""

from dataclasses import replace

from shamon_host.domain.errors import BackendFailed
from shamon_host.links.desired import passage_name
from shamon_host.links.linux_devices import Devices, read_sysctl, write_sysctl
from shamon_host.links.model import Passage

PASSAGE_MTU = 1360
"""With L2TP, UDP, IP and ESP around it a frame of this size is below 1500: nothing is fragmented."""
_SYSCTLS = {"addr_gen_mode": "1", "accept_ra": "0", "autoconf": "0", "forwarding": "0", "disable_ipv6": "0"}
"""Below net/ipv6/conf/DEVICE. No address is made by itself, none is learnt."""


def set_up_passage(devices: Devices, passage: Passage) -> None:
    """Raises BackendFailed, also on a kernel without IPv6."""
    name = passage.interface
    for leaf, value in _SYSCTLS.items():
        write_sysctl(f"ipv6/conf/{name}/{leaf}", value)
    devices.set_mtu(name, PASSAGE_MTU)
    devices.set_up(name, up=True)
    device = devices.find(name)
    if device is None:
        raise BackendFailed("there is no such device", where=name)
    devices.add_address(device.index, passage.address)


def ready_passage(devices: Devices, local_port: int, peer_port: int) -> Passage:
    """The passage beside a tunnel, as its device is now."""
    name = passage_name(local_port)
    device = devices.find(name)
    found = devices.addresses_at(device.index) if device else frozenset()
    giving, taking = (
        Passage(interface=name, local_port=local_port, peer_port=peer_port, gives=gives) for gives in (True, False)
    )
    passage = giving if giving.address in found else taking
    right = device is not None and device.up and not device.master and found == {passage.address} and _as_set(name)
    return passage if right else replace(passage, whole=False)


def _as_set(name: str) -> bool:
    return all(read_sysctl(f"ipv6/conf/{name}/{leaf}") == value for leaf, value in _SYSCTLS.items())
