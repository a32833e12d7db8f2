"""Everything of links in a lab host's kernel, asked with iproute2 and nft, and what of it nobody wants."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.integration.lab.host import LabHost
from tests.integration.lab.link_objects import gate_open, keyed_states, objects_in

_ASK = """
ip xfrm state; echo ---; ip xfrm policy; echo ---; ip -o link show; echo ---
for b in /sys/class/net/shbr*; do for p in $b/brif/*; do [ -e $p ] && echo $(basename $b) $(basename $p); done; done
echo ---; nft -j list table inet shamon || echo '{"nftables": []}'
"""
_DEVICE = re.compile(r"^\d+: (shbr\w+|shl2\w+)[:@]", re.MULTILINE)
_SA = re.compile(r"^\s+proto esp spi (0x[0-9a-f]+) reqid (\d+)\b", re.MULTILINE)
BLOCK_ENTRIES = 8
"""In and out, IPv4 and IPv6, either port."""
_SAS_OF_A_LINK = 2
"""In each direction: the one in use, and the one before it, which goes a while after a rekey."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """What was found; SAs are those with a key."""

    sas: Mapping[str, int]
    """SPI in hexadecimal → reqid."""
    policies: int
    """Of links: UDP, with a template."""
    blocks: int
    others: tuple[str, ...]
    """First lines of policies that are neither."""
    bridges: frozenset[str]
    tunnels: frozenset[str]
    """l2tpeth devices."""
    ports: Mapping[str, str]
    """Port → bridge."""
    gate_open: bool


def inventory(host: LabHost, peer: str) -> Inventory:
    """Ask the host. `peer`: the address of the only peer that it has."""
    return read_inventory(host.run(_ASK).stdout, peer)


def read_inventory(text: str, peer: str) -> Inventory:
    """Make sense of what the programs said."""
    states, policies, links, members, ruleset = text.split("---\n")
    entries = [block for block in objects_in(policies) if "socket " not in block]
    of_links = [block for block in entries if "proto udp" in block and "tmpl " in block and "shamon_spd_t" in block]
    blocks = [block for block in entries if "action block" in block]
    devices = frozenset(_DEVICE.findall(links))
    return Inventory(
        sas={spi: int(reqid) for block in keyed_states(states) for spi, reqid in _SA.findall(block)},
        policies=len(of_links),
        blocks=len(blocks),
        others=tuple(block.splitlines()[0] for block in entries if block not in of_links and block not in blocks),
        bridges=frozenset(name for name in devices if name.startswith("shbr")),
        tunnels=frozenset(name for name in devices if name.startswith("shl2")),
        ports={port: bridge for bridge, port in (line.split() for line in members.splitlines())},
        gate_open=gate_open(ruleset, peer),
    )


def differences(
    found: Inventory,
    links: Sequence[Mapping[str, Any]],
    taps: Collection[str],
    *,
    before: Sequence[Mapping[str, Any]] | None = None,
) -> list[str]:
    """What is missing or left over, in words; `links`: the rows of `shamon links`, asked for after `found`, and
    `before` it, should a rekey be under way meanwhile: None for the same. `taps`: of the VMs that run."""
    then, now = _sas(links if before is None else before), _sas(links)
    wanted_ports = {row["device"] for row in links} | set(taps)
    bridges = {row["bridge"] for row in links} | {found.ports[tap] for tap in taps if tap in found.ports}
    checks = {
        "SAs that nobody wants": (dict(found.sas.items() - then.items() - now.items()), {}),
        "SAs that are missing": (dict((then.items() & now.items()) - found.sas.items()), {}),
        "SPD entries of links": (found.policies, 2 * len(links)),
        "block entries": (found.blocks, BLOCK_ENTRIES),
        "other SPD entries": (found.others, ()),
        "tunnels": (set(found.tunnels), {row["device"] for row in links}),
        "bridges": (set(found.bridges), bridges),
        "ports": (set(found.ports), wanted_ports),
        "gate": (found.gate_open, bool(links)),
    }
    wrong = [f"{what}: {is_now}, not {wanted}" for what, (is_now, wanted) in checks.items() if is_now != wanted]
    wrong += [
        f"{row['device']} is in {found.ports.get(row['device'])}, not in {row['bridge']}"
        for row in links
        if found.ports.get(row["device"]) != row["bridge"]
    ]
    wrong += [
        f"{row['device']} has {len(row[way])} {way}"
        for row in links
        for way in ("in_spis", "out_spis")
        if not 1 <= len(row[way]) <= _SAS_OF_A_LINK
    ]
    return wrong


def _sas(links: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """SPI → reqid."""
    return {spi: row["local_port"] for row in links for spi in (*row["in_spis"], *row["out_spis"])}
