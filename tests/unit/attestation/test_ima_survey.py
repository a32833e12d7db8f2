"""Surveys of whole logs: any bytes are a log or the own error, and a long log needs little memory."""

import hashlib
import tracemalloc

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from shamon_host.attestation.ima_log import (
    ImaLogError,
    LogHash,
    encode_ima_log,
    ima_buf_entry,
    ima_sig_entry,
    violation_entry,
)
from shamon_host.attestation.ima_signature import SignatureVerdict, SigningKeys, load_signing_key
from shamon_host.attestation.ima_survey import survey_ima_log
from shamon_host.attestation.pcr import Bank
from tests.examples import examples
from tests.unit.attestation.file_signing import certificate, sign
from tests.unit.attestation.test_ima_ascii import as_ascii

_KEY = ec.derive_private_key(0x5EED, ec.SECP256R1())
_DER = certificate(_KEY).public_bytes(serialization.Encoding.DER)
_KEYS = SigningKeys([load_signing_key(_DER, where="key")])
_DIGEST = hashlib.sha256(b"content").digest()
_ENTRIES = [
    ima_sig_entry("boot_aggregate", _DIGEST),
    ima_buf_entry(".ima", _DER),
    ima_sig_entry("/bin/x", _DIGEST, signature=sign(_KEY, _DIGEST)),
    violation_entry("/var/log/x"),
]
_LOGS = (encode_ima_log(_ENTRIES), as_ascii(_ENTRIES))


@settings(max_examples=examples(300))
@given(st.sampled_from(_LOGS), st.binary(max_size=40), st.integers(0, 900), st.integers(0, 40))
def test_any_bytes_are_a_log_or_the_own_error(log: bytes, junk: bytes, position: int, cut: int) -> None:
    for changed in (junk, log[:position] + junk + log[position + cut :]):
        try:
            survey = survey_ima_log(changed, _KEYS)
        except ImaLogError:
            continue
        assert survey.entries == survey.templates.total() == survey.signatures.total()
        assert bool(survey.bad) != survey.trustworthy
        assert len(survey.bad) <= survey.entries * 2


def test_a_log_of_a_hash_without_bank_has_a_pcr_for_it_too() -> None:
    entries = [ima_sig_entry("boot_aggregate", _DIGEST, log_bank=LogHash.SHA3_256)]
    survey = survey_ima_log(encode_ima_log(entries), SigningKeys())
    assert survey.log_hash is LogHash.SHA3_256
    assert list(survey.pcrs) == [*(bank.value for bank in Bank), "sha3-256"]
    assert survey.pcrs["sha3-256"] == {10: hashlib.sha3_256(bytes(32) + entries[0].template_hash).digest()}


def test_keys_of_the_log_count_for_what_stands_behind_them_alone() -> None:
    signed = _ENTRIES[2]
    survey = survey_ima_log(encode_ima_log([signed, *_ENTRIES]), SigningKeys())
    assert survey.signatures[SignatureVerdict.UNKNOWN_KEY] == 2
    assert survey.by_keyrings[SignatureVerdict.GOOD] == 1


def test_a_long_log_is_not_held_as_entries() -> None:
    log = encode_ima_log(ima_sig_entry(f"/usr/lib/module{number}.py", _DIGEST) for number in range(5000))
    tracemalloc.start()
    try:
        assert survey_ima_log(log, _KEYS).entries == 5000
        _, most_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # All entries at once take over a megabyte; this takes some kilobytes, whatever the length of the log.
    assert most_bytes < 200_000
