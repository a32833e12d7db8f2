"""What can be said of one IMA log with no quote beside it: for `shamon inspect ima`, on any log, ours or not.

Such a look proves nothing of a host: whoever made the file could have made any other. It says whether the file is
consistent, which keys signed the files in it, and which PCR values a quote would have to show for it. The log is read
once, one entry at a time, and only a few of its bad entries are kept.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from shamon_host.attestation.ima_ascii import detect_ascii_log_bank, is_ascii_log, iter_ascii_ima_log
from shamon_host.attestation.ima_entry import ImaEntry, ImaFields, ImaLogError
from shamon_host.attestation.ima_evm_signature import examine_evm_signature, is_portable_evm
from shamon_host.attestation.ima_keyring import MeasuredKey, keys_of, measured_key
from shamon_host.attestation.ima_modsig import examine_modsig
from shamon_host.attestation.ima_reader import LogHash, detect_log_bank, iter_ima_log, template_hasher
from shamon_host.attestation.ima_signature import CheckedSignature, SignatureVerdict, SigningKeys, examine_signature
from shamon_host.attestation.pcr import Bank

BOOT_AGGREGATE = "boot_aggregate"
_KEPT = 20
_MOST_KEYS = 1000


@dataclass(frozen=True, slots=True)
class BadEntry:
    """An entry that is not to be trusted, and why."""

    number: int
    """Counted from 1."""
    path: str
    reason: str


@dataclass(slots=True, kw_only=True)
class ImaSurvey:
    """Counts over a whole log."""

    format: str
    """`binary` or `ascii`."""
    log_hash: Bank | LogHash
    entries: int = 0
    templates: Counter[str] = field(default_factory=Counter)
    violations: int = 0
    wrong_hashes: int = 0
    """Entries whose template hash is not theirs."""
    malformed: int = 0
    """Entries whose fields are not what their template says."""
    signatures: Counter[SignatureVerdict] = field(default_factory=Counter)
    """Of every entry's `sig`, with the keys that were given."""
    evm_signatures: Counter[SignatureVerdict] = field(default_factory=Counter)
    """Of every entry's `evmsig`, or of its `sig` where a portable EVM signature stands there."""
    appended_signatures: Counter[SignatureVerdict] = field(default_factory=Counter)
    """Of every entry's `modsig`."""
    by_keyrings: Counter[SignatureVerdict] = field(default_factory=Counter)
    """Of those by an unknown key: what the keys say that the log itself has in `.ima` and `.evm` by then."""
    keys: list[MeasuredKey] = field(default_factory=list)
    boot_aggregate: str | None = None
    """`algorithm:hex` of the first entry; None where that is no boot_aggregate."""
    pcrs: dict[str, dict[int, bytes]] = field(default_factory=dict)
    """By bank and PCR: what a kernel of version 5.8 or later has extended for the whole log, from zero on."""
    bad: list[BadEntry] = field(default_factory=list)
    """The first entries that are not to be trusted."""

    @property
    def trustworthy(self) -> bool:
        """Whether every template hash, every entry's fields and every signature by a known key is good."""
        return not (self.wrong_hashes or self.malformed or self.bad_signatures)

    @property
    def bad_signatures(self) -> int:
        """Signatures of all kinds that a known key did not make, or that are malformed."""
        kinds = (self.signatures, self.evm_signatures, self.appended_signatures)
        return sum(verdicts[SignatureVerdict.BAD] for verdicts in kinds)


def survey_ima_log(log: bytes, keys: SigningKeys) -> ImaSurvey:
    """Read a whole binary or ASCII log. Raises `ImaLogError` where the bytes are none, or end within an entry."""
    wrong: list[int] = []
    if is_ascii_log(log):
        log_hash = detect_ascii_log_bank(log)
        survey = ImaSurvey(format="ascii", log_hash=log_hash)
        entries = iter_ascii_ima_log(log, log_bank=log_hash, wrong_hashes=wrong)
    else:
        log_hash = detect_log_bank(log)
        survey = ImaSurvey(format="binary", log_hash=log_hash)
        entries = iter_ima_log(log, log_bank=log_hash, wrong_hashes=wrong)
    looker = _Looker(survey, keys)
    for entry in _replayed(entries, survey):
        survey.entries += 1
        if wrong:
            wrong.clear()
            survey.wrong_hashes += 1
            looker.bad("", "the template hash is not that of the entry", entry)
        looker.look(entry)
    return survey


def _replayed(entries: Iterator[ImaEntry], survey: ImaSurvey) -> Iterator[ImaEntry]:
    """The entries as they are, while the PCRs of each bank follow them."""
    banks: list[Bank | LogHash] = list(Bank)
    if survey.log_hash not in banks:
        banks.append(survey.log_hash)
    steps = [(bank.digest_size, template_hasher(bank), survey.pcrs.setdefault(bank.value, {})) for bank in banks]
    for entry in entries:
        pcr, violation = entry.pcr, entry.violation
        for size, function, values in steps:
            digest = b"\xff" * size if violation else function(entry.measured).digest()
            values[pcr] = function(values.get(pcr, bytes(size)) + digest).digest()
        yield entry


class _Looker:
    """Counts what one entry after the other says."""

    def __init__(self, survey: ImaSurvey, keys: SigningKeys) -> None:
        self._survey = survey
        self._given = keys
        self._measured = SigningKeys()

    def look(self, entry: ImaEntry) -> None:
        survey = self._survey
        survey.templates[entry.template] += 1
        survey.violations += entry.violation
        try:
            fields = entry.fields()
        except ImaLogError as error:
            survey.malformed += 1
            survey.signatures[SignatureVerdict.NONE] += 1
            self.bad("", str(error))
            return
        if survey.entries == 1 and fields.path == BOOT_AGGREGATE and fields.file_digest is not None:
            survey.boot_aggregate = f"{fields.file_digest.algorithm}:{fields.file_digest.digest.hex()}"
        if entry.violation:  # no content was measured, so there is nothing that could be signed or added
            survey.signatures[SignatureVerdict.NONE] += 1
            return
        self._check_signatures(fields)
        if fields.buf is not None:
            self._add_key(fields)

    def _check_signatures(self, fields: ImaFields) -> None:
        survey = self._survey
        checked = examine_signature(fields, self._given)
        self._count(survey.signatures, checked, fields, "signature")
        if checked.verdict is SignatureVerdict.UNKNOWN_KEY and self._measured:
            survey.by_keyrings[examine_signature(fields, self._measured).verdict] += 1
        if "evmsig" in fields.raw or is_portable_evm(fields.signature):
            self._count(survey.evm_signatures, examine_evm_signature(fields, self._given), fields, "EVM signature")
        if "modsig" in fields.raw:
            self._count(survey.appended_signatures, examine_modsig(fields, self._given), fields, "appended signature")

    def _count(
        self, counts: Counter[SignatureVerdict], checked: CheckedSignature, fields: ImaFields, what: str
    ) -> None:
        counts[checked.verdict] += 1
        if checked.verdict is SignatureVerdict.BAD:
            self.bad(fields.path or "", f"the file's {what} is bad: {checked.reason}")

    def _add_key(self, fields: ImaFields) -> None:
        found = measured_key(fields, self._survey.entries)
        if found is not None and len(self._survey.keys) < _MOST_KEYS:
            self._survey.keys.append(found)
            self._measured = keys_of(self._survey.keys)

    def bad(self, path: str, reason: str, entry: ImaEntry | None = None) -> None:
        """Keep an entry as bad, if there are not enough already."""
        if len(self._survey.bad) >= _KEPT:
            return
        if entry is not None:
            try:
                path = entry.fields().path or ""
            except ImaLogError:
                path = ""
        self._survey.bad.append(BadEntry(self._survey.entries, path, reason))
