"""From a look at one host to what is wrong with a link, if anything: pure. `shamon link doctor` shows it.

First whether there is to be a link, then the way of a frame in its own order, out and in, then what the kernel refused.
So the first stage that is wrong is the one to look at: what comes after it may only follow from it. A stage that could
not be looked at is unknown, never ok.
"""

from dataclasses import replace

from shamon_host.links.doctor_facts import Facts
from shamon_host.links.doctor_path import incoming, outgoing
from shamon_host.links.doctor_terms import TERMS
from shamon_host.links.path_report import MAX_TEXT, LinkEnds, PathReport, Stage, Verdict
from shamon_host.links.refusals import refused


def diagnose(facts: Facts) -> PathReport:
    """Every stage of a link on this host, in order."""
    link = facts.after.link
    ends = None
    if link is not None:
        ends = LinkEnds(
            local_port=link.local_port,
            peer_port=link.peer_port,
            in_spis=link.in_spis,
            out_spis=link.out_spis,
        )
    earlier = {
        (stage.part, stage.name): stage.found
        for stage in _stages(replace(facts, after=facts.before))
        if stage.verdict is Verdict.WRONG
    }
    return PathReport(
        host=facts.host,
        peer=facts.peer,
        type=facts.type,
        context=str(facts.label_map.link_context(facts.type)) if facts.type in facts.label_map.types else "",
        vm=facts.vm,
        wall_s=facts.wall_s,
        interval_s=facts.interval_s,
        ends=ends,
        stages=tuple(_with_what_was(stage, earlier.get((stage.part, stage.name))) for stage in _stages(facts)),
    )


def _stages(facts: Facts) -> tuple[Stage, ...]:
    return (*(judge(facts) for judge in TERMS), *outgoing(facts), *incoming(facts), refused(facts))


def _with_what_was(stage: Stage, wrong_before: str | None) -> Stage:
    """Something that was put right between the two looks is ok, and told."""
    if stage.verdict is not Verdict.OK or not wrong_before:
        return stage
    return replace(stage, found=f"{stage.found}; repaired just now: {wrong_before}"[:MAX_TEXT])
