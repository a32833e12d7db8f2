"""From the SAs of one handshake to those of the next, so that no packet is lost: which stay, and for how long. Pure.

A host receives under every key that its peer may still send with, and sends with the newest that its peer receives
under. New receiving SAs are there before anybody sends; after that each side switches when it hears that the other one
has them. What is superseded stays for a while: the receiving SA because packets are under way, or because the peer has
not switched (its last message may be lost); the sending one because a packet may have chosen it and not passed it yet
(xfrm_output_one drops a packet whose SA has been deleted since).
"""

from collections.abc import Iterable
from dataclasses import replace

from shamon_host.links.link_records import LinkRecord, PeerRecord, SaRecord

GRACE_S = 10.0
"""How long a superseded receiving SA stays at least: packets under way, and a peer that has not switched yet."""
SWITCH_S = 1.0
"""How long a superseded sending SA stays at least. The kernel sends with the newest one (xfrm_state_look_at)."""
MAX_SAS = 16
"""Of one link and direction. One rekey a second, for a grace period and a half, fits in."""


def receiving(link: LinkRecord | None, following: LinkRecord) -> LinkRecord:
    """`following`, with the one new receiving SA of a handshake, behind what there is of the link."""
    if link is None:
        return following
    return replace(
        following,
        in_sas=_newest((*link.in_sas, *following.in_sas)),
        out_sas=link.out_sas,
        attached=link.attached,
    )


def switched(link: LinkRecord, *, in_spi: int, sending: SaRecord, now_s: float, grace_s: float) -> LinkRecord:
    """The link once this side sends with `sending`: whatever is neither that nor under `in_spi` is superseded."""
    in_sas = (sa if sa.spi == in_spi else _superseded(sa, now_s + grace_s) for sa in link.in_sas)
    out_sas = (_superseded(sa, now_s + SWITCH_S) for sa in link.out_sas)
    return replace(link, in_sas=tuple(in_sas), out_sas=_newest((*out_sas, sending)), attached=True)


def perhaps_in_use(record: PeerRecord, in_spis: Iterable[int]) -> frozenset[int]:
    """Of the receiving SAs of a handshake whose last answer did not come, those of links that carried before it: the
    peer may have switched to them. They stay until the next handshake, or their lifetime, ends them; the gate is that
    of the lease in force."""
    wanted = frozenset(in_spis)
    return frozenset(
        sa.spi for link in record.links.values() if link.attached for sa in link.in_sas if sa.spi in wanted
    )


def _superseded(sa: SaRecord, until_s: float) -> SaRecord:
    return sa if sa.retire_s is not None else replace(sa, retire_s=until_s)


def _newest(sas: tuple[SaRecord, ...]) -> tuple[SaRecord, ...]:
    """At most MAX_SAS: those that would go first are left out, never the last one. One through which packets come is
    put off each time (`LinkBook.retire`), so it is not among them."""
    surplus = len(sas) - MAX_SAS
    if surplus <= 0:
        return sas
    by_end = sorted(sas[:-1], key=lambda sa: (sa.retire_s is None, sa.retire_s or 0.0, sa.expires_s))
    gone = {sa.spi for sa in by_end[:surplus]}
    return tuple(sa for sa in sas if sa.spi not in gone)
