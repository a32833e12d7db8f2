"""The part of the bench of links that needs no kernel: records, plans, and what they take of memory.

A host of the full size has 200 peers with 50 types each: 10,000 links, 20,000 SAs, as many SPD entries.
"""

import resource
from collections.abc import Iterator
from dataclasses import replace

from shamon_host.domain.results import ClaimStatus
from shamon_host.links.link_book import LinkBook
from shamon_host.links.model import AddSpdEntry, CreateTunnel, DeleteSas, DeleteTunnel, KernelState, SaId
from shamon_host.links.network_state import check_network_state, encode_network_state
from shamon_host.links.planner import missing_sas, plan, teardown
from tests.bench.answers import require
from tests.bench.links_parts import PartReport
from tests.bench.many_links import ManyLinks, empty_kernel
from tests.bench.measuring import Measurement, Unit, Work, measured
from tests.bench.memory import taken

CLOCK = "CPU time of the process"


def measure(rounds: int, size: ManyLinks | None = None) -> PartReport:
    """Check every answer, then measure. Raises WrongAnswer."""
    many = size or ManyLinks()
    book = many.book()
    state = many.kernel(many.wanted(book, empty_kernel()).links)
    _check(many, book, state)
    measurements = tuple(found.as_json() for found in _measurements(many, book, state, rounds))
    links = many.wanted(book, state).links
    return PartReport(
        clock=CLOCK,
        measurements=measurements,
        memory={
            "records": taken(lambda: replace(many).records).held,
            "reading of the kernel": taken(lambda: many.kernel(links)).held,
            "what is wanted": taken(lambda: many.wanted(book, state)).held,
            "while the two are compared, at most": taken(lambda: plan(many.wanted(book, state), state)).most,
            "network state, as it is sent": len(encode_network_state(state, many.label_map)),
            "this process at most": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10,
        },
        notes=(
            f"{many.peers:,} peers with {many.types:,} types each: {many.links:,} links,"
            f" {len(state.sas):,} SAs, {len(state.spd):,} SPD entries",
        ),
    )


def _check(many: ManyLinks, book: LinkBook, state: KernelState) -> None:
    wanted, gone = many.wanted(book, state), many.records[0]
    require("SAs of the kernel", len(state.sas), 2 * many.links)
    require("a plan where nothing is to do", plan(wanted, state), ())
    require("links that lost something", missing_sas(wanted, state), ())
    added = plan(wanted, empty_kernel())
    require("tunnels to make", sum(isinstance(each, CreateTunnel) for each in added), many.links)
    require("SPD entries to add", sum(isinstance(each, AddSpdEntry) for each in added), 2 * many.links)
    removed = teardown([gone.address], state)
    require("tunnels of one peer", sum(isinstance(each, DeleteTunnel) for each in removed), many.types)
    (batch,) = (each.ids for each in removed if isinstance(each, DeleteSas))
    require("SAs of one peer, in one batch", len(batch), 2 * many.types)
    require("the claim of its network state", _claim(many, state), ClaimStatus.PASS)


def _claim(many: ManyLinks, state: KernelState) -> ClaimStatus:
    return check_network_state(encode_network_state(state, many.label_map)).status


def _measurements(many: ManyLinks, book: LinkBook, state: KernelState, rounds: int) -> Iterator[Measurement]:
    bare = Work(name="the ids of the SAs alone", prepare=lambda: state, run=lambda read: _bare(many, read))
    held = f"plan and diff, {2 * many.links:,} SAs"

    def against_bare(work: Work[KernelState], goal: float | None = None) -> Measurement:
        return measured(work, bare, unit=Unit.SECONDS, rounds=rounds, goal=goal)

    # The kernel is read anew for each comparison, so nothing of a reading may be remembered from the last one.
    links = many.wanted(book, state).links
    yield against_bare(
        Work(
            name=f"{held}, all there",
            prepare=lambda: many.kernel(links),
            run=lambda read: plan(many.wanted(book, read), read),
        ),
        goal=1.0,
    )
    yield against_bare(
        Work(name=f"{held}, none there", prepare=empty_kernel, run=lambda read: plan(many.wanted(book, read), read)),
        goal=1.0,
    )
    gone = [many.records[0].address]
    yield against_bare(
        Work(name="what one peer has of them", prepare=lambda: state, run=lambda read: teardown(gone, read))
    )
    yield against_bare(
        Work(name="which links want a rekey", prepare=lambda: state, run=lambda s: missing_sas(many.wanted(book, s), s))
    )
    yield against_bare(
        Work(
            name="the network state, written down",
            prepare=lambda: state,
            run=lambda read: encode_network_state(read, many.label_map),
        )
    )
    data = encode_network_state(state, many.label_map)
    yield against_bare(
        Work(name="the network state, judged", prepare=lambda: state, run=lambda _: check_network_state(data))
    )
    records = many.records
    yield against_bare(
        Work(
            name="a peer's record, written down",
            prepare=lambda: state,
            run=lambda _: book.remember(records[0]),
        )
    )


def _bare(many: ManyLinks, state: KernelState) -> set[SaId]:
    """What no comparison can do without: the ids of the SAs that are there, less those that were agreed on."""
    agreed = {
        SaId(destination=record.address, spi=sa.spi)
        for record in many.records
        for link in record.links.values()
        for sa in link.out_sas
    }
    return {sa.id for sa in state.sas} - agreed
