"""Reference Values of guests: what a file may say, and that its digest is of all that it says."""

import json
from typing import Any

import pytest

from shamon_host.attestation.guest_reference import GuestBoot, read_guest_reference
from shamon_host.attestation.reference_values import parse_reference_values
from shamon_host.domain.errors import BadInput
from tests.unit.attestation.guest_world import booted, recorded, without_selinux

SMALL, WHOLE = recorded(without_selinux()), recorded(booted())


def read(document: Any) -> Any:
    return read_guest_reference(json.dumps(document).encode(), where="app.json")


@pytest.mark.parametrize("reference", [SMALL, WHOLE], ids=["small", "with SELinux"])
def test_it_is_read_back(reference: Any) -> None:
    again = read(reference.to_document())
    assert again == reference
    assert again.digest == reference.digest


def test_only_a_guest_may_do_without_selinux() -> None:
    values = SMALL.to_document()["values"]
    with pytest.raises(BadInput, match=r"selinux\.states"):
        parse_reference_values(json.dumps(values).encode())
    values["selinux"]["policy_digests"] = ["0" * 64]
    with pytest.raises(BadInput, match="bad value at selinux"):
        read({**SMALL.to_document(), "values": values})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": "shamon-guest-reference/2"}, "not the Reference Values of a guest"),
        ({"boots": []}, "bad value at boots"),
        ({"boots": [{}] * 17}, "bad value at boots"),
        ({"boots": [{"kernel": "", "initrd": ""}]}, "malformed boot"),
        ({"boots": [{"kernel": "0" * 63, "initrd": "", "cmdline": ""}]}, "malformed boot"),
        ({"boots": [{"kernel": 1, "initrd": "", "cmdline": ""}]}, "malformed boot"),
        ({"boots": [{"kernel": "", "initrd": "", "cmdline": "x" * 3000}]}, "too long"),
        ({"values": {}}, "a table that is not empty"),
        ({"more": 1}, "not the Reference Values of a guest"),
    ],
)
def test_mistakes(change: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        read({**SMALL.to_document(), **change})


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b'{"format":1,"format":2}', b"\xff", b"[" * 100_000])
def test_what_is_no_file_of_them(data: bytes) -> None:
    with pytest.raises(BadInput):
        read_guest_reference(data, where="app.json")


def test_whatever_it_says_is_in_its_digest() -> None:
    document = SMALL.to_document()
    document["boots"][0]["cmdline"] = "other"
    assert read(document).digest != SMALL.digest
    document = SMALL.to_document()
    document["values"]["files"]["/usr/bin/more"] = ["0" * 64]
    assert read(document).digest != SMALL.digest
    assert GuestBoot() not in SMALL.boots
