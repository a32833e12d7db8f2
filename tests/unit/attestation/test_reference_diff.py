"""What a host would fail on, and the part that makes just that go away."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shamon_host.attestation.claims.measurements import LogFailure, walk
from shamon_host.attestation.event_log import encode_event_log
from shamon_host.attestation.ima_entry import ImaEntry
from shamon_host.attestation.ima_log import ima_buf_entry, ima_sig_entry, violation_entry
from shamon_host.attestation.reference_diff import Difference, boot_differences, log_differences, merged_parts
from shamon_host.attestation.reference_model import ReferenceValues
from shamon_host.attestation.reference_part import part_document
from shamon_host.attestation.reference_values import parse_any
from shamon_host.attestation.verifier_state import LogFacts
from shamon_host.testing.machine import IMA_POLICY, BootImage, MeasuredMachine, boot_events, sha256
from tests.examples import examples
from tests.unit.attestation.measured_world import (
    CODE,
    LIBC,
    good_boot,
    good_reference,
    hexdigest,
    logs,
    references,
)

Key = tuple[int | None, str, str, str]


def differences(log: tuple[ImaEntry, ...], reference: ReferenceValues) -> tuple[Difference, ...]:
    return log_differences(log, reference, good_boot().pcrs)


def keys(found: tuple[Difference, ...]) -> set[Key]:
    return {(each.entry, each.path, each.content, each.missing) for each in found}


def read_back(difference: Difference) -> ReferenceValues:
    """The good values and the very text that is printed for the difference."""
    assert difference.part is not None
    part = parse_any(json.dumps(part_document(difference.part)).encode())
    return good_reference().merged(part)


def test_a_good_boot_has_none() -> None:
    assert differences(good_boot().entries, good_reference()) == ()
    assert list(boot_differences(good_boot().pcrs, b"", good_reference())) == []


@pytest.mark.parametrize(
    ("entry", "path", "content", "missing", "document"),
    [
        (
            ima_sig_entry("/usr/bin/new", sha256(b"new")),
            "/usr/bin/new",
            hexdigest(b"new"),
            "a digest of this file",
            {"files": {"/usr/bin/new": [hexdigest(b"new")]}},
        ),
        (
            ima_buf_entry("dm", b"table"),
            "dm",
            hexdigest(b"table"),
            "a digest of this critical data",
            {"buffers": {"dm": [hexdigest(b"table")]}},
        ),
        (
            ima_buf_entry("selinux-policy-hash", sha256(b"policy")),
            "selinux-policy-hash",
            hexdigest(b"policy"),
            "a digest of this SELinux policy",
            {"selinux": {"policy_digests": [hexdigest(b"policy")]}},
        ),
        (
            ima_buf_entry("selinux-state", b"initialized=1;enforcing=1;x=1;"),
            "selinux-state",
            "initialized=1;enforcing=1;x=1;",
            "this state of SELinux",
            {"selinux": {"states": ["initialized=1;enforcing=1;x=1;"]}},
        ),
        (
            violation_entry("/var/log/[app]/log"),
            "/var/log/[app]/log",
            "",
            "tolerance of its violations",
            {"violations": ["/var/log/[[]app]/log"]},
        ),
    ],
)
def test_each_kind_and_the_entry_that_allows_it(
    entry: ImaEntry, path: str, content: str, missing: str, document: dict[str, object]
) -> None:
    log = (*good_boot().entries, entry)
    (found,) = differences(log, good_reference())
    assert (found.entry, found.path, found.content, found.missing) == (len(log), path, content, missing)
    assert found.part is not None
    assert part_document(found.part) == {"format": "shamon-reference-part/2"} | document
    assert differences(log, read_back(found)) == ()


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        (ima_buf_entry("selinux-state", b"initialized=1;enforcing=0;"), "not enforcing"),
        (ima_sig_entry("/usr/bin/old", bytes(20), algorithm="sha1"), "ima_hash=sha256"),
        (ima_sig_entry("boot_aggregate", bytes(32)), "another kernel"),
        (violation_entry("/usr/bin/ls"), "programs may be below /usr/"),
        (violation_entry("/etc/ima/ima-policy"), "demanded"),
        (violation_entry(CODE), "demanded"),
    ],
)
def test_what_nothing_allows(entry: ImaEntry, why: str) -> None:
    (found,) = differences((*good_boot().entries, entry), good_reference())
    assert found.part is None
    assert why in found.missing
    assert merged_parts([found]) == parse_any(b'{"format": "shamon-reference-part/2"}')


def test_the_digests_of_a_claim_say_their_hash() -> None:
    """As those that were expected do, of files and of critical data alike."""
    for entry in (ima_sig_entry("/usr/bin/new", sha256(b"new")), ima_buf_entry("dm", b"new")):
        (found,) = differences((*good_boot().entries, entry), good_reference())
        assert found.claim.found == f"sha256:{hexdigest(b'new')}"
        assert found.claim.expected.startswith("no such ")


def test_what_is_not_there() -> None:
    log = tuple(entry for entry in good_boot().entries if entry.fields().path != LIBC)
    (found,) = differences(log, good_reference())
    assert found.entry is None
    assert LIBC in found.claim.reason


def test_one_cause_is_told_once() -> None:
    """Without the IMA policy every later program is one too many."""
    log = tuple(entry for entry in good_boot().entries if entry.fields().path != IMA_POLICY)
    found = differences(log, good_reference())
    assert len(found) == 1
    assert found[0].others == 3
    assert "without the IMA policy" in found[0].claim.reason


def test_a_log_alone_is_of_any_boot() -> None:
    other = {pcr: bytes(32) for pcr in good_boot().pcrs}
    (found,) = log_differences(good_boot().entries, good_reference(), other)
    assert "another boot" in found.claim.reason
    assert log_differences(good_boot().entries, good_reference(), None) == ()


def test_a_boot_of_something_else() -> None:
    image = BootImage(cmdline="other")
    machine = MeasuredMachine()
    machine.boot(image)
    pcrs, log = machine.tpm.pcrs, encode_event_log(boot_events(image))
    found = list(boot_differences(pcrs, log, good_reference()))
    assert {each.missing for each in found} == {f"a value of PCR {pcr}" for pcr in (4, 9, 11)}
    for each in found:
        merged = read_back(each)
        rest = list(boot_differences(pcrs, log, merged))
        assert {other.missing for other in rest} == {other.missing for other in found} - {each.missing}
        assert each.part is not None
        (pcr,) = each.part.pcrs
        assert merged.pcrs[pcr][-1].events  # the log says what they are
    assert list(boot_differences(pcrs, b"", good_reference().merged(merged_parts(found)))) == []
    assert len(list(boot_differences(pcrs, b"lies", good_reference()))) == len(found)


def test_a_pcr_that_must_be_empty() -> None:
    pcrs = good_boot().pcrs | {12: bytes([1]) * 32}
    (found,) = boot_differences(pcrs, b"", good_reference(), [12])
    assert found.part is None
    assert "empty" in found.missing


@settings(max_examples=examples(200), deadline=None)
@given(log=logs(), reference=references(), data=st.data())
def test_a_part_makes_just_its_difference_go_away(
    log: tuple[ImaEntry, ...], reference: ReferenceValues, data: st.DataObject
) -> None:
    found = differences(log, reference)
    # An IMA policy that becomes known changes what counts behind it.
    allowed = [each for each in found if each.part is not None and each.path != IMA_POLICY]
    if not allowed:
        return
    chosen = data.draw(st.sampled_from(allowed))
    assert chosen.part is not None
    gone = {
        key for key in keys(found) if key[1:] == (chosen.path, chosen.content, chosen.missing)
    }  # the same thing elsewhere in the log
    assert keys(differences(log, reference.merged(chosen.part))) == keys(found) - gone


@settings(max_examples=examples(100), deadline=None)
@given(log=logs(), reference=references())
def test_all_parts_together_leave_what_nothing_allows(log: tuple[ImaEntry, ...], reference: ReferenceValues) -> None:
    found = differences(log, reference)
    rest = differences(log, reference.merged(merged_parts(found)))
    if all(each.path != IMA_POLICY for each in found):
        assert keys(rest) == {key for key, each in zip(map(_key, found), found, strict=True) if each.part is None}


def _key(each: Difference) -> Key:
    return each.entry, each.path, each.content, each.missing


@settings(max_examples=examples(100), deadline=None)
@given(log=logs(), reference=references())
def test_there_is_a_difference_iff_the_verifier_would_refuse(
    log: tuple[ImaEntry, ...], reference: ReferenceValues
) -> None:
    heard: list[LogFailure] = []
    _, first = walk(log, LogFacts(), reference, good_boot().pcrs, on_failure=heard.append)
    assert bool(first) == bool(differences(log, reference)) == bool(heard)


def test_values_are_not_changed_by_asking() -> None:
    before = good_reference().digest
    differences((*good_boot().entries, ima_sig_entry("/x", sha256(b""))), good_reference())
    assert replace(good_reference()).digest == before


def test_what_cannot_be_allowed_does_not_hide_behind_what_can() -> None:
    """Both entries fail for the same reason in the verdict's words."""
    weak = tuple(ima_sig_entry(f"/usr/bin/{name}", bytes(20), algorithm="sha1") for name in "ab")
    strong = ima_sig_entry("/usr/bin/c", sha256(b"c"))
    found = differences((*good_boot().entries, strong, *weak), good_reference())
    assert [(each.path, each.others, each.part is None) for each in found] == [
        ("/usr/bin/c", 0, False),
        ("/usr/bin/a", 1, True),
    ]
