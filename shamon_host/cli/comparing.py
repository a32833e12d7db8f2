"""What `shamon policy compatible` and `shamon policy adapt` do, apart from their parsers."""

import argparse
from typing import Any

from shamon_host.cli.output import print_json, printable, write_new
from shamon_host.daemon.policy_source import read_policy_or_envelope
from shamon_host.domain.adaptation import Adaptation, adapt
from shamon_host.domain.adapted_policy import adapted_policy
from shamon_host.domain.additions import Addition
from shamon_host.domain.compatibility import Answer, compatibility
from shamon_host.domain.errors import BadInput
from shamon_host.domain.flows import flow_system
from shamon_host.domain.labels import HostName, TypeName, type_name
from shamon_host.domain.policy import Policy
from shamon_host.interchange.policy_toml import policy_toml


def compatible(arguments: argparse.Namespace) -> int:
    own, peer = _read(arguments)
    answers = compatibility(flow_system(own), flow_system(peer)).answers()
    if arguments.json:
        print_json({name: _answer(answer) for name, answer in sorted(answers.items())})
    else:
        for name, answer in sorted(answers.items()):
            print(f"shared      {printable(name)}" if answer.shareable else f"not shared  {printable(str(answer))}")
    return 0 if any(answer.shareable for answer in answers.values()) else 1


def adapted(arguments: argparse.Namespace) -> int:
    own, peer = _read(arguments)
    wanted = [type_name(name) for name in arguments.types] or sorted(own.types & peer.types)
    if not wanted:
        raise BadInput("the policies have no type in common", expected="--type TYPE, a type to share")
    adaptation = adapt(flow_system(own), flow_system(peer), wanted)
    if arguments.out is not None and adaptation.possible:
        _write(arguments, own, peer, adaptation)
    if arguments.json:
        print_json(_adaptation(adaptation))
    elif not adaptation.possible:
        print(f"no addition to {printable(arguments.own)} lets {', '.join(map(printable, wanted))} be shared")
        print(f"  {printable(str(adaptation.obstacle))}")
    else:
        _print_additions(own, peer, adaptation)
        if arguments.out is not None:
            print(f"written: {printable(arguments.out)}, to be signed with `shamon policy sign`")
    return 0 if adaptation.possible else 1


def _print_additions(own: Policy, peer: Policy, adaptation: Adaptation) -> None:
    if not adaptation.additions:
        print("nothing has to be added")
        return
    for addition in adaptation.additions:
        print(f"+ {printable(str(addition))}")
        for kind, flows in (("permits", addition.flows), ("releases", addition.releases)):
            for source, target in flows:
                print(f"    {kind} {printable(source)} -> {printable(target)}")
        print(f"    to be signed by {', '.join(_signers(own, peer, addition)) or 'the coalition alone'}")
    count = len(adaptation.additions)
    print(f"{count} addition{'s' if count > 1 else ''}, {adaptation.minimality}: {_MINIMAL[adaptation.minimality]}")


_MINIMAL = {
    "smallest": "no adaptation has fewer",
    "minimal": "none of them can be left out; another choice may have fewer",
}


def _signers(own: Policy, peer: Policy, addition: Addition) -> list[str]:
    """The organisations that own the types which an addition is about."""
    found = set()
    for name in addition.signers:
        organisation = own.organisation_of(name) or peer.organisation_of(name)
        if organisation is not None:
            found.add(organisation.name)
    return sorted(found)


def _write(arguments: argparse.Namespace, own: Policy, peer: Policy, adaptation: Adaptation) -> None:
    policy = adapted_policy(own, peer, adaptation, [HostName(host) for host in arguments.hosts])
    comment = f"Version {policy.version} of {policy.coalition}: made so that it may share with {arguments.peer.name}"
    write_new(arguments.out, policy_toml(policy, comment=comment))


def _read(arguments: argparse.Namespace) -> tuple[Policy, Policy]:
    return read_policy_or_envelope(arguments.own)[0], read_policy_or_envelope(arguments.peer)[0]


def _answer(answer: Answer) -> dict[str, Any]:
    return {
        "shared": answer.shareable,
        "reason": None if answer.reason is None else answer.reason.value,
        "denied_by": None if answer.denied_by is None else answer.denied_by.value,
        "fields": list(answer.fields),
        "witness": [
            {"from": step.source, "label": step.label, "side": str(step.side), "to": step.target}
            for step in answer.witness
        ],
        "words": str(answer),
    }


def _adaptation(adaptation: Adaptation) -> dict[str, Any]:
    def flows(pairs: tuple[tuple[TypeName, TypeName], ...]) -> list[dict[str, str]]:
        return [{"from": source, "to": target} for source, target in pairs]

    return {
        "possible": adaptation.possible,
        "obstacle": None if adaptation.obstacle is None else _answer(adaptation.obstacle),
        "minimality": adaptation.minimality.value,
        "additions": [
            {
                "add": str(addition),
                "permits": flows(addition.flows),
                "releases": flows(addition.releases),
                "signers": sorted(addition.signers),
            }
            for addition in adaptation.additions
        ],
    }
