"""What a lab host's kernel holds for a peer, asked with iproute2 and nft: not with the product's own code."""

import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path

from shamon_host.testing.world import PeerObjects
from tests.integration.lab.console import VmConsole
from tests.integration.lab.errors import LabError
from tests.integration.lab.host import LabHost

_STATE = re.compile(r"^src (?P<source>\S+) dst (?P<destination>\S+)", re.MULTILINE)
_POLICY = re.compile(r"^src (?P<source>\S+)/\d+ dst (?P<destination>\S+)/\d+ proto udp", re.MULTILINE)
IN_DOMAIN = "systemd-run -q --wait --pipe -p Type=exec /usr/local/sbin/lab-in-domain /opt/shamon/bin/python -c"
_FORGED_SPI = 0x0BAD0001
_ORDER = ("acme/red", "rival/blue")
"""The label map gives categories in the order of the types' names."""
_FLUSH = "from shamon_host.pyxfrm.client import Xfrm; Xfrm().flush_policies()"
_FORGE = """
import sys
from dataclasses import replace
from ipaddress import ip_address
from shamon_host import pyxfrm
from shamon_host.pyxfrm.client import Xfrm
destination, spi, like, context = sys.argv[1:]
xfrm = Xfrm()
known = next(sa for sa in xfrm.dump_sas()
             if str(sa.destination) == destination and sa.security_context == like and not sa.larval)
xfrm.add_sa(replace(known, spi=int(spi), aead=pyxfrm.aes_gcm(bytes(36)), security_context=context))
"""
_MAC_VM_HANDS = Path(__file__).with_name("mac_vm_hands.py")
_TUNNEL = re.compile(r"From (?P<local>\S+) to (?P<remote>\S+)")


def peer_objects(host: LabHost, address: str) -> PeerObjects:
    """Count the SAs, SPD entries and tunnels between this host and `address`, and look whether the gate is open."""
    if host.mac_vm:
        return PeerObjects(**json.loads(_in_mac_vm(host, "objects", address)))
    text = host.run(
        "ip xfrm state; echo ---; ip xfrm policy; echo ---; ip l2tp show tunnel; echo ---; "
        "nft -j list table inet shamon || echo '{\"nftables\": []}'"
    ).stdout
    states, policies, tunnels, ruleset = text.split("---\n")
    return PeerObjects(
        gate_open=gate_open(ruleset, address),
        sas=count_keyed(states, address),
        spd_entries=sum(address in match.groups() for match in _POLICY.finditer(policies)),
        devices=sum(match["remote"] == address for match in _TUNNEL.finditer(tunnels)),
    )


def count_keyed(states: str, address: str) -> int:
    """SAs with a key from or to `address` in the output of `ip xfrm state`.

    Larval ones have none: an SPI that is reserved, or the placeholder of an ACQUIRE. The kernel drops them after 30 s.
    """
    return sum(address in match.groups() for block in keyed_states(states) if (match := _STATE.match(block)))


def objects_in(text: str) -> list[str]:
    """The output of `ip xfrm state` or `ip xfrm policy`, one text for each object."""
    return [block for block in re.split(r"^(?=src )", text, flags=re.MULTILINE) if block.strip()]


def keyed_states(states: str) -> list[str]:
    """Those of SAs with a key, in the output of `ip xfrm state`."""
    return [block for block in objects_in(states) if "aead " in block]


def gate_open(ruleset: str, address: str) -> bool:
    """Whether the address has an element in a gate's set, in what `nft -j list table inet shamon` says."""
    for item in json.loads(ruleset)["nftables"]:
        for element in item.get("set", {}).get("elem", []):
            value = element["elem"]["val"] if isinstance(element, dict) else element
            if value == address:
                return True
    return False


def flush_policies(host: LabHost) -> None:
    """Flush the SPD by hand: outside the daemon's domain the kernel refuses even root, so it is done inside."""
    if host.mac_vm:
        _in_mac_vm(host, "flush")
        return
    refused = host.run("ip xfrm policy flush", check=False)
    if refused.status == 0:
        raise LabError("root flushed labelled SPD entries from outside the daemon's domain", where=host.name)
    host.run(f"{IN_DOMAIN} {shlex.quote(_FLUSH)}", timeout_s=120)


def send_through_wrong_category(
    *, sender: LabHost, receiver: LabHost, guests: tuple[VmConsole, str]
) -> Mapping[str, int]:
    """Send a packet of the red link through an SA that the receiver holds with the label of its blue link.

    Both daemons are stopped in their tracks meanwhile: they would remove an SA that nobody wants. `guests`: a red VM of
    the sender, and the address of a red VM of the receiver. Returns the counters of /proc/net/xfrm_stat that rose on
    the receiver, and as `avc` the polmatch denials.
    """
    console, address = guests
    daemons = (sender, receiver)
    for host in daemons:
        host.run("kill -STOP $(systemctl show -P MainPID shamon.service)")
    try:
        before = _refusals(receiver)
        _forge(receiver, receiver, like="acme/red", context="rival/blue")
        _forge(sender, receiver, like="acme/red", context="acme/red")
        console.reaches(address, timeout_s=1)
        after = _refusals(receiver)
    finally:
        for host in daemons:
            host.run("kill -CONT $(systemctl show -P MainPID shamon.service)")
    return {name: count - before.get(name, 0) for name, count in after.items() if count > before.get(name, 0)}


def _forge(host: LabHost, receiver: LabHost, *, like: str, context: str) -> None:
    """Add an SA towards the receiver with a known key, like that of one type but with the label of another."""
    if host.mac_vm:
        _in_mac_vm(
            host, "forge", receiver.ipv4, str(_FORGED_SPI), *(str(_ORDER.index(each)) for each in (like, context))
        )
        return
    known, given = _context(host, like), _context(host, context)
    arguments = shlex.join([_FORGE, receiver.ipv4, str(_FORGED_SPI), known, given])
    host.run(f"{IN_DOMAIN} {arguments}", timeout_s=120)


def _context(host: LabHost, type_name: str) -> str:
    """The label of a type's SAs on this host, as the kernel holds them: contexts are local."""
    categories = sorted(set(re.findall(r"shamon_link_t:s0:(c\d+)", host.run("ip xfrm state").stdout)))
    # The label map gives categories in the order of the types' names.
    return f"system_u:object_r:shamon_link_t:s0:{categories[0 if type_name == 'acme/red' else -1]}"


def _in_mac_vm(host: LabHost, *arguments: str) -> str:
    """What `mac_vm_hands` does on the host, and prints. As an argument, like the others: a file would be measured, and
    no Reference Value knows it."""
    arguments = (_MAC_VM_HANDS.read_text(), *arguments)
    return host.run(f"{IN_DOMAIN} {shlex.join(arguments)}", timeout_s=120).stdout


def _refusals(host: LabHost) -> dict[str, int]:
    if host.mac_vm:
        counters: dict[str, int] = json.loads(_in_mac_vm(host, "refusals"))
        return counters
    text = host.run("cat /proc/net/xfrm_stat; echo avc $(dmesg | grep -c 'denied.*polmatch')").stdout
    return {name: int(count) for name, count in (line.split() for line in text.splitlines())}
