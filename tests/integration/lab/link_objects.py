"""What a lab host's kernel holds for a peer, asked with iproute2 and nft: not with the product's own code."""

import json
import re

from shamon_host.testing.world import PeerObjects
from tests.integration.lab.host import LabHost

_STATE = re.compile(r"^src (?P<source>\S+) dst (?P<destination>\S+)", re.MULTILINE)
_POLICY = re.compile(r"^src (?P<source>\S+)/\d+ dst (?P<destination>\S+)/\d+ proto udp", re.MULTILINE)
_TUNNEL = re.compile(r"From (?P<local>\S+) to (?P<remote>\S+)")


def peer_objects(host: LabHost, address: str) -> PeerObjects:
    """Count the SAs, SPD entries and tunnels between this host and `address`, and look whether the gate is open."""
    text = host.run(
        "ip xfrm state; echo ---; ip xfrm policy; echo ---; ip l2tp show tunnel; echo ---; "
        "nft -j list table inet shamon || echo '{\"nftables\": []}'"
    ).stdout
    states, policies, tunnels, ruleset = text.split("---\n")
    return PeerObjects(
        gate_open=_gate_open(ruleset, address),
        sas=sum(address in match.groups() for match in _STATE.finditer(states)),
        spd_entries=sum(address in match.groups() for match in _POLICY.finditer(policies)),
        devices=sum(match["remote"] == address for match in _TUNNEL.finditer(tunnels)),
    )


def _gate_open(ruleset: str, address: str) -> bool:
    for item in json.loads(ruleset)["nftables"]:
        for element in item.get("set", {}).get("elem", []):
            value = element["elem"]["val"] if isinstance(element, dict) else element
            if value == address:
                return True
    return False
