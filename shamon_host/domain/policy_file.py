"""From the bytes of a policy file (TOML) to a `Policy`, or to everything that is wrong with them at once.

Two passes: here, what a key may be called and hold; in `consistency`, whether what was read hangs together. A mistake
is told once: what could not be read is not complained about again by the second pass.

    types = ["acme/red", "rival/blue"]        # or [types."acme/red"] on_failure = "keep" | "suspend" | "replace"

    [coalition]                               # name, version; from version 2 on parent = digest of the one before
    [labels.NAME]                             # types: the label of VMs
    [resources.NAME]                          # types: the label of a disk or network
    [conflicts.NAME]                          # types that never run at the same time on one host
    [hosts.NAME]                              # address, types; port (7443)
    [images.NAME]                             # sha256 of the clean image
    [vms.NAME]                                # label, image, host; resources
    [intervals]                               # period_s, lease_s, margin_s, timeout_s, action_delay_s
    [demands]                                 # allow_software_tpm, empty_pcrs
"""

import re
import tomllib
from collections.abc import Sequence
from itertools import islice
from typing import Any

from shamon_host.domain.consistency import Finding, inconsistencies
from shamon_host.domain.errors import BadInput
from shamon_host.domain.labels import HostName, ResourceLabel, TypeName, VmLabel, VmName
from shamon_host.domain.policy import (
    Demands,
    FailureAction,
    HostEntry,
    Intervals,
    PinnedImage,
    Policy,
    VmEntry,
)
from shamon_host.domain.policy_form import with_digest
from shamon_host.domain.toml_reader import MAX_FINDINGS, Reader

MAX_POLICY_BYTES = 4 << 20
MAX_DOTS_IN_LINE = 200
"""The time that a TOML parser takes grows with the square of a dotted key's length."""
DEFAULT_PORT = 7443
_SECTIONS = {
    "unknown type": "types",
    "unknown label": "labels",
    "unknown image": "images",
    "unknown host": "hosts",
    "unknown resource": "resources",
}
"""What `consistency` says of a name that is not there, and the section where it should be."""
_POSITION = re.compile(r"(?P<what>.*) \(at line (?P<line>\d+), column (?P<column>\d+)\)", re.DOTALL)
_HEADER = re.compile(r"\s*\[\s*(?P<name>[^\[\]]+?)\s*\]")
_KEY = re.compile(r"\s*(?P<name>[^=\s][^=]*?)\s*=")


class PolicyErrors(BadInput):
    """Everything that is wrong with a policy; `findings` one by one."""

    def __init__(self, source: str, findings: Sequence[Finding]) -> None:
        self.findings = tuple(findings)
        first = self.findings[0]
        if len(self.findings) == 1:
            super().__init__(
                first.what,
                where=f"{source}: {first.key}" if first.key else source,
                expected=first.expected,
                found=first.found,
                remedy=f"Did you mean {first.nearest}?" if first.nearest else "",
            )
        else:
            lines = "".join(f"\n  {finding}" for finding in self.findings)
            more = " or more" if len(self.findings) >= MAX_FINDINGS else ""
            super().__init__(f"{len(self.findings)}{more} mistakes in the policy:{lines}", where=source)


def parse_policy(data: bytes, *, source: str) -> Policy:
    """Read and check a policy. `source` names the file in errors.

    Raises BadInput for what is not TOML (with line and column), PolicyErrors for everything else.
    """
    reader = Reader(_toml(data, source))
    policy = _policy(reader)
    told = {finding.key for finding in reader.findings}
    new = (finding for finding in inconsistencies(policy) if not _follows(finding, told))
    findings = [*reader.findings, *islice(new, max(0, MAX_FINDINGS - len(reader.findings)))]
    if findings:
        raise PolicyErrors(source, findings)
    return with_digest(policy)


def _policy(reader: Reader) -> Policy:
    """The policy as far as it can be read, names unresolved and without its digest."""
    reader.only(
        "",
        reader.root,
        ("coalition", "types", "labels", "resources", "conflicts", "hosts", "images", "vms", "intervals", "demands"),
    )
    coalition = reader.table("coalition", required=True)
    reader.only("coalition", coalition, ("name", "version", "parent"))
    types, actions = _types(reader)
    return Policy(
        coalition=reader.name("coalition", coalition, "name"),
        version=reader.integer("coalition", coalition, "version", allowed=range(1, 1 << 63)),
        parent=reader.digest("coalition", coalition, "parent") if "parent" in coalition else None,
        types=types,
        vm_labels={name: VmLabel(name=name, types=held) for name, held in _type_lists(reader, "labels")},
        resource_labels={name: ResourceLabel(name=name, types=held) for name, held in _type_lists(reader, "resources")},
        conflict_sets=dict(_type_lists(reader, "conflicts")),
        hosts=_hosts(reader),
        images=_images(reader),
        vms=_vms(reader),
        failure_actions=actions,
        intervals=_intervals(reader),
        demands=_demands(reader),
        digest="",
    )


def _types(reader: Reader) -> tuple[frozenset[TypeName], dict[TypeName, FailureAction]]:
    """All types with their failure actions, from a list of names or from a table for each."""
    value = reader.root.get("types")
    if isinstance(value, dict):
        actions = {}
        for name, table in reader.tables("types", type_names=True):
            key = reader.join("types", name)
            reader.only(key, table, ("on_failure",))
            action = reader.choice(key, table, "on_failure", tuple(FailureAction), default=FailureAction.KEEP)
            actions[TypeName(name)] = FailureAction(action)
        return frozenset(actions), actions
    types = reader.types("", reader.root, "types")
    return types, dict.fromkeys(types, FailureAction.KEEP)


def _type_lists(reader: Reader, section: str) -> list[tuple[str, frozenset[TypeName]]]:
    """Name and types of each table of a section whose tables hold `types` alone."""
    found = []
    for name, table in reader.tables(section):
        key = reader.join(section, name)
        reader.only(key, table, ("types",))
        found.append((name, reader.types(key, table, "types")))
    return found


def _hosts(reader: Reader) -> dict[HostName, HostEntry]:
    hosts = {}
    for name, table in reader.tables("hosts"):
        key = reader.join("hosts", name)
        reader.only(key, table, ("address", "port", "types"))
        hosts[HostName(name)] = HostEntry(
            name=HostName(name),
            address=reader.string(key, table, "address", what="an IPv4 or IPv6 address"),
            port=reader.integer(key, table, "port", allowed=range(1, 65536), default=DEFAULT_PORT),
            types=reader.types(key, table, "types"),
        )
    return hosts


def _images(reader: Reader) -> dict[str, PinnedImage]:
    images = {}
    for name, table in reader.tables("images"):
        key = reader.join("images", name)
        reader.only(key, table, ("sha256",))
        images[name] = PinnedImage(name=name, sha256=reader.digest(key, table, "sha256"))
    return images


def _vms(reader: Reader) -> dict[VmName, VmEntry]:
    vms = {}
    for name, table in reader.tables("vms"):
        key = reader.join("vms", name)
        reader.only(key, table, ("label", "image", "host", "resources"))
        vms[VmName(name)] = VmEntry(
            name=VmName(name),
            label=reader.string(key, table, "label", what="the name of a label"),
            image=reader.string(key, table, "image", what="the name of an image"),
            host=HostName(reader.string(key, table, "host", what="the name of a host")),
            resources=tuple(sorted(reader.strings(key, table, "resources", what="names of resources"))),
        )
    return vms


def _intervals(reader: Reader) -> Intervals:
    table, default = reader.table("intervals"), Intervals()
    reader.only("intervals", table, ("period_s", "lease_s", "margin_s", "timeout_s", "action_delay_s"))
    return Intervals(
        period_s=reader.number("intervals", table, "period_s", default=default.period_s),
        lease_s=reader.number("intervals", table, "lease_s", default=default.lease_s),
        margin_s=reader.number("intervals", table, "margin_s", default=default.margin_s),
        timeout_s=reader.number("intervals", table, "timeout_s", default=default.timeout_s),
        action_delay_s=reader.number("intervals", table, "action_delay_s", default=default.action_delay_s),
    )


def _demands(reader: Reader) -> Demands:
    table, default = reader.table("demands"), Demands()
    reader.only("demands", table, ("allow_software_tpm", "empty_pcrs"))
    return Demands(
        allow_software_tpm=reader.boolean("demands", table, "allow_software_tpm", default=default.allow_software_tpm),
        empty_pcrs=reader.integers("demands", table, "empty_pcrs", allowed=range(24), default=default.empty_pcrs),
    )


def _toml(data: bytes, source: str) -> dict[str, Any]:
    if len(data) > MAX_POLICY_BYTES:
        raise BadInput(
            "the policy is too large",
            where=source,
            expected=f"at most {MAX_POLICY_BYTES} bytes",
            found=f"{len(data)} bytes",
        )
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise BadInput("the policy is not UTF-8 text", where=f"{source}: line {line}") from error
    for number, line_text in enumerate(text.split("\n"), start=1):
        if line_text.count(".") > MAX_DOTS_IN_LINE:
            raise BadInput(
                "a line with too many dots",
                where=f"{source}: line {number}",
                expected=f"at most {MAX_DOTS_IN_LINE}",
                remedy="Break the list into several lines.",
            )
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise BadInput("the policy is nested too deeply", where=source) from error
    except ValueError as error:
        raise _syntax_error(str(error), text, source) from error


def _syntax_error(message: str, text: str, source: str) -> BadInput:
    """What tomllib says, with the position in `where`, the line, and the full name of a key that is there twice."""
    match = _POSITION.fullmatch(message)
    if not match:
        return BadInput("the policy is not TOML", where=source, found=message[:200])
    number, what = int(match["line"]), match["what"]
    lines = text.replace("\r\n", "\n").split("\n")
    line = lines[number - 1] if number <= len(lines) else ""
    where = f"{source}: line {number}, column {match['column']}"
    if "twice" in what or "overwrite" in what:
        return BadInput(
            f"the key {_key_at(lines, number)} is there twice",
            where=where,
            expected="each key once",
            found=line.strip()[:120],
            remedy="Remove one of them.",
        )
    return BadInput("the policy is not TOML", where=where, expected="TOML 1.0", found=f"{what}: {line.strip()[:120]}")


def _key_at(lines: Sequence[str], number: int) -> str:
    """The full name of the key or table that line `number` (from 1) declares."""
    header = _HEADER.match(lines[number - 1])
    if header:
        return header["name"][:200]
    key = _KEY.match(lines[number - 1])
    for line in reversed(lines[: number - 1]):
        table = _HEADER.match(line)
        if table:
            return f"{table['name']}.{key['name'] if key else '?'}"[:200]
    return key["name"][:200] if key else "?"


def _follows(finding: Finding, told: set[str]) -> bool:
    """True iff the mistake comes of one that was told: at its key, above it, or in the section that names are from."""
    if _SECTIONS.get(finding.what) in told:
        return True
    return any(finding.key == other or finding.key.startswith(f"{other}.") for other in told)
