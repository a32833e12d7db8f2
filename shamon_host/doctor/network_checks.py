"""Sysctls, ports, packet filter. Pure."""

import re
from collections.abc import Collection

from shamon_host.doctor.facts import FilterChain, HostFacts, PortUser
from shamon_host.doctor.findings import Finding, Say, listed
from shamon_host.doctor.look import ROOT, not_installed, require_seen
from shamon_host.links.model import PORT_BLOCK
from shamon_host.links.network_state import SYSCTLS

_BLOCK = f"{PORT_BLOCK.start}-{PORT_BLOCK.stop - 1}"
_OURS = ("shamon", "systemd")
_MAX_RANGES = 1000


def sysctls(say: Say, facts: HostFacts) -> Finding:
    wrong, unread = [], ""
    for name, right in SYSCTLS.items():
        look = facts.network.sysctls.get(name)
        if look is None or look.value is None:
            unread = f"{name}: {(look.unread or look.bad) if look is not None else 'not looked at'}"
        elif look.value not in right:
            wrong.append(f"{name} is {look.value}")
    if wrong:
        return say.wrong(
            listed(wrong),
            expected="0 each (docs/operating.md, section 1): peers refuse a host for these",
            remedy="Set them with sysctl, and look in /etc/sysctl.d and at libvirt's networks for who sets them.",
        )
    if unread:
        return say.unknown(unread, remedy=ROOT)
    return say.ok("as peers demand")


def peer_port(say: Say, facts: HostFacts) -> Finding | None:
    """The TCP port of the peer service. Where a MAC VM holds it, it is not on this host."""
    config = facts.coalition.config.value
    if config is not None and config.mac_vm is not None:
        return None
    listening = facts.network.listening
    require_seen(say, listening, what="TCP ports")
    return _judged(say, listening.value or (), f"TCP {facts.coalition.peer_port}", "the peer service")


def link_ports(say: Say, facts: HostFacts) -> Finding:
    bound = facts.network.bound
    require_seen(say, bound, what="UDP ports")
    return _judged(say, bound.value or (), f"UDP {_BLOCK}", "links: what is in the block and has no IPsec is dropped")


def _judged(say: Say, users: Collection[PortUser], ports: str, whose: str) -> Finding:
    strange = [user for user in users if user.owner and user.owner not in _OURS]
    if strange:
        words = listed([f"{user.port} is used by {user.owner}" for user in strange], 4)
        return say.wrong(
            words,
            expected=f"{ports} for {whose}",
            remedy="Stop that program, or let it use another port.",
        )
    nobody = [str(user.port) for user in users if not user.owner]
    if nobody:
        return say.unknown(f"{ports} is used, and whose it is cannot be seen: {listed(nobody, 4)}", remedy=ROOT)
    return say.ok(f"{ports}: the daemon's" if users else f"{ports}: free")


def local_ports(say: Say, facts: HostFacts) -> Finding:
    look, reserved = facts.network.local_ports, facts.network.reserved_ports
    require_seen(say, look, reserved, what="the range of local ports")
    match = re.fullmatch(r"(\d{1,5})\s+(\d{1,5})", look.value or "")
    if match is None:
        return say.unknown(
            f"no range: {look.bad or look.value or 'nothing'}", remedy="sysctl net.ipv4.ip_local_port_range"
        )
    first, last = int(match[1]), int(match[2])
    shared = set(range(first, last + 1)) & set(PORT_BLOCK)
    if shared - _ports(reserved.value or ""):
        return say.wrong(
            f"{first}-{last}",
            expected=f"nothing of {_BLOCK}: programs would get ports there whose packets are dropped",
            remedy='Set net.ipv4.ip_local_port_range = "32768 60999" in /etc/sysctl.d, or reserve the block with '
            f"net.ipv4.ip_local_reserved_ports = {_BLOCK}.",
        )
    return say.ok(f"{first}-{last}, apart from {_BLOCK}" + (", which is reserved" if shared else ""))


def _ports(text: str) -> set[int]:
    """Of ip_local_reserved_ports: `8080,9148-9150`."""
    found: set[int] = set()
    for part in text.split(",")[:_MAX_RANGES]:
        match = re.fullmatch(r"\s*(\d{1,5})(?:-(\d{1,5}))?\s*", part)
        if match is not None:
            found.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return found & set(PORT_BLOCK)


def packet_filter(say: Say, facts: HostFacts) -> Finding:
    """What can be told without sending a packet: whether a filter is there that may be in the way."""
    chains = facts.network.chains
    if chains.unread == not_installed("nft"):
        return say.unknown(chains.unread, remedy="Install nftables: the daemon needs it too.")
    require_seen(say, chains, what="the packet filter")
    if chains.value is None:
        return say.unknown(chains.bad or "nft says nothing", remedy="Look at `nft list ruleset`.")
    needed = "ESP and its fragments, TCP of the peer service, and UDP of the link block"
    closed = [chain.name for chain in chains.value if chain.policy == "drop" and not chain.rules]
    if closed:
        return say.wrong(
            f"{listed(closed)} drops everything",
            expected=f"{needed} pass between the hosts",
            remedy="Let them pass (docs/operating.md, section 1).",
        )
    doubtful = [chain for chain in chains.value if _may_drop(chain)]
    if doubtful:
        words = [f"{chain.name} ({'names ESP' if chain.esp else 'does not name ESP'})" for chain in doubtful]
        return say.warning(
            f"may drop what hosts send each other: {listed(words, 4)}",
            expected=f"{needed} pass",
            remedy="Look at `nft list ruleset`, and let them pass (docs/operating.md, section 1).",
        )
    return say.ok("no filter of this host is in the way" if not chains.value else "its chains drop nothing")


def _may_drop(chain: FilterChain) -> bool:
    return chain.policy == "drop" or chain.drops


def address(say: Say, facts: HostFacts) -> Finding | None:
    """The policy's address of this host is on one of its interfaces."""
    config, own = facts.coalition.config.value, facts.coalition.own
    if config is None or own is None or config.mac_vm is not None:
        return None
    found = facts.network.addresses
    require_seen(say, found, what="this host's addresses")
    if own.address not in (found.value or frozenset()):
        return say.wrong(
            f"no interface has {own.address}",
            expected=f"{own.address}, as the policy says of {own.name}",
            remedy="Give the interface that address, or sign a policy with another one.",
        )
    return say.ok(own.address)
