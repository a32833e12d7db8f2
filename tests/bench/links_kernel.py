"""The part of the bench of links that asks a kernel: SAs added and removed in a lab host, against iproute2 there.

What runs in the host is `links_kernel_side`. Times are of the clock on the wall in the host, which does nothing else;
under an emulator they rank nothing, and the ratios are what counts.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.bench.answers import WrongAnswer
from tests.bench.links_parts import PartReport
from tests.bench.measuring import Measurement, Unit
from tests.integration.lab.images import host_images
from tests.integration.lab.lab import Lab

SAS, OTHERS = 1_000, 19_000
_SIDE = Path(__file__).with_name("links_kernel_side.py")
_HOME = "/run/bench-links"
_LIMIT_S = 3600.0


def measure(rounds: int) -> PartReport:
    """Boot a host, measure there. Raises WrongAnswer."""
    with Lab(host_images()) as lab:
        (host,) = lab.boot("alpha")
        host.run("systemctl stop shamon", check=False)
        host.run(f"mkdir -p {_HOME} && chcon -t shamon_var_run_t {_HOME}")
        host.put(f"{_HOME}/side.py", _SIDE)
        done = host.run(
            "systemd-run -q --wait --pipe -p Type=exec -p PrivateNetwork=yes /usr/local/sbin/lab-in-domain"
            f" /opt/shamon/bin/python {_HOME}/side.py {rounds} {SAS} {OTHERS}",
            check=False,
            timeout_s=_LIMIT_S,
        )
        if done.status != 0:
            raise WrongAnswer(f"in the lab host: {done.stderr.strip()[-500:] or done.stdout.strip()[-500:]}")
        accelerator = lab.accelerator
    return report(json.loads(done.stdout), accelerator)


def report(costs: Mapping[str, Sequence[float]], accelerator: str) -> PartReport:
    """Out of what `links_kernel_side` wrote: for each work its costs, one for each round."""
    added, flushed = "ip -batch", "ip xfrm state flush"
    measurements = (
        _measurement(costs, "add: links", f"add: {added}", "SAs added and read back, 1,000 at once", 1.0),
        _measurement(
            costs, "add: links", f"add: {added}, ip xfrm state", "  the same, against adding and listing them", None
        ),
        _measurement(costs, "add: pyxfrm", f"add: {added}", "SAs added by pyxfrm, not read back", 1.0),
        _measurement(
            costs, "remove: links", f"remove: {flushed}", f"{SAS:,} SAs of one peer removed among {SAS + OTHERS:,}", 2.0
        ),
        _measurement(
            costs, "remove: links", "remove: flush, the request alone", "  the same, less the start of a program", None
        ),
    )
    return PartReport(
        clock=f"wall-clock time in a lab host under {accelerator}",
        measurements=tuple(found.as_json() for found in measurements),
        notes=(f"The baselines that flush have the {SAS:,} SAs alone.",),
    )


def _measurement(
    costs: Mapping[str, Sequence[float]], work: str, baseline: str, name: str, ratio_goal: float | None
) -> Measurement:
    return Measurement(
        name=name,
        unit=Unit.RATE if work.startswith("add") else Unit.SECONDS,
        costs_s=tuple(costs[work]),
        baseline=baseline.partition(": ")[2],
        baseline_costs_s=tuple(costs[baseline]),
        ratio_goal=ratio_goal,
    )
