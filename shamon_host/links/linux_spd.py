"""SAs and SPD entries: between the values of the links' model and those of pyxfrm, and what is ours among them.

An entry that was read is ours only if this module, asked for it, would write exactly that; anything else that touches
the port block is foreign, and is named by the kernel's index.
"""

import errno
from collections.abc import Iterable
from ipaddress import ip_address, ip_interface

from shamon_host.domain.errors import BackendFailed, BadInput
from shamon_host.domain.labels import SelinuxContext
from shamon_host.links.model import (
    GUARD_PRIORITY,
    PORT_BLOCK,
    PORT_BLOCK_FIRST,
    PORT_BLOCK_MASK,
    Direction,
    SaId,
    SecurityAssociation,
    SpdEntry,
)
from shamon_host.pyxfrm import (
    Action,
    Lifetime,
    Policy,
    PortMatch,
    Prefix,
    SaFlag,
    Selector,
    Template,
    XfrmError,
    aes_gcm,
)
from shamon_host.pyxfrm import Direction as XfrmDirection
from shamon_host.pyxfrm import SaId as XfrmSaId
from shamon_host.pyxfrm import SecurityAssociation as XfrmSa
from shamon_host.pyxfrm.client import Xfrm

REPLAY_WINDOW = 128
"""Packets. Those of several CPUs overtake each other."""
_PROTO_UDP = 17
_EXACT = 0xFFFF
_LINK_TYPE, _SPD_TYPE = "shamon_link_t", "shamon_spd_t"
_DIRECTIONS = {Direction.IN: XfrmDirection.IN, Direction.OUT: XfrmDirection.OUT}


class LinuxSpd:
    """SAD and SPD over one netlink socket."""

    def __init__(self, xfrm: Xfrm) -> None:
        self._xfrm = xfrm

    def sas(self) -> frozenset[SecurityAssociation]:
        """Those labelled as a link's or with a reqid of the port block; larval ones left out."""
        return frozenset(
            _from_sa(sa)
            for sa in self._xfrm.dump_sas()
            if not sa.larval and (sa.reqid in PORT_BLOCK or _type(sa.security_context) == _LINK_TYPE)
        )

    def entries(self) -> frozenset[SpdEntry]:
        """Those labelled as a link's, and those that touch the port block before or beside the guard's."""
        return frozenset(
            entry
            for policy in self._xfrm.dump_policies(_may_matter)
            if (entry := _from_policy(policy)).context is not None or _in_the_way(policy)
        )

    def add_sa(self, sa: SecurityAssociation) -> None:
        """Install and read back; a larval SA with this SPI gets the key. Raises XfrmError, BackendFailed."""
        wanted = _to_sa(sa)
        try:
            self._xfrm.add_sa(wanted)
        except XfrmError as error:
            if error.errno != errno.EEXIST or not self._xfrm.get_sa(wanted.id).larval:
                raise
            self._xfrm.update_sa(wanted)
        found = self._xfrm.get_sa(wanted.id)
        if found != wanted:
            self._xfrm.delete_sa(wanted.id)
            raise BackendFailed(
                "the kernel keeps another SA than it was given",
                where=f"spi {sa.spi:#010x}",
                expected=str(sa.context),
                found=str(found.security_context),
                remedy="With SELinux off the kernel drops labels: boot with security=selinux enforcing=1.",
            )

    def delete_sas(self, ids: Iterable[SaId]) -> None:
        """In one batch; those that are gone are no failure. Raises BackendFailed."""
        failures = self._xfrm.delete_sas(XfrmSaId(destination=ip_address(sa.destination), spi=sa.spi) for sa in ids)
        if failures:
            raise BackendFailed("SAs could not be deleted", found="; ".join(map(str, failures.values()))[:500])

    def add_entry(self, entry: SpdEntry) -> None:
        """Add, or put in the place of the one with the same selector and label; read back."""
        wanted = _to_policy(entry)
        self._xfrm.update_policy(wanted)
        found = self._xfrm.get_policy(wanted.id) if wanted.security_context is None else self._find(wanted)
        if found != wanted:
            if found is not None:
                self._xfrm.delete_policy(found.index_id)
            raise BackendFailed(
                "the kernel keeps another SPD entry than it was given",
                where=str(wanted.id),
                expected=str(entry.context),
                found=str(found.security_context if found is not None else None),
                remedy="With SELinux off the kernel drops labels: boot with security=selinux enforcing=1.",
            )

    def delete_entry(self, entry: SpdEntry) -> None:
        """Delete whatever reads as this entry, by the kernel's index: another one may have taken a selector's place."""
        for policy in self._xfrm.dump_policies(_may_matter):
            if _from_policy(policy) == entry:
                self._xfrm.delete_policy(policy.index_id)

    def allocate_spi(self, *, source: str, destination: str) -> int:
        """Raises XfrmError."""
        return self._xfrm.allocate_spi(source=ip_address(source), destination=ip_address(destination)).spi

    def _find(self, wanted: Policy) -> Policy | None:
        """The policy with this selector and direction under whatever label the kernel kept."""
        same = self._xfrm.dump_policies(lambda p: (p.direction, p.selector) == (wanted.direction, wanted.selector))
        return next((policy for policy in same if policy == wanted), same[0] if same else None)


def _to_sa(sa: SecurityAssociation) -> XfrmSa:
    if sa.key is None or sa.context is None:
        raise BadInput("an SA is installed with key and label")
    return XfrmSa(
        source=ip_address(sa.source),
        destination=ip_address(sa.destination),
        spi=sa.spi,
        reqid=sa.reqid,
        aead=aes_gcm(sa.key),
        flags=SaFlag.ESN,
        replay_window=REPLAY_WINDOW,
        lifetime=Lifetime(hard_add_s=sa.hard_lifetime_s),
        security_context=str(sa.context),
    )


def _from_sa(sa: XfrmSa) -> SecurityAssociation:
    return SecurityAssociation(
        source=str(sa.source),
        destination=str(sa.destination),
        spi=sa.spi,
        reqid=sa.reqid,
        context=_context(sa.security_context),
        hard_lifetime_s=sa.lifetime.hard_add_s or 0,
        packets=sa.usage.packets if sa.usage is not None else 0,
    )


def _to_policy(entry: SpdEntry) -> Policy:
    if entry.foreign:
        raise BadInput("a foreign SPD entry is never written", found=entry.foreign)
    templates: tuple[Template, ...] = ()
    if entry.reqid is not None:
        templates = (
            Template(source=ip_address(entry.source), destination=ip_address(entry.destination), reqid=entry.reqid),
        )
    return Policy(
        selector=Selector(
            source=_prefix(entry.source, entry.family),
            destination=_prefix(entry.destination, entry.family),
            protocol=_PROTO_UDP,
            source_port=_port(entry.source_port, entry.source_port_mask),
            destination_port=_port(entry.destination_port, entry.destination_port_mask),
        ),
        direction=_DIRECTIONS[entry.direction],
        action=Action.BLOCK if entry.block else Action.ALLOW,
        priority=entry.priority,
        templates=templates,
        security_context=None if entry.context is None else str(entry.context),
    )


def _from_policy(policy: Policy) -> SpdEntry:
    """The entry as the model has it, `foreign` where the model does not say all of it."""
    selector = policy.selector
    entry = SpdEntry(
        direction=Direction.IN if policy.direction is XfrmDirection.IN else Direction.OUT,
        family=selector.version,
        source=_address(selector.source),
        destination=_address(selector.destination),
        source_port=selector.source_port.port if selector.source_port else 0,
        source_port_mask=selector.source_port.mask if selector.source_port else 0,
        destination_port=selector.destination_port.port if selector.destination_port else 0,
        destination_port_mask=selector.destination_port.mask if selector.destination_port else 0,
        priority=policy.priority,
        block=policy.action is Action.BLOCK,
        context=_context(policy.security_context),
        reqid=policy.templates[0].reqid if policy.templates else None,
    )
    return entry if _is_ours(policy, entry) else _foreign(policy, entry)


def _is_ours(policy: Policy, entry: SpdEntry) -> bool:
    """A block entry without label and template, or a labelled entry with one, and exactly as it would be written."""
    if entry.block != (entry.reqid is None) or entry.block != (entry.context is None):
        return False
    if entry.reqid is not None and not (entry.source and entry.destination):
        return False
    return _to_policy(entry) == policy


def _foreign(policy: Policy, entry: SpdEntry) -> SpdEntry:
    words = (
        f"{policy.action.name.lower()} {policy.selector} priority {policy.priority} "
        f"templates {len(policy.templates)} label {policy.security_context} index {policy.index}"
    )
    return SpdEntry(
        direction=entry.direction,
        family=entry.family,
        source=entry.source,
        destination=entry.destination,
        source_port=entry.source_port,
        source_port_mask=entry.source_port_mask,
        destination_port=entry.destination_port,
        destination_port_mask=entry.destination_port_mask,
        priority=entry.priority,
        block=entry.block,
        context=entry.context,
        reqid=entry.reqid,
        foreign=words,
    )


def _may_matter(policy: Policy) -> bool:
    return policy.direction in _DIRECTIONS.values()


def _in_the_way(policy: Policy) -> bool:
    """It matches UDP packets between two ports of the block, before or beside the guard's entries."""

    def overlaps(match: PortMatch | None) -> bool:
        return match is None or (match.port ^ PORT_BLOCK_FIRST) & match.mask & PORT_BLOCK_MASK == 0

    selector = policy.selector
    return (
        policy.priority <= GUARD_PRIORITY
        and selector.protocol in (0, _PROTO_UDP)
        and overlaps(selector.source_port)
        and overlaps(selector.destination_port)
    )


def _prefix(address: str, family: int) -> Prefix:
    if not address:
        return Selector.any(family).source
    return ip_interface(address)


def _address(prefix: Prefix) -> str:
    return str(prefix.ip) if prefix.network.prefixlen else ""


def _port(port: int, mask: int) -> PortMatch | None:
    return PortMatch(port=port, mask=mask) if mask else None


def _context(text: str | None) -> SelinuxContext | None:
    """None for none; raises BadInput for one that is not of one level, which nobody may put on an object of ours."""
    return None if text is None else SelinuxContext.parse(text)


def _type(text: str | None) -> str:
    return "" if text is None else text.split(":")[2] if text.count(":") >= 2 else ""
