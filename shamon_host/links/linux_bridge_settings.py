"""How type bridges and their ports are set, setting by setting, and what differs from that in what the kernel tells.

A bridge here does no more than pass frames on: no spanning tree, no VLANs, no answers in others' names. Each setting
that could change where frames go is looked at, whoever changed it. Source: include/uapi/linux/if_link.h.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from shamon_host.links.linux_netlink import number_of, pack_number

MTU = 1500
"""Of bridges, link devices and taps: what a VM expects of an Ethernet."""
ISOLATED = 33
_BACKUP_PORT = 34


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One attribute, the value that it has here, and its size in bytes."""

    name: str
    kind: int
    right: int
    size: int = 1


PORT_SETTINGS = (
    Setting(name="hairpin", kind=4, right=0),
    Setting(name="BPDU guard", kind=5, right=0),
    Setting(name="root block", kind=6, right=0),
    Setting(name="learning", kind=8, right=1),
    Setting(name="flooding", kind=9, right=1),
    Setting(name="proxy ARP", kind=10, right=0),
    Setting(name="proxy ARP for Wi-Fi", kind=12, right=0),
    Setting(name="multicast flooding", kind=27, right=1),
    Setting(name="multicast to unicast", kind=28, right=0),
    Setting(name="VLAN tunnel", kind=29, right=0),
    Setting(name="broadcast flooding", kind=30, right=1),
    Setting(name="group forwarding", kind=31, right=0, size=2),
    Setting(name="neighbour suppression", kind=32, right=0),
    Setting(name="backup port", kind=_BACKUP_PORT, right=0, size=4),
    Setting(name="locked", kind=39, right=0),
    Setting(name="MAC authentication bypass", kind=40, right=0),
)
"""All but `ISOLATED`, which differs from port to port. Loops and duplicates (hairpin), frames to fewer ports or more,
and answers of the host's own to ARP and neighbour solicitations."""
BRIDGE_SETTINGS = (
    Setting(name="spanning tree", kind=5, right=0, size=4),
    Setting(name="VLAN filtering", kind=7, right=0),
    Setting(name="group forwarding", kind=9, right=0, size=2),
    Setting(name="multicast snooping", kind=23, right=0),
    Setting(name="multicast querier", kind=25, right=0),
    Setting(name="iptables", kind=36, right=0),
    Setting(name="ip6tables", kind=37, right=0),
    Setting(name="arptables", kind=38, right=0),
)


def differing(settings: tuple[Setting, ...], told: Mapping[int, bytes]) -> Iterator[tuple[Setting, int]]:
    """Settings that are told with another value than the right one, and the value. What a kernel does not tell of it
    does not have."""
    for setting in settings:
        if setting.kind in told and (value := number_of(told[setting.kind])) != setting.right:
            yield setting, value


def faults_of(settings: tuple[Setting, ...], told: Mapping[int, bytes]) -> tuple[str, ...]:
    """In words: `hairpin is 1`."""
    return tuple(f"{setting.name} is {value}" for setting, value in differing(settings, told))


def right_settings(settings: tuple[Setting, ...], faults: tuple[str, ...]) -> bytes:
    """Attributes that put right what `faults_of` found."""
    wrong = {fault.rpartition(" is ")[0] for fault in faults}
    return b"".join(
        pack_number(setting.kind, setting.right, setting.size) for setting in settings if setting.name in wrong
    )
