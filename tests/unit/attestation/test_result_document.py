"""The JSON form of Attestation Results: nothing is lost, and the reader takes nothing else."""

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shamon_host.attestation.result_document import (
    MAX_RESULT_BYTES,
    MAX_TEXT,
    place,
    read_result_document,
    result_document,
    verdict_key,
)
from shamon_host.domain.canonical import canonical_json
from shamon_host.domain.errors import BadInput
from shamon_host.domain.results import Claim, ClaimName, ClaimStatus
from shamon_host.testing.machine import BootImage
from tests.unit.attestation.appraised_world import Attested
from tests.unit.attestation.result_records import PASSING, attested, failing, record_of, records


@given(records())
def test_what_is_written_is_read_and_written_again(record: Any) -> None:
    document = result_document(record)
    data = canonical_json(document)
    assert len(data) <= MAX_RESULT_BYTES
    read = read_result_document(json.loads(data))
    assert result_document(read) == document
    assert read.result.trusted is record.result.trusted
    assert read.appraised_s == pytest.approx(record.appraised_s, abs=0.001)
    assert [claim.name for claim in read.result.claims] == list(ClaimName)
    assert {claim.name for claim in read.result.failures} == {claim.name for claim in record.result.failures}


def test_the_longest_texts_of_the_widest_characters_fit() -> None:
    claims = tuple(
        Claim(name=name, status=ClaimStatus.FAIL, reason=text, where=text, expected=text, found=text)
        for name in ClaimName
        for text in ["\u20ac" * (2 * MAX_TEXT)]
    )
    document = result_document(record_of(replace(PASSING, claims=claims)))
    assert len(canonical_json(document)) <= MAX_RESULT_BYTES
    assert all(len(claim["found"]) == MAX_TEXT for claim in document["claims"])
    read_result_document(document)


def test_a_claim_that_was_not_made_is_absent_and_one_that_was_made_twice_too() -> None:
    for claims in (PASSING.claims[1:], (*PASSING.claims, PASSING.claims[0])):
        document = result_document(record_of(replace(PASSING, claims=claims)))
        assert document["trusted"] is False
        assert [claim["status"] for claim in document["claims"]] == ["absent"] + ["pass"] * 8
        read_result_document(document)


def test_a_claim_that_fails_once_and_passes_once_fails() -> None:
    for order in (1, -1):
        both = (PASSING.claims[0], replace(PASSING.claims[0], status=ClaimStatus.FAIL))[::order]
        document = result_document(record_of(replace(PASSING, claims=(*both, *PASSING.claims[1:]))))
        assert document["claims"][0]["status"] == "fail"


def test_real_results_name_their_places_in_parts() -> None:
    world = Attested()
    world.machine.run_program("/tmp/a, b\n", b"unknown")
    document = result_document(attested(world))
    (software,) = (claim for claim in document["claims"] if claim["status"] != "pass")
    assert software["name"] == "software"
    assert software["at"] == {"entry": len(world.machine.logs.entries), "path": software["where"].split(", ", 1)[1]}
    assert software["at"]["path"].startswith("/tmp/a, b")
    wrong = Attested()
    wrong.machine.boot(BootImage(initrd=b"another"))
    claims = {claim["name"]: claim for claim in result_document(attested(wrong))["claims"]}
    assert claims["boot-chain"]["at"] == {"pcr": 4, "event": 1}


def test_every_place_of_a_real_failure_is_understood(attack: Callable[[Attested], None]) -> None:
    world = Attested()
    attack(world)
    for claim in result_document(attested(world))["claims"]:
        assert bool(claim["at"]) == claim["where"].startswith(("PCR", "IMA entry")), claim


@pytest.fixture(
    params=[
        lambda world: world.machine.setenforce(False),
        lambda world: world.machine.race("/etc/passwd"),
        lambda world: world.machine.run_program("", b"x"),
        lambda world: world.machine.boot(BootImage(load_options="init=/bin/sh")),
        lambda world: world.machine.boot(BootImage(firmware=b"other", kernel=b"other")),
        lambda world: world.machine.boot(BootImage(selinux_policy=b"other")),
        lambda world: world.machine.tpm.extend(14, bytes(32)),
        lambda world: world.machine.logs.entries.pop(),
    ]
)
def attack(request: pytest.FixtureRequest) -> Callable[[Attested], None]:
    found: Callable[[Attested], None] = request.param
    return found


@pytest.mark.parametrize(
    ("where", "parts"),
    [
        ("PCR 4", {"pcr": 4}),
        ("PCR 12, event 1", {"pcr": 12, "event": 1}),
        ("IMA entry 7, /x, y", {"entry": 7, "path": "/x, y"}),
        ("IMA entry 7, ", {"entry": 7, "path": ""}),
        ("PCR 4, event 2 and more", {}),
        ("IMA log", {}),
        ("", {}),
        ("PCR 999999999999999999999", {}),
    ],
)
def test_places(where: str, parts: dict[str, Any]) -> None:
    assert place(where) == parts


MISTAKES: list[tuple[str, Callable[[dict[str, Any]], Any]]] = [
    ("format", lambda document: document.update(format="shamon-attestation-result/2")),
    ("format", lambda document: document.update(format=None)),
    ("unknown more", lambda document: document.update(more=1)),
    ("no tpm", lambda document: document.pop("tpm")),
    ("tpm", lambda document: document.update(tpm="quantum")),
    ("host", lambda document: document.update(host="../beta")),
    ("verifier", lambda document: document.update(verifier=7)),
    ("appraised_at", lambda document: document.update(appraised_at="2026-02-30T00:00:00.000Z")),
    ("appraised_at", lambda document: document.update(appraised_at="2026-01-31T00:00:00.000+01:00")),
    ("appraised_at", lambda document: document.update(appraised_at="2026-01-31T00:00:00.000")),
    ("trusted", lambda document: document.update(trusted=False)),
    ("trusted", lambda document: document.update(trusted=1)),
    ("ak_name", lambda document: document.update(ak_name="0")),
    ("ak_name", lambda document: document.update(ak_name="00" * 67)),
    ("reset_count", lambda document: document.update(reset_count=True)),
    ("reset_count", lambda document: document.update(reset_count=2**32)),
    ("policy_digest", lambda document: document.update(policy_digest="A" * 64)),
    ("evidence_digest", lambda document: document.update(evidence_digest="a" * 65)),
    ("claims", lambda document: document["claims"].pop()),
    ("claims", lambda document: document["claims"].reverse()),
    ("claims", lambda document: document["claims"].__setitem__(1, document["claims"][0])),
    ("claims", lambda document: document.update(claims={})),
    ("claims[0]", lambda document: document["claims"].__setitem__(0, "binding")),
    ("claims[0]", lambda document: document["claims"][0].update(status="passed")),
    ("trusted", lambda document: document["claims"][0].update(status="fail")),
    ("claims[2]", lambda document: document["claims"][2].update(sticky=0)),
    ("claims[2]", lambda document: document["claims"][2].update(at={"pcr": 4})),
    ("claims[2]", lambda document: document["claims"][2].update(reason="x" * (MAX_TEXT + 1))),
    ("claims[2]", lambda document: document["claims"][2].update(name=[])),
]


@pytest.mark.parametrize(("named", "change"), MISTAKES)
def test_the_reader_is_strict(named: str, change: Callable[[dict[str, Any]], Any]) -> None:
    document = copy.deepcopy(result_document(record_of()))
    change(document)
    with pytest.raises(BadInput) as caught:
        read_result_document(document, source="file.json")
    assert named in str(caught.value)
    assert caught.value.where.startswith("file.json")


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=8,
)


@given(st.data())
def test_any_other_value_in_any_place_is_bad_input_or_read(data: st.DataObject) -> None:
    document = copy.deepcopy(result_document(record_of(failing())))
    target = data.draw(st.sampled_from([document, *document["claims"]]))
    target[data.draw(st.sampled_from(sorted(target)))] = data.draw(_json)
    try:
        read = read_result_document(document)
    except BadInput:
        return
    assert result_document(read) == document


def test_the_verdict_is_the_same_whatever_its_words_and_another_when_a_status_or_the_boot_is() -> None:
    key = verdict_key(record_of(failing()))
    assert key == verdict_key(record_of(failing(reason="other words", found="of the peer"), appraised_s=5.0))
    others = {
        key,
        verdict_key(record_of()),
        verdict_key(record_of(failing(sticky=True))),
        verdict_key(record_of(failing(status=ClaimStatus.ABSENT))),
        verdict_key(record_of(replace(failing(), reset_count=4))),
        verdict_key(record_of(replace(failing(), ak_name=b"other"))),
        verdict_key(replace(record_of(failing()), reference_digest="5" * 64)),
        verdict_key(replace(record_of(failing()), policy_digest="5" * 64)),
        verdict_key(replace(record_of(failing()), peer_policy_digest="5" * 64)),
    }
    assert len(others) == 9
