"""What an SA may have beside keys and limits: encapsulation for NAT, hardware offload, IP-TFS."""

from dataclasses import dataclass

from .constants import EncapsulationType, OffloadFlag
from .values import Address, in_range


@dataclass(frozen=True, slots=True, kw_only=True)
class Encapsulation:
    """ESP inside UDP or TCP, to pass NAT (RFC 3948, RFC 8229): struct xfrm_encap_tmpl.

    Packets leave from `source_port`. `original_address` is the one before the NAT, None if that is not known.
    """

    source_port: int
    destination_port: int
    type: EncapsulationType = EncapsulationType.ESPINUDP
    original_address: Address | None = None

    def __post_init__(self) -> None:
        in_range("encapsulation", "source port", self.source_port, 0xFFFF)
        in_range("encapsulation", "destination port", self.destination_port, 0xFFFF)


@dataclass(frozen=True, slots=True, kw_only=True)
class Offload:
    """Done by a network device: struct xfrm_user_offload."""

    interface_index: int
    flags: OffloadFlag = OffloadFlag.NONE

    def __post_init__(self) -> None:
        in_range("offload", "interface index", self.interface_index, 2**31 - 1)
        in_range("offload", "flags", self.flags, 0xFF)


@dataclass(frozen=True, slots=True, kw_only=True)
class IpTfs:
    """Options of Mode.IPTFS (RFC 9347, Linux 6.14). None: the kernel's own (net.core.xfrm_iptfs_*), which it reports
    as numbers. `drop_time_us` and `reorder_window` are for the receiving SA, the others for the sending one."""

    drop_time_us: int | None = None
    reorder_window: int | None = None
    dont_fragment: bool = False
    init_delay_us: int | None = None
    max_queue_bytes: int | None = None
    packet_bytes: int | None = None
    """Size of each outer packet, 0 for the path's MTU."""

    def __post_init__(self) -> None:
        for name, last in (
            ("drop_time_us", 2**32 - 1),
            ("reorder_window", 2**16 - 1),
            ("init_delay_us", 2**32 - 1),
            ("max_queue_bytes", 2**32 - 1),
            ("packet_bytes", 2**32 - 1),
        ):
            if (value := getattr(self, name)) is not None:
                in_range("IP-TFS", name, value, last)
