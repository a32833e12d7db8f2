"""The one JSON form of an Attestation Result: what is stored, shown, signed and kept by relying parties.

A document says who appraised whom, when, by which policy and Reference Values, from which Evidence, and every claim
with what was expected, what was found and where. `interchange/attestation-result.schema.json` is its schema. The
reader believes nothing: the verdict is computed from the claims anew, and a document that says otherwise is refused.
"""

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from shamon_host.attestation.evidence import Evidence, encode
from shamon_host.domain.errors import BadInput
from shamon_host.domain.labels import HostName, plain_name
from shamon_host.domain.results import AttestationResult, Claim, ClaimName, ClaimStatus, TpmKind
from shamon_host.domain.text import is_sha256

FORMAT = "shamon-attestation-result/1"
MAX_TEXT = 1000
"""Characters of each text of a claim: longer ones are cut."""
MAX_RESULT_BYTES = 256 * 1024
"""Of the canonical form: nine claims of four texts, each character in at most six bytes."""
MAX_RESET_COUNT = (1 << 32) - 1
_MAX_AK_NAME_BYTES = 66
_FIELDS = (
    "format",
    "host",
    "verifier",
    "appraised_at",
    "trusted",
    "ak_name",
    "reset_count",
    "tpm",
    "policy_digest",
    "peer_policy_digest",
    "reference_digest",
    "evidence_digest",
    "claims",
)
_CLAIM_FIELDS = ("name", "status", "reason", "where", "at", "expected", "found", "sticky")
_DIGESTS = ("policy_digest", "peer_policy_digest", "reference_digest", "evidence_digest")
_EVENT = re.compile(r"PCR (\d{1,2})(?:, event (\d{1,9}))?")
_ENTRY = re.compile(r"IMA entry (\d{1,9}), (.*)", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultRecord:
    """An Attestation Result with what it stands on. Digests are SHA-256, lower-case hexadecimal."""

    result: AttestationResult
    verifier: HostName
    """The host that appraised."""
    appraised_s: float
    """Wall clock of the Verifier, seconds since the epoch, in milliseconds at best."""
    policy_digest: str
    """The Verifier's own policy: its demands."""
    peer_policy_digest: str
    """The policy that the appraised host enforces: its labels and links are judged by this one."""
    reference_digest: str
    evidence_digest: str
    """See `evidence_digest`."""


def evidence_digest(evidence: Evidence) -> str:
    """SHA-256 over the Evidence as `evidence.encode` writes it, hexadecimal."""
    return hashlib.sha256(encode(evidence)).hexdigest()


def time_text(seconds: float) -> str:
    """A time of the wall clock as RFC 3339 has it, in UTC, with milliseconds. Raises BadInput for no such time."""
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError) as error:
        raise BadInput("not a time", found=repr(seconds)[:40]) from error


def place(where: str) -> dict[str, Any]:
    """PCR and event, or IMA entry and path, out of a claim's `where`, as the appraisers write it; {} for other places.

    The path is as it is shown: what is not printable in it is escaped.
    """
    if event := _EVENT.fullmatch(where):
        found = {"pcr": int(event[1])}
        return found | {"event": int(event[2])} if event[2] else found
    if entry := _ENTRY.fullmatch(where):
        return {"entry": int(entry[1]), "path": entry[2]}
    return {}


def result_document(record: ResultRecord) -> dict[str, Any]:
    """The record as a JSON object, every claim once and in order: one that was not made is absent. Raises BadInput for
    a time that is none."""
    result = record.result
    return {
        "format": FORMAT,
        "host": str(result.host),
        "verifier": str(record.verifier),
        "appraised_at": time_text(record.appraised_s),
        "trusted": result.trusted,
        "ak_name": result.ak_name.hex(),
        "reset_count": result.reset_count,
        "tpm": result.tpm.value,
        **{name: getattr(record, name) for name in _DIGESTS},
        "claims": [claim_document(_one(result, name)) for name in ClaimName],
    }


def read_result_document(document: object, *, source: str = "Attestation Result") -> ResultRecord:
    """Read what `result_document` made, strictly. `source` names it in errors. Raises BadInput."""
    fields = _object(document, _FIELDS, source)
    if fields["format"] != FORMAT:
        raise BadInput(
            "an unknown format",
            where=f"{source}: format",
            expected=FORMAT,
            found=repr(fields["format"])[:80],
            remedy="A newer version of this program may read it.",
        )
    for name in _DIGESTS:
        if not is_sha256(_text(fields, name, source, most=64)):
            raise _bad(source, name, "64 lower-case hexadecimal digits", fields[name])
    ak_name = _text(fields, "ak_name", source, most=2 * _MAX_AK_NAME_BYTES)
    if not re.fullmatch(r"(?:[0-9a-f]{2})+", ak_name):
        raise _bad(source, "ak_name", "bytes in lower-case hexadecimal", ak_name)
    count = fields["reset_count"]
    if type(count) is not int or not 0 <= count <= MAX_RESET_COUNT:
        raise _bad(source, "reset_count", "a number of 32 bits", count)
    try:
        tpm = TpmKind(_text(fields, "tpm", source, most=20))
    except ValueError:
        raise _bad(source, "tpm", " or ".join(TpmKind), fields["tpm"]) from None
    claims = fields["claims"]
    if not isinstance(claims, list) or len(claims) != len(ClaimName):
        raise _bad(source, "claims", f"a list of {len(ClaimName)} claims", type(claims).__name__)
    result = AttestationResult(
        host=_host(fields, "host", source),
        ak_name=bytes.fromhex(ak_name),
        reset_count=count,
        tpm=tpm,
        claims=tuple(_claim(claim, f"{source}: claims[{at}]") for at, claim in enumerate(claims)),
    )
    if [claim.name for claim in result.claims] != list(ClaimName):
        raise _bad(source, "claims", ", ".join(ClaimName), ", ".join(claim.name for claim in result.claims))
    if fields["trusted"] is not result.trusted:
        raise _bad(source, "trusted", f"{str(result.trusted).lower()}, as the claims say", fields["trusted"])
    return ResultRecord(
        result=result,
        verifier=_host(fields, "verifier", source),
        appraised_s=_time(fields, source),
        **{name: str(fields[name]) for name in _DIGESTS},
    )


def verdict_key(record: ResultRecord) -> str:
    """The same text for two results that say the same of a host in one boot under the same rules: which claims pass,
    fail or are absent, and which failures stick. Not their words: those may be the peer's, and change each time."""
    result = record.result
    return ";".join(
        (
            result.ak_name.hex(),
            str(result.reset_count),
            record.policy_digest,
            record.peer_policy_digest,
            record.reference_digest,
            *(f"{claim.name}={claim.status}{'!' if claim.sticky else ''}" for claim in result.claims),
        )
    )


def _one(result: AttestationResult, name: ClaimName) -> Claim:
    """The one claim of this name, or why there is none that counts."""
    made = [claim for claim in result.claims if claim.name is name]
    failing = [claim for claim in result.failures if claim.name is name]
    if failing or len(made) == 1:
        return (failing or made)[0]
    return Claim(name=name, status=ClaimStatus.ABSENT, reason=f"the claim {name} was made {len(made)} times")


def claim_document(claim: Claim) -> dict[str, Any]:
    """One claim as a JSON object, its texts cut."""
    return {
        "name": claim.name.value,
        "status": claim.status.value,
        "reason": _cut(claim.reason),
        "where": _cut(claim.where),
        "at": place(_cut(claim.where)),
        "expected": _cut(claim.expected),
        "found": _cut(claim.found),
        "sticky": claim.sticky,
    }


def _claim(document: object, source: str) -> Claim:
    fields = _object(document, _CLAIM_FIELDS, source)
    texts = {name: _text(fields, name, source, most=MAX_TEXT) for name in ("reason", "where", "expected", "found")}
    if type(fields["sticky"]) is not bool:
        raise _bad(source, "sticky", "true or false", fields["sticky"])
    if fields["at"] != place(texts["where"]):
        raise _bad(source, "at", f"the place {texts['where']!r}, in parts", fields["at"])
    try:
        return Claim(
            name=ClaimName(fields["name"]), status=ClaimStatus(fields["status"]), sticky=fields["sticky"], **texts
        )
    except ValueError:
        raise BadInput(
            "no such claim or status",
            where=source,
            expected=f"one of {', '.join(ClaimName)}: {', '.join(ClaimStatus)}",
            found=f"{fields['name']!r}: {fields['status']!r}"[:120],
        ) from None


def _object(document: object, names: tuple[str, ...], source: str) -> Mapping[str, Any]:
    if not isinstance(document, dict):
        raise BadInput("not a JSON object", where=source, found=type(document).__name__)
    unknown, missing = sorted(map(str, document.keys() - set(names))), sorted(set(names) - document.keys())
    if unknown or missing:
        found = [f"unknown {name}" for name in unknown] + [f"no {name}" for name in missing]
        raise BadInput("wrong keys", where=source, expected=", ".join(names), found=", ".join(found)[:200])
    return document


def _text(fields: Mapping[str, Any], name: str, source: str, *, most: int) -> str:
    value = fields[name]
    if not isinstance(value, str) or len(value) > most:
        raise _bad(source, name, f"a text of at most {most} characters", value)
    return value


def _host(fields: Mapping[str, Any], name: str, source: str) -> HostName:
    text = _text(fields, name, source, most=MAX_TEXT)
    try:
        return HostName(plain_name(text, "host name"))
    except BadInput as error:
        raise _bad(source, name, error.expected, text) from error


def _time(fields: Mapping[str, Any], source: str) -> float:
    text = _text(fields, "appraised_at", source, most=40)
    try:
        seconds = datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        seconds = math.nan
    if not math.isfinite(seconds) or time_text(seconds) != text:
        raise _bad(source, "appraised_at", "a time such as 2026-01-31T23:59:59.000Z", text)
    return seconds


def _bad(source: str, name: str, expected: str, found: object) -> BadInput:
    return BadInput(f"bad {name}", where=f"{source}: {name}", expected=expected, found=repr(found)[:120])


def _cut(text: str) -> str:
    clean = text.encode("utf-8", "backslashreplace").decode()
    return clean if len(clean) <= MAX_TEXT else clean[: MAX_TEXT - 1] + "…"
