"""From the bytes of a policy, a file in TOML or the canonical form, to a `Policy`, or to everything that is wrong with
them at once.

Two passes: here, what a key may be called and hold; in `consistency`, whether what was read hangs together. A mistake
is told once: what could not be read is not complained about again by the second pass.

    types = ["acme/red", "rival/blue"]        # or [types."acme/red"], see `_definitions`
    walls = ["board"]                         # further Chinese Wall types

    [coalition]                               # name, version; parent = digest of the version before; expires; primary
    [signing]                                 # threshold, keys: who signs
    [keys.NAME]                               # public
    [organisations.NAME]                      # key
    [departments."ORGANISATION/NAME"]         # of
    [labels.NAME]                             # types, reads, writes, walls, quarantine: the label of VMs
    [resources.NAME]                          # types, kind, or inaccessible = true: the label of a disk or network
    [conflicts.NAME]                          # Chinese Wall types that never run at the same time on one host
    [hosts.NAME]                              # address, types; port (7443), starting, hypervisor, mac_vm
    [images.NAME]                             # sha256 of the clean image; kernel_sha256, initrd_sha256, cmdline
    [vms.NAME]                                # label, image, host; may_move_to, resources, interfaces, addresses,
                                              # quarantine
    [overlays.NAME]                           # label; peers, ports, times, rate_bytes_s
    [renames]                                 # types, labels: old name → new name, from the version before
    [intervals]                               # period_s, lease_s, margin_s, timeout_s, action_delay_s; rekey_bytes,
                                              # rekey_packets
    [demands]                                 # allow_software_tpm, allow_sha1, empty_pcrs
"""

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from shamon_host.domain.consistency import inconsistencies
from shamon_host.domain.errors import BadInput
from shamon_host.domain.findings import Finding
from shamon_host.domain.policy import Policy
from shamon_host.domain.policy_form import FORMAT, policy_bytes, with_digest
from shamon_host.domain.policy_sections import read_sections
from shamon_host.domain.text import printable
from shamon_host.domain.toml_positions import positions, split_path
from shamon_host.domain.toml_reader import MAX_FINDINGS, Reader

MAX_POLICY_BYTES = 4 << 20
MAX_DOTS_IN_LINE = 200
"""The time that a TOML parser takes grows with the square of a dotted key's length."""
_DECLARED_IN = {
    "unknown type": ("types",),
    "unknown Chinese Wall type": ("types", "organisations", "departments", "walls"),
    "unknown organisation": ("organisations",),
    "unknown organisation or department": ("organisations", "departments"),
    "unknown signing key": ("keys",),
    "unknown VM": ("vms",),
    "unknown label": ("labels",),
    "unknown image": ("images",),
    "unknown host": ("hosts",),
    "unknown resource": ("resources",),
}
"""What `consistency` says of a name that is not there, and the sections where it may be declared."""
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
                where=": ".join(
                    part for part in (source, f"line {first.line}" if first.line else "", printable(first.key)) if part
                ),
                expected=printable(first.expected),
                found=printable(first.found),
                remedy=f"Did you mean {first.nearest}?" if first.nearest else "",
            )
        else:
            lines = "".join(f"\n  {finding}" for finding in self.findings)
            more = " or more" if len(self.findings) >= MAX_FINDINGS else ""
            super().__init__(f"{len(self.findings)}{more} mistakes in the policy:{lines}", where=source)


def parse_policy(data: bytes, *, source: str) -> Policy:
    """Read and check a policy file. `source` names the file in errors.

    Raises BadInput for what is not TOML (with line and column), PolicyErrors for everything else.
    """
    text, root = _toml(data, source)
    return _checked(root, source, text)


def parse_canonical(data: bytes, *, source: str) -> Policy:
    """Read and check the canonical form (`policy_form`), as it comes from a peer or out of an envelope.

    Raises BadInput for bytes that are not the canonical form of what they say, PolicyErrors for everything else.
    """
    _require_size(data, source)
    try:
        root = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadInput("the policy is not JSON", where=source, found=str(error)[:200]) from error
    if not isinstance(root, dict) or root.pop("format", None) != FORMAT:
        raise BadInput("the policy is in another format", where=source, expected=FORMAT)
    policy = _checked(root, source, None)
    if policy_bytes(policy) != data:
        raise BadInput("the policy is not in its canonical form", where=source, expected="the form that is signed")
    return policy


def _checked(root: Mapping[str, Any], source: str, text: str | None) -> Policy:
    """`text` is the file that `root` is from, for the lines of its mistakes; None where it is from no file."""
    reader = Reader(root)
    policy = read_sections(reader)
    told = {finding.key for finding in reader.findings}
    # All mistakes of a file are told at once; of what a peer sent the first one is enough. Those that follow from
    # others count too, so that nobody can have many of them looked for.
    most = (MAX_FINDINGS if text is not None else 1) - len(reader.findings)
    new = [finding for finding in islice(inconsistencies(policy), max(0, most)) if not _follows(finding, told)]
    findings = [*reader.findings, *new]
    if findings:
        lines = positions(text or "")
        placed = [
            replace(finding, line=lines.line(split_path(finding.key)) if finding.key else 0) for finding in findings
        ]
        raise PolicyErrors(source, placed)
    return with_digest(policy)


def _require_size(data: bytes, source: str) -> None:
    if len(data) > MAX_POLICY_BYTES:
        raise BadInput(
            "the policy is too large",
            where=source,
            expected=f"at most {MAX_POLICY_BYTES} bytes",
            found=f"{len(data)} bytes",
        )


def _toml(data: bytes, source: str) -> tuple[str, dict[str, Any]]:
    """The text, and what is in it."""
    _require_size(data, source)
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
        return text, tomllib.loads(text)
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
    line = printable(lines[number - 1].strip()[:120]) if number <= len(lines) else ""
    where = f"{source}: line {number}, column {match['column']}"
    if "twice" in what or "overwrite" in what:
        return BadInput(
            f"the key {printable(_key_at(lines, number))} is there twice",
            where=where,
            expected="each key once",
            found=line,
            remedy="Remove one of them.",
        )
    return BadInput("the policy is not TOML", where=where, expected="TOML 1.0", found=f"{what}: {line}")


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
    if not told.isdisjoint(_DECLARED_IN.get(finding.what, ())):
        return True
    return any(finding.key == other or finding.key.startswith(f"{other}.") for other in told)
