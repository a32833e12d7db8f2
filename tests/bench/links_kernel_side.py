"""Runs inside a lab host, in the daemon's SELinux domain: measures what a kernel takes for the SAs of many links.

Each kind of work is done in turn with what iproute2 does for it, in a network namespace that whoever starts this
makes: the daemon's domain may make none. Writes the costs as JSON: for each work and baseline wall-clock seconds of one
operation, one for each round. Usage: links_kernel_side.py ROUNDS SAS OTHERS
"""

import json
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from pathlib import Path

from shamon_host.domain.labels import SelinuxContext
from shamon_host.links.linux_spd import REPLAY_WINDOW, sa_to_kernel
from shamon_host.links.linux_xfrm import LinkXfrm
from shamon_host.links.linux_xfrm_batch import XfrmBatch
from shamon_host.links.model import PORT_BLOCK_FIRST, SecurityAssociation
from shamon_host.pyxfrm.client import Xfrm

_OWN, _FIRST_PEER = "10.1.0.1", int(ip_address("10.2.0.1"))
_TYPES = 50
_AES_GCM = "rfc4106(gcm(aes))"
_LIMITS = {
    "byte-soft": "soft_bytes",
    "byte-hard": "hard_bytes",
    "packet-soft": "soft_packets",
    "packet-hard": "hard_packets",
    "time-soft": "soft_add_s",
    "time-hard": "hard_add_s",
}
"""As iproute2 calls the limits of `pyxfrm.Lifetime`."""


def main() -> None:
    rounds, count, others = (int(argument) for argument in sys.argv[1:])
    costs: dict[str, list[float]] = {}
    with Xfrm() as xfrm:
        if xfrm.counts().sas:
            raise SystemExit("there are SAs already: this is no namespace of its own")
        bench = _Bench(Path(__file__).parent, xfrm, count)
        bench.check()
        for _ in range(rounds + 1):  # the first time warms up
            for work, cost in (*bench.adding().items(), *bench.removing(others).items()):
                costs.setdefault(work, []).append(cost)
    json.dump({work: found[1:] for work, found in costs.items()}, sys.stdout)


class _Bench:
    """`count` SAs of one peer, half of them in each direction."""

    def __init__(self, directory: Path, xfrm: Xfrm, count: int) -> None:
        self.sas = _sas_of_peer(0, count)
        self.kernel_sas = [sa_to_kernel(sa) for sa in self.sas]
        self.script = directory / "batch"
        self.script.write_text("".join(map(_line, self.sas)))
        self.xfrm = xfrm
        self.links = LinkXfrm(lambda _: None)
        self.batch = XfrmBatch(xfrm)

    def check(self) -> None:
        """All ways lead to the same SAs."""
        for add in (self._add_by_links, self._add_by_batch, self._add_by_ip):
            add()
            found = {sa.id: sa for sa in self.xfrm.dump_sas()}
            if found != {sa.id: sa for sa in self.kernel_sas}:
                raise SystemExit(f"{add.__name__}: other SAs than were asked for")
            self.links.delete_sas([sa.id for sa in self.sas])
            if self.xfrm.counts().sas:
                raise SystemExit("SAs are left")

    def adding(self) -> dict[str, float]:
        """Seconds for each SA."""
        costs = {}
        for name, add in (
            ("ip -batch", self._add_by_ip),
            ("ip -batch, ip xfrm state", self._add_and_list_by_ip),
            ("links", self._add_by_links),
            ("pyxfrm", self._add_by_batch),
        ):
            costs[f"add: {name}"] = _seconds(add) / len(self.sas)
            self._expect(len(self.sas))
            self.xfrm.flush_sas()
        return costs

    def removing(self, others: int) -> dict[str, float]:
        """Seconds for all of the peer's SAs: what flushing takes where they are alone; among `others`, links' way."""
        costs = {}
        for name, flush in (("ip xfrm state flush", _flush_by_ip), ("flush, the request alone", self.xfrm.flush_sas)):
            self._add_by_batch()
            costs[f"remove: {name}"] = _seconds(flush)
            self._expect(0)
        self._add_others(others)
        self._add_by_batch()
        self._expect(others + len(self.sas))
        costs["remove: links"] = _seconds(lambda: self.links.delete_sas([sa.id for sa in self.sas]))
        self._expect(others)
        self.xfrm.flush_sas()
        return costs

    def _add_others(self, count: int) -> None:
        """So many SAs of other peers."""
        for start in range(0, count, len(self.sas)):
            sas = _sas_of_peer(1 + start // len(self.sas), min(len(self.sas), count - start))
            _none_failed(self.batch.add_sas([sa_to_kernel(sa) for sa in sas]))

    def _add_by_links(self) -> None:
        _none_failed(self.links.add_sas(self.sas))

    def _add_by_batch(self) -> None:
        _none_failed(self.batch.add_sas(self.kernel_sas))

    def _add_by_ip(self) -> None:
        _run("ip", "-batch", str(self.script))

    def _add_and_list_by_ip(self) -> None:
        """What it takes iproute2 to show them; to compare them is the caller's."""
        self._add_by_ip()
        _run("ip", "xfrm", "state")

    def _expect(self, count: int) -> None:
        if (found := self.xfrm.counts().sas) != count:
            raise SystemExit(f"{found} SAs where {count} should be")


def _flush_by_ip() -> None:
    _run("ip", "xfrm", "state", "flush")


def _sas_of_peer(number: int, count: int) -> list[SecurityAssociation]:
    peer = str(ip_address(_FIRST_PEER + number))
    return [
        SecurityAssociation(
            source=_OWN if place % 2 else peer,
            destination=peer if place % 2 else _OWN,
            spi=0x10000 + number * 0x10000 + place,
            reqid=PORT_BLOCK_FIRST + place // 2,
            context=SelinuxContext(
                user="system_u",
                role="object_r",
                type="shamon_link_t",
                categories=frozenset({1 + place // 2 % _TYPES}),
            ),
            hard_lifetime_s=86_400,
            key=secrets.token_bytes(36),
        )
        for place in range(count)
    ]


def _line(sa: SecurityAssociation) -> str:
    """The SA in the language of `ip -batch`. Its key is one of this run's, and protects nothing."""
    assert sa.key is not None
    lifetime = sa_to_kernel(sa).lifetime
    limits = {word: getattr(lifetime, name) for word, name in _LIMITS.items()}
    return (
        f"xfrm state add src {sa.source} dst {sa.destination} proto esp spi {sa.spi:#x} reqid {sa.reqid}"
        f" mode transport replay-window {REPLAY_WINDOW} flag esn aead {_AES_GCM} 0x{sa.key.hex()} 128"
        + "".join(f" limit {word} {limit}" for word, limit in limits.items() if limit is not None)
        + f" ctx {sa.context}\n"
    )


def _seconds(act: Callable[[], object]) -> float:
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def _none_failed(outcomes: Sequence[object]) -> None:
    failed = [outcome for outcome in outcomes if outcome is not None]
    if failed:
        raise SystemExit(f"{len(failed)} failed: {failed[0]}")


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}: {done.stderr.strip()[:300]}")


if __name__ == "__main__":
    main()
