"""Whose word a policy is: signers of the coalition for all, an organisation for its own, everybody else for nothing."""

from collections.abc import Iterable
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shamon_host.domain.errors import BadInput, NotTrusted
from shamon_host.domain.labels import TypeName
from shamon_host.domain.policy import Organisation, Policy
from shamon_host.domain.policy_file import parse_policy
from shamon_host.domain.policy_form import policy_bytes, with_digest
from shamon_host.peer.policy_authority import authorised_types, lacking_signatures, require_signers
from shamon_host.peer.policy_envelope import POLICY_TYPE, sign
from shamon_host.peer.signed_record import COMMIT_TYPE, Envelope, public_text

KEYS = {
    name: Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)
    for number, name in enumerate(("ops-1", "ops-2", "ops-3", "bank", "rival", "bank-2", "stranger"))
}
_DECLARED = "".join(
    f'[keys.{name}]\npublic = "{public_text(KEYS[name])}"\n' for name in ("ops-1", "ops-2", "ops-3", "bank", "rival")
)
OWN = parse_policy(
    f"""
[coalition]
name = "lab"
version = 1
[signing]
threshold = 2
keys = ["ops-1", "ops-2", "ops-3"]
{_DECLARED}
[organisations.bank]
key = "bank"
[organisations.rival]
key = "rival"
[organisations.audit]
[departments."bank/desk"]
of = "bank"
[types."bank/ledger"]
owner = "bank/desk"
[types."bank/mail"]
[types."rival/books"]
[types."audit/report"]
[types."rival/sold"]
owner = "bank"
[labels.ledger]
types = ["bank/ledger"]
[hosts.alpha]
address = "192.0.2.1"
types = ["bank/ledger"]
""".encode(),
    source="own.toml",
)
THEIRS = with_digest(replace(OWN, version=7, parent="ab" * 32))
NEXT = with_digest(replace(OWN, version=2, parent=OWN.digest))
BANK_S = {"bank/ledger", "bank/mail", "rival/sold"}


def signed(policy: Policy, *names: str) -> bytes:
    envelope = Envelope(payload=policy_bytes(policy), payload_type=POLICY_TYPE)
    for name in names:
        envelope = sign(envelope, KEYS[name])
    return envelope.encode()


def without_signing(policy: Policy) -> Policy:
    return with_digest(replace(policy, signing=None))


# For which types another policy may speak


@pytest.mark.parametrize(
    ("names", "types"),
    [
        (("ops-1", "ops-2"), OWN.types),
        (("ops-3", "ops-1"), OWN.types),
        (("ops-1", "ops-2", "ops-3", "bank"), OWN.types),
        (("ops-1",), ()),
        (("ops-1", "ops-1"), ()),
        (("ops-1", "stranger"), ()),
        (("ops-1", "bank"), BANK_S),
        (("bank",), BANK_S),
        (("rival",), {"rival/books"}),
        (("rival", "bank"), BANK_S | {"rival/books"}),
        (("bank-2",), ()),
        (("stranger",), ()),
        ((), ()),
    ],
)
def test_types_for_which_somebody_responsible_signed(names: tuple[str, ...], types: Iterable[str]) -> None:
    assert authorised_types(signed(THEIRS, *names), THEIRS, OWN) == set(types)


def test_a_signature_on_another_policy_is_for_nothing() -> None:
    other = with_digest(replace(THEIRS, version=8))
    for names in (("ops-1", "ops-2"), ("bank",)):
        assert authorised_types(signed(other, *names), THEIRS, OWN) == frozenset()


def test_it_is_the_own_policy_that_says_who_is_responsible() -> None:
    """A peer names signers and owners in its policy as it likes."""
    names = {"stranger": public_text(KEYS["stranger"])}
    claimed = with_digest(
        replace(
            THEIRS,
            keys={**THEIRS.keys, **names},
            organisations={**THEIRS.organisations, "bank": Organisation(name="bank", key="stranger")},
            signing=replace(OWN.signing, threshold=1, keys=("stranger",)) if OWN.signing else None,
        )
    )
    assert authorised_types(signed(claimed, "stranger"), claimed, OWN) == frozenset()
    assert authorised_types(signed(claimed, "bank"), claimed, OWN) == BANK_S


def test_without_an_envelope_nobody_signed() -> None:
    assert authorised_types(b"", THEIRS, OWN) == frozenset()


def test_an_unsigned_policy_of_ones_own_has_owners_still() -> None:
    own = without_signing(OWN)
    assert authorised_types(signed(THEIRS, "ops-1", "ops-2"), THEIRS, own) == frozenset()
    assert authorised_types(signed(THEIRS, "bank"), THEIRS, own) == BANK_S


def test_types_of_nobody_are_for_the_coalition_alone() -> None:
    assert OWN.organisation_of(TypeName("audit/report")) == Organisation(name="audit", key=None)
    everybody = signed(THEIRS, "bank", "rival", "ops-1")
    assert TypeName("audit/report") not in authorised_types(everybody, THEIRS, OWN)


@pytest.mark.parametrize("data", [b"{}", b"\xff", b"[]", Envelope(payload=b"", payload_type=COMMIT_TYPE).encode()])
def test_an_envelope_that_is_none(data: bytes) -> None:
    with pytest.raises(BadInput):
        authorised_types(data, THEIRS, OWN)
    with pytest.raises(BadInput):
        require_signers(data, OWN)
    (words,) = lacking_signatures(data, NEXT, OWN)
    assert words


# Signatures of a version that follows


def test_a_version_that_lacks_nothing() -> None:
    assert lacking_signatures(signed(NEXT, "ops-1", "ops-2"), NEXT, OWN) == ()
    assert lacking_signatures(signed(OWN, "ops-1", "ops-2", "bank", "rival"), OWN, None) == ()


def test_whose_signatures_are_missing_in_words() -> None:
    (words,) = lacking_signatures(signed(NEXT, "ops-1", "bank"), NEXT, OWN)
    assert words == "signing keys of version 1: 1 of 2, signed by ops-1, not signed by ops-2, ops-3"
    found = lacking_signatures(signed(OWN, "ops-1", "ops-2"), OWN, None)
    assert [each.partition(",")[0] for each in found] == ["organisation bank", "organisation rival"]


def test_an_organisation_that_is_concerned_is_asked() -> None:
    definition = OWN.definitions[TypeName("bank/mail")]
    changed = with_digest(
        replace(NEXT, definitions={**NEXT.definitions, definition.name: replace(definition, confidentiality=3)})
    )
    (words,) = lacking_signatures(signed(changed, "ops-1", "ops-2", "rival"), changed, OWN)
    assert "organisation bank" in words
    assert "not signed by bank" in words
    assert lacking_signatures(signed(changed, "ops-1", "ops-2", "bank"), changed, OWN) == ()


def test_an_envelope_around_another_policy() -> None:
    assert lacking_signatures(signed(THEIRS, "ops-1", "ops-2"), NEXT, OWN) == ("its envelope is around another policy",)


def test_without_an_envelope() -> None:
    (words,) = lacking_signatures(b"", NEXT, OWN)
    assert "it came without signatures" in words
    assert "signing keys of version 1" in words


def test_unsigned_policies_lack_nothing_and_cannot_replace_signed_ones() -> None:
    assert lacking_signatures(b"", without_signing(NEXT), without_signing(OWN)) == ()
    assert lacking_signatures(b"", without_signing(OWN), None) == ()
    (words,) = lacking_signatures(b"", without_signing(NEXT), OWN)
    assert "an unsigned policy cannot replace a signed one" in words
    # the first signed one is like a first version: everybody signs
    assert len(lacking_signatures(signed(NEXT, "ops-1", "ops-2"), NEXT, without_signing(OWN))) == 2


# Before anything in it is read


def test_signers_of_the_version_in_force_come_first() -> None:
    require_signers(signed(NEXT, "ops-1", "ops-3"), OWN)
    require_signers(b"", without_signing(OWN))
    with pytest.raises(NotTrusted, match="signatures are missing") as caught:
        require_signers(signed(NEXT, "ops-1", "bank", "stranger"), OWN)
    assert "1 of 2" in caught.value.found
