"""SAs and SPD entries of the links' model as values of pyxfrm, and back. Pure.

Back is strict: what was read is translated, that is translated forth again, and unless the same comes out it is none of
ours. So an entry with one field that the model does not know can never pass for one that this program made.
"""

from dataclasses import replace
from functools import lru_cache
from ipaddress import ip_address, ip_interface

from shamon_host import pyxfrm
from shamon_host.domain.errors import BadInput
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
from shamon_host.links.sa_limits import SaLimits

PROTO_UDP = 17
REPLAY_WINDOW = 256
"""Packets: more than several CPUs and queues reorder by."""
LINK_TYPE = "shamon_link_t"
SPD_TYPE = "shamon_spd_t"
_AEAD = "rfc4106(gcm(aes))"
_AEAD_KEY_BITS = 288
_DIRECTIONS = {Direction.IN: pyxfrm.Direction.IN, Direction.OUT: pyxfrm.Direction.OUT}
_MODEL_DIRECTIONS = {kernel: model for model, kernel in _DIRECTIONS.items()}
_FOREIGN_MAX = 300


def sa_id_to_kernel(sa_id: SaId) -> pyxfrm.SaId:
    return pyxfrm.SaId(destination=_ip(sa_id.destination), spi=sa_id.spi)


def sa_to_kernel(sa: SecurityAssociation) -> pyxfrm.SecurityAssociation:
    """Without a key (`sa.key` None) it is good for comparing only. Raises XfrmError for values the kernel has no room
    for."""
    algorithm = (
        pyxfrm.Algorithm(name=_AEAD, icv_bits=128, key_bits=_AEAD_KEY_BITS)
        if sa.key is None
        else pyxfrm.aes_gcm(sa.key)
    )
    return pyxfrm.SecurityAssociation(
        source=_ip(sa.source),
        destination=_ip(sa.destination),
        spi=sa.spi,
        mode=pyxfrm.Mode.TRANSPORT,
        reqid=sa.reqid,
        aead=algorithm,
        flags=pyxfrm.SaFlag.ESN,
        replay_window=REPLAY_WINDOW,
        lifetime=pyxfrm.Lifetime(
            soft_bytes=sa.limits.soft_bytes,
            hard_bytes=sa.limits.hard_bytes,
            soft_packets=sa.limits.soft_packets,
            hard_packets=sa.limits.hard_packets,
            hard_add_s=sa.hard_lifetime_s or None,
        ),
        security_context=None if sa.context is None else str(sa.context),
    )


def is_links_sa(sa: pyxfrm.SecurityAssociation) -> bool:
    """Labelled as a link's, or with a reqid of the port block; not a mere reservation."""
    context = _context(sa.security_context)
    return not sa.larval and (sa.reqid in PORT_BLOCK or (context is not None and context.type == LINK_TYPE))


def sa_from_kernel(sa: pyxfrm.SecurityAssociation) -> SecurityAssociation:
    """One that differs in anything from what this program installs is given no context: it is nobody's, and goes."""
    found = SecurityAssociation(
        source=str(sa.source),
        destination=str(sa.destination),
        spi=sa.spi,
        reqid=sa.reqid,
        context=_context(sa.security_context),
        hard_lifetime_s=sa.lifetime.hard_add_s or 0,
        limits=SaLimits(
            soft_bytes=sa.lifetime.soft_bytes,
            hard_bytes=sa.lifetime.hard_bytes,
            soft_packets=sa.lifetime.soft_packets,
            hard_packets=sa.lifetime.hard_packets,
        ),
        packets=0 if sa.usage is None else sa.usage.packets,
        bytes=0 if sa.usage is None else sa.usage.bytes,
    )
    if found.context is not None and found.hard_lifetime_s and sa_to_kernel(found) == sa:
        return found
    return replace(found, context=None)


def sa_out_of_reach(sa: pyxfrm.SecurityAssociation) -> str:
    """In words, what `DeleteSas` cannot name: another protocol, or a mark. Else empty."""
    if sa.protocol == pyxfrm.PROTO_ESP and sa.mark is None:
        return ""
    return f"SA {sa.id}{'' if sa.mark is None else f' mark {sa.mark.value:#x}/{sa.mark.mask:#x}'} reqid {sa.reqid}"


def entry_to_policy(entry: SpdEntry) -> pyxfrm.Policy:
    """Raises XfrmError for values the kernel has no room for; not for a foreign entry."""
    assert not entry.foreign
    templates: tuple[pyxfrm.Template, ...] = ()
    if not entry.block:
        templates = (
            pyxfrm.Template(
                source=_ip(entry.source) if entry.source else None,
                destination=_ip(entry.destination) if entry.destination else None,
                reqid=entry.reqid or 0,
                mode=pyxfrm.Mode.TRANSPORT,
            ),
        )
    return pyxfrm.Policy(
        selector=pyxfrm.Selector(
            source=_prefix(entry.source, entry.family),
            destination=_prefix(entry.destination, entry.family),
            protocol=PROTO_UDP,
            source_port=_port_match(entry.source_port, entry.source_port_mask),
            destination_port=_port_match(entry.destination_port, entry.destination_port_mask),
        ),
        direction=_DIRECTIONS[entry.direction],
        action=pyxfrm.Action.BLOCK if entry.block else pyxfrm.Action.ALLOW,
        priority=entry.priority,
        templates=templates,
        security_context=None if entry.context is None else str(entry.context),
    )


def entry_from_policy(policy: pyxfrm.Policy) -> SpdEntry | None:
    """The entry that a policy is; foreign if it is none that this program writes and is in the way; None if it is no
    concern of links: it cannot match a packet between two ports of the block, or only behind the guard's entries."""
    direction = _MODEL_DIRECTIONS.get(policy.direction)
    context = _context(policy.security_context)
    labelled = context is not None and context.type == SPD_TYPE
    if direction is None or not (labelled or in_the_way(policy)):
        return None
    block = policy.action == pyxfrm.Action.BLOCK
    selector = policy.selector
    entry = SpdEntry(
        direction=direction,
        family=selector.version,
        source=_address(selector.source),
        destination=_address(selector.destination),
        source_port=selector.source_port.port if selector.source_port else 0,
        source_port_mask=selector.source_port.mask if selector.source_port else 0,
        destination_port=selector.destination_port.port if selector.destination_port else 0,
        destination_port_mask=selector.destination_port.mask if selector.destination_port else 0,
        priority=policy.priority,
        block=block,
        context=context,
        reqid=None if block or not policy.templates else policy.templates[0].reqid,
    )
    return entry if _is_plain(entry) and entry_to_policy(entry) == policy else _foreign(entry, policy)


def in_the_way(policy: pyxfrm.Policy) -> bool:
    """It can match UDP between two ports of the block, before or beside the guard's entries."""
    selector = policy.selector
    return (
        policy.priority <= GUARD_PRIORITY
        and selector.protocol in (0, PROTO_UDP)
        and all(
            port is None or (port.port ^ PORT_BLOCK_FIRST) & port.mask & PORT_BLOCK_MASK == 0
            for port in (selector.source_port, selector.destination_port)
        )
    )


def policy_key(policy: pyxfrm.Policy) -> tuple[object, ...]:
    """What a notification tells a policy by: its context is not told (xfrm_notify_policy)."""
    return policy.direction, policy.selector


def socket_policy_in_words(policy: pyxfrm.Policy) -> str:
    """What a single socket has for a policy and might send past the SPD; empty for one that is not in the way."""
    of_socket = (
        pyxfrm.Direction.SOCKET_IN, pyxfrm.Direction.SOCKET_OUT, pyxfrm.Direction.SOCKET_FWD,
    )  # fmt: skip
    if policy.direction not in of_socket or not in_the_way(policy):
        return ""
    return f"policy of a socket: {_in_words(policy)}"


def _is_plain(entry: SpdEntry) -> bool:
    """A block entry, or one of a link; anything else that would translate back and forth is not ours either."""
    return entry.block != (entry.context is not None and bool(entry.reqid))


def _foreign(entry: SpdEntry, policy: pyxfrm.Policy) -> SpdEntry:
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
        foreign=_in_words(policy),
    )


def _in_words(policy: pyxfrm.Policy) -> str:
    label = f" ctx {policy.security_context}" if policy.security_context else ""
    protocols = ",".join(f"{template.protocol}:{template.reqid}" for template in policy.templates)
    text = (
        f"{policy.action.name.lower()} {policy.direction.name.lower()} {policy.selector} priority {policy.priority}"
        f" templates [{protocols}]{label} index {policy.index}"
    )
    return text if len(text) <= _FOREIGN_MAX else f"{text[: _FOREIGN_MAX - 20]}… index {policy.index}"


@lru_cache(maxsize=1024)
def _ip(text: str) -> pyxfrm.Address:
    """Addresses of peers come up thousands of times. Raises ValueError."""
    return ip_address(text)


@lru_cache(maxsize=1024)
def _context(text: str | None) -> SelinuxContext | None:
    try:
        return None if text is None else SelinuxContext.parse(text)
    except BadInput:
        return None


@lru_cache(maxsize=1024)
def _prefix(address: str, family: int) -> pyxfrm.Prefix:
    return ip_interface(address) if address else ip_interface("0.0.0.0/0" if family == 4 else "::/0")


def _address(prefix: pyxfrm.Prefix) -> str:
    if prefix.network.prefixlen == 0 and int(prefix.ip) == 0:
        return ""
    return str(prefix.ip) if prefix.network.prefixlen == prefix.max_prefixlen else str(prefix)


def _port_match(port: int, mask: int) -> pyxfrm.PortMatch | None:
    return pyxfrm.PortMatch(port=port, mask=mask) if mask else None
