"""A labelled link between the bench's two hosts, made by the product's own code in the daemon's domain on each: planner
and kernel adapter, see `tests.integration.links.link_probe`."""

import secrets
from typing import Any

from tests.bench.answers import WrongAnswer
from tests.bench.throughput_paths import TAP
from tests.integration.lab.host import LabHost
from tests.integration.links.probe import Probe

NAME = "a labelled link"
_ENOUGH = 100
_RECEIVING = """
from dataclasses import replace
from shamon_host.domain.labels import HostName, SelinuxContext, TypeName
from shamon_host.links.planner import plan

def context(kind):
    return SelinuxContext(user="system_u", role="object_r", type=kind, categories=frozenset({{7}}))

link = DesiredLink(
    peer=HostName("{peer}"), type=TypeName("acme/red"), local="{local}", remote="{remote}",
    local_port=min(PORT_BLOCK), peer_port=min(PORT_BLOCK), bridge=bridge_name(7),
    link_context=context("shamon_link_t"), spd_context=context("shamon_spd_t"),
)
in_spi = kernel.allocate_spi(source=link.remote, destination=link.local)
link = replace(link, in_spis=frozenset({{in_spi}}))
sa = link.sa(inbound=True, spi=in_spi, key=bytes.fromhex("{key}"), lifetime_s=3600)
desired = DesiredState(links=(replace(link, new_sas=(sa,)),), bridges=frozenset({{link.bridge}}))
kernel.apply(plan(desired, kernel.read()))
answer = in_spi
"""
_SENDING = """
link = replace(link, out_spis=frozenset({{ {spi} }}), attached=True)
sa = link.sa(inbound=False, spi={spi}, key=bytes.fromhex("{key}"), lifetime_s=3600)
desired = DesiredState(
    links=(replace(link, new_sas=(sa,)),), bridges=frozenset({{link.bridge}}), taps={{"{tap}": link.bridge}},
    gate={{link.remote: 3600.0}}, opening={{link.remote: 3600.0}},
)
kernel.apply(plan(desired, kernel.read()))
left = plan(replace(desired, links=(link,), opening={{}}), kernel.read())
answer = [repr(operation) for operation in left]
"""
_REMOVED = """
from shamon_host.links.planner import plan
kernel.apply(plan(DesiredState(taps={}), kernel.read()))
kernel.apply([DeleteSpdEntry(entry=entry) for entry in kernel.read().spd])
state = kernel.read()
answer = [len(state.sas), len(state.spd), len(state.tunnels), len(state.bridges)]
"""
_CARRIED = "answer = min(sa.packets for sa in kernel.read().sas)"
_GUARD_GONE = "nft delete table inet shamon; nft delete table bridge shamon"


class LabelledLink:
    """Made anew for each round: a key is installed once."""

    def __init__(self, hosts: tuple[LabHost, LabHost]) -> None:
        self.probes = {host.number: Probe(host=host) for host in hosts}

    def start(self) -> None:
        for probe in self.probes.values():
            probe.start()

    def up(self) -> None:
        """Guard, SPD entries, receiving sides; then sending sides, ports and gates, as after a handshake."""
        keys = {number: secrets.token_bytes(36).hex() for number in self.probes}
        spis: dict[int, Any] = {}
        for number, probe in self.probes.items():
            peer = self.probes[3 - number].host
            spis[number] = probe.ask(
                _RECEIVING.format(peer=peer.name, local=probe.host.ipv4, remote=peer.ipv4, key=keys[number])
            )
        for number, probe in self.probes.items():
            left = probe.ask(_SENDING.format(spi=spis[3 - number], key=keys[3 - number], tap=TAP))
            if left:
                raise WrongAnswer(f"the link is not as it was planned: {left}")

    def check(self) -> None:
        """It did carry what was measured. Raises WrongAnswer."""
        for probe in self.probes.values():
            if (packets := probe.ask(_CARRIED)) < _ENOUGH:
                raise WrongAnswer(f"an SA of the link carried {packets} packets")

    def down(self) -> None:
        """Without a trace, the guard too: the other paths pay nothing for it."""
        for probe in self.probes.values():
            if (left := probe.ask(_REMOVED)) != [0, 0, 0, 0]:
                raise WrongAnswer(f"of the link was left: {left}")
            probe.host.run(_GUARD_GONE)
