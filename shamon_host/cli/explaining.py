"""What `shamon policy explain` and `shamon policy dry-run` do, apart from their parsers."""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from shamon_host.cli.operate import daemon_client
from shamon_host.cli.output import print_explanations
from shamon_host.daemon.files import read_limited
from shamon_host.daemon.policy_source import read_policy_or_envelope
from shamon_host.domain import monitor
from shamon_host.domain.errors import BadInput
from shamon_host.domain.explain import Explanation, dry_run, explain
from shamon_host.domain.labels import HostName, VmName
from shamon_host.domain.policy import Policy
from shamon_host.domain.policy_file import MAX_POLICY_BYTES
from shamon_host.domain.results import TpmKind
from shamon_host.domain.toml_positions import positions, split_path


def explained(arguments: argparse.Namespace) -> int:
    if arguments.file is None:
        query = {"one": arguments.one, "other": arguments.other}
        return _told(arguments, daemon_client(arguments).get("/v1/policy/explain", query))
    policy, _ = read_policy_or_envelope(arguments.file)
    return _told(arguments, _from_file(arguments.file, explain(policy, arguments.one, arguments.other)))


def dry_run_told(arguments: argparse.Namespace) -> int:
    vm, separator, host = arguments.what.partition("@")
    if not (vm and separator and host):
        raise BadInput("not a VM and a host", expected="VM@HOST", found=repr(arguments.what[:80]))
    if arguments.file is None:
        client = daemon_client(arguments)
        own = client.get("/v1/status")["host"]
        if own != host:
            raise BadInput(
                "the daemon of this host knows what runs here alone",
                expected=f"{vm}@{own}",
                found=arguments.what,
                remedy="Ask on that host, or ask a policy with --file.",
            )
        return _told(arguments, client.get("/v1/policy/dry-run", {"vm": vm}))
    policy, _ = read_policy_or_envelope(arguments.file)
    running = {VmName(name): policy.label_of(VmName(name)) for name in arguments.running if _known(policy, name)}
    name, place, tpm = VmName(vm), HostName(host), TpmKind(arguments.tpm)
    start = monitor.vm_start(policy, name, host=place, running=running, host_tpm=tpm)
    return _told(arguments, _from_file(arguments.file, dry_run(policy, name, place, start=[start], host_tpm=tpm)))


def _known(policy: Policy, name: str) -> bool:
    if name not in policy.vms:
        raise BadInput("the policy has no such VM", where="--running", found=name[:80])
    return True


def _from_file(path: Path, explanations: Sequence[Explanation]) -> list[dict[str, Any]]:
    """The explanations with the line of each key; 0 where the file is an envelope, which has none."""
    text = read_limited(path, 2 * MAX_POLICY_BYTES, "policy").decode("utf-8")
    places = None if text.lstrip().startswith("{") else positions(text)
    return [
        {
            **asdict(each),
            "lines": [places.line(split_path(key)) if places else 0 for key in each.keys],
        }
        for each in explanations
    ]


def _told(arguments: argparse.Namespace, answers: Sequence[dict[str, Any]]) -> int:
    return print_explanations(answers, as_json=arguments.json, file=arguments.file)
