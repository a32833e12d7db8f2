"""After how many bytes and packets of an SA a new key is made, and after how many the kernel stops using it.

At a soft limit the kernel only tells (XFRM_MSG_EXPIRE), and a handshake brings fresh keys while the SA still carries;
the hard one is the cipher's (`domain.key_usage`), four times as far away at least, and is not meant to be met.
"""

from dataclasses import dataclass

from shamon_host.domain.key_usage import HARD_BYTES, HARD_PACKETS, REKEY_BYTES, REKEY_PACKETS


@dataclass(frozen=True, slots=True, kw_only=True)
class SaLimits:
    """None is no limit. Bytes are those of the UDP packets inside, headers of UDP included, as Linux counts them for a
    transport-mode SA (xfrm_output_one, xfrm_input)."""

    soft_bytes: int | None = None
    hard_bytes: int | None = None
    soft_packets: int | None = None
    hard_packets: int | None = None


NO_LIMITS = SaLimits()


@dataclass(frozen=True, slots=True, kw_only=True)
class RekeyAfter:
    """What one key protects before there is a new one."""

    bytes: int = REKEY_BYTES[-1]
    packets: int = REKEY_PACKETS[-1]

    def limits(self, *, inbound: bool) -> SaLimits:
        """Of an SA of this direction. Whoever sends counts first; the receiver steps in at twice as much, so that the
        two do not start a handshake in the same moment."""
        times = 2 if inbound else 1
        return SaLimits(
            soft_bytes=self.bytes * times,
            hard_bytes=HARD_BYTES,
            soft_packets=self.packets * times,
            hard_packets=HARD_PACKETS,
        )


RARELY = RekeyAfter()
"""As rarely as the cipher allows."""
