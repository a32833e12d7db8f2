"""Run on a lab host by root: the product's daemon, bent to answer every handshake with the first Evidence it made.

This is what a host does that wants to hide what it runs: it quotes once, while it is clean, and then repeats itself.
"""

import sys

from shamon_host.attestation.attester import Attester
from shamon_host.attestation.evidence import Evidence
from shamon_host.cli.main import main
from shamon_host.links.manager import LinkManager

_honest = Attester.evidence
_kept: list[Evidence] = []


async def _evidence(self, **fields):  # type: ignore[no-untyped-def]
    if not _kept:
        _kept.append(await _honest(self, **fields))
    return _kept[0]


Attester.evidence = _evidence  # type: ignore[method-assign]
# Root is not in the daemon's SELinux domain, so it may not use the labels of links.
LinkManager.offer = lambda *_: ()  # type: ignore[method-assign]
sys.exit(main(["daemon", "--config", "/etc/shamon/host.toml"]))
