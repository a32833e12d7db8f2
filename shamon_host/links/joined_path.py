"""The reports of both hosts of a link as one: each side's own stages, and between them what both must agree on."""

from dataclasses import replace

from shamon_host.domain.errors import BadInput
from shamon_host.links.agreed import words_of
from shamon_host.links.path_report import Part, PathReport, Stage, Verdict

APART_S = 10.0
"""Each handshake makes new SAs, and the earlier ones to receive with stay for a while (`rekeying.GRACE_S`): of two
reports that are no further apart, at least what the earlier one sends with is known to the later one."""


def join(own: PathReport, theirs: PathReport) -> PathReport:
    """The whole path, as a frame takes it: what must be so on both hosts, out here, over the wire, in there, and back.

    Raises BadInput when the other report is not about the other end of this link."""
    if (theirs.host, theirs.peer, theirs.type) != (own.peer, own.host, own.type):
        raise BadInput(
            "the report is about another link",
            expected=f"{own.peer} on {own.type} to {own.host}",
            found=f"{theirs.host} on {theirs.type} to {theirs.peer}",
        )
    if any(stage.host != theirs.host for stage in theirs.stages):
        raise BadInput("the report is joined already", expected=f"what {theirs.host} alone has seen")
    stages = (
        *_of(own, Part.READY),
        *_of(theirs, Part.READY),
        *_of(own, Part.TERMS),
        *_of(theirs, Part.TERMS),
        *_of(own, Part.OUT),
        _wire(own, theirs),
        *_of(theirs, Part.IN),
        *_of(theirs, Part.OUT),
        *_of(own, Part.IN),
        *_of(own, Part.REFUSED),
        *_of(theirs, Part.REFUSED),
    )
    return replace(own, stages=stages)


def _of(report: PathReport, part: Part) -> tuple[Stage, ...]:
    return tuple(stage for stage in report.stages if stage.part is part)


def _wire(own: PathReport, theirs: PathReport) -> Stage:
    """Ports and SPIs: what one side sends with, the other must have to receive with."""

    def stage(verdict: Verdict, found: str, remedy: str = "") -> Stage:
        return Stage(
            host=own.host,
            part=Part.WIRE,
            name="both ends",
            looked_at="ports and SPIs of both hosts",
            verdict=verdict,
            found=found,
            expected="the same on both hosts",
            remedy=remedy,
        )

    ours, other = own.ends, theirs.ends
    if ours is None or other is None:
        return stage(Verdict.UNKNOWN, f"{own.host if ours is None else theirs.host} has no link")
    if (ours.local_port, ours.peer_port) != (other.peer_port, other.local_port):
        pairs = (f"{ours.local_port} and {ours.peer_port}", f"{other.peer_port} and {other.local_port}")
        found = f"ports of {own.host} and {theirs.host}: {pairs[0]} here, {pairs[1]} there"
        return stage(Verdict.WRONG, found, "`shamon attest` makes them agree anew.")
    ways = (
        (own.host, ours.out_spis - other.in_spis, theirs.host),
        (theirs.host, other.out_spis - ours.in_spis, own.host),
    )
    amiss = [
        f"{sender} sends with SPI {', '.join(words_of(spis))}, which {receiver} does not have"
        for sender, spis, receiver in ways
        if spis
    ]
    apart_s = abs(own.wall_s - theirs.wall_s)
    if not amiss:
        return stage(Verdict.OK, f"ports {ours.local_port} and {ours.peer_port}, and every SPI that is sent with")
    if len(amiss) < len(ways) or apart_s > APART_S:
        again = f"a handshake may lie between the reports, which are {apart_s:.0f} s apart: make both again"
        return stage(Verdict.UNKNOWN, f"{amiss[0]}; {again}")
    return stage(Verdict.WRONG, "; ".join(amiss), "`shamon attest` makes new SAs on both.")
