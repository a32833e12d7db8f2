"""How long it takes to read and check a big policy."""

import json
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import replace

from shamon_host.domain import monitor
from shamon_host.domain.policy import Policy
from shamon_host.domain.policy_file import PolicyErrors, parse_canonical, parse_policy
from shamon_host.domain.policy_form import policy_bytes
from shamon_host.domain.toml_reader import MAX_FINDINGS
from tests.bench.answers import require
from tests.bench.big_policies import BigPolicy, with_mistakes
from tests.bench.measuring import Measurement, Unit, Work, measured

LOADING_S = 1.0


def loaded(policy: BigPolicy) -> Policy:
    """The policy as it is read. Raises WrongAnswer if that is not what was written."""
    found = parse_policy(policy.toml, source="the big policy")
    system = policy.system
    require("types", len(found.types), len(system.definitions))
    require("labels", len(found.vm_labels), len(system.labels))
    require("conflict sets", frozenset(found.conflict_sets.values()), system.conflict_sets)
    require("VMs", {name: (entry.label, entry.host) for name, entry in found.vms.items()}, dict(policy.vms))
    for name, label in system.labels.items():
        require(
            f"label {name}", (found.vm_labels[name].reads, found.vm_labels[name].writes), (label.reads, label.writes)
        )
    require("digest", parse_canonical(policy_bytes(found), source="its canonical form").digest, found.digest)
    return found


def loading(written: BigPolicy, policy: Policy, rounds: int) -> Iterator[Measurement]:
    """From a file, from a peer, at its installation, and with mistakes in it."""
    wrong = with_mistakes(written.toml)
    canonical = policy_bytes(policy)
    toml = _on_bytes("tomllib alone", written.toml, lambda data: tomllib.loads(data.decode()))
    plain_json = _on_bytes("json alone", canonical, json.loads)
    yield measured(
        _on_bytes("load and check a file", written.toml, lambda data: parse_policy(data, source="bench")),
        toml,
        unit=Unit.SECONDS,
        rounds=rounds,
        goal=LOADING_S,
    )
    yield measured(
        _on_bytes("find 100 mistakes in a file", wrong, _mistakes),
        _on_bytes("tomllib alone", wrong, lambda data: tomllib.loads(data.decode())),
        unit=Unit.SECONDS,
        rounds=rounds,
    )
    yield measured(
        _on_bytes("load and check the canonical form", canonical, lambda data: parse_canonical(data, source="bench")),
        plain_json,
        unit=Unit.SECONDS,
        rounds=rounds,
    )
    yield measured(
        Work(name="policy.install: check again", prepare=lambda: replace(policy), run=_install),
        plain_json,
        unit=Unit.SECONDS,
        rounds=rounds,
    )


def _on_bytes(name: str, data: bytes, run: Callable[[bytes], object]) -> Work[bytes]:
    return Work(name=name, prepare=lambda: data, run=run)


def _mistakes(data: bytes) -> None:
    try:
        parse_policy(data, source="bench")
    except PolicyErrors as error:
        require("mistakes", len(error.findings), MAX_FINDINGS)
    else:
        require("a policy with mistakes", "taken", "refused")


def _install(policy: Policy) -> None:
    require("policy.install", monitor.policy_install(policy, None, now_wall_s=0.0).permitted, True)
