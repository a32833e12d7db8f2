"""What every `Tpm` must do, in software or in a chip, judged by what a Verifier makes of its answers.

Subclass `TpmContract` and give it the `tpm` fixture and `reopen`. The other hooks are what only somebody around a TPM
can do to it: where a backend lacks them, those tests skip with the reason.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from shamon_host.attestation.credential import Credential, make_credential
from shamon_host.attestation.ek import EkPublic
from shamon_host.attestation.ek_certificate import read_ek_certificate
from shamon_host.attestation.pcr import Bank, PcrSelection
from shamon_host.attestation.ports import MAX_SEALED_BYTES, QUOTED_PCRS, Quote, Tpm
from shamon_host.attestation.quote import QuoteError, QuoteFault, VerifiedQuote, verify_quote
from shamon_host.attestation.tpm_objects import TPM_RH_ENDORSEMENT
from shamon_host.attestation.tpm_public import TpmPublic
from shamon_host.domain.errors import BackendFailed

NONCE = hashlib.sha256(b"a nonce").digest()
SELECTION = PcrSelection.of({Bank.SHA256: QUOTED_PCRS})


def verified(tpm: Tpm, quote: Quote, nonce: bytes = NONCE) -> VerifiedQuote:
    """The quote as a Verifier that knows this TPM's AK sees it."""
    pcrs = {Bank.SHA256: quote.pcr_values}
    return verify_quote(quote.attest, quote.signature, tpm.ak_public(), nonce, SELECTION, pcrs)


class TpmContract:
    """The suite."""

    @pytest.fixture
    def tpm(self) -> Tpm | Iterator[Tpm]:
        """A TPM that works. Its PCRs may hold anything."""
        raise NotImplementedError

    def reopen(self, tpm: Tpm) -> Tpm:
        """The same TPM as the next process of this program finds it."""
        raise NotImplementedError

    def change_pcr(self, tpm: Tpm) -> int:
        """Make something extend one of the quoted PCRs; return its index."""
        pytest.skip("nothing here may change this TPM's PCRs")

    def restart(self, tpm: Tpm) -> Tpm:
        """The same TPM after a reset of its host."""
        pytest.skip("this TPM's host cannot be reset from here")

    def remove_counter(self, tpm: Tpm) -> None:
        """What the TPM's owner can do at any time: TPM2_NV_UndefineSpace of the counter."""
        pytest.skip("nobody here owns this TPM")

    def usurp_counter(self, tpm: Tpm) -> None:
        """Define an ordinary index, which anybody may write, where the counter would be. No counter is there."""
        pytest.skip("nobody here owns this TPM")

    def broken(self) -> Tpm:
        """A TPM that cannot be reached."""
        pytest.skip("no TPM of this kind can be out of reach")

    def test_the_ak_is_an_attestation_key_and_stays_the_same(self, tpm: Tpm) -> None:
        public = tpm.ak_public()
        area = TpmPublic.parse(public)
        area.require_attestation_key()
        assert area.encode() == public
        assert tpm.ak_public() == public

    def test_a_quote_verifies(self, tpm: Tpm) -> None:
        quote = tpm.quote(NONCE)
        facts = verified(tpm, quote)
        assert facts.selection == SELECTION
        assert facts.pcrs[Bank.SHA256] == dict(quote.pcr_values)

    def test_it_gives_exactly_the_quoted_pcrs(self, tpm: Tpm) -> None:
        values = tpm.quote(NONCE).pcr_values
        assert sorted(values) == list(QUOTED_PCRS)
        assert {len(value) for value in values.values()} == {Bank.SHA256.digest_size}

    def test_the_ak_is_of_the_endorsement_hierarchy(self, tpm: Tpm) -> None:
        """So that the counts in a quote are the TPM's own."""
        facts = verified(tpm, tpm.quote(NONCE))
        assert facts.qualified_signer == TpmPublic.parse(tpm.ak_public()).qualified_name(TPM_RH_ENDORSEMENT)

    def test_a_quote_is_for_its_nonce_alone(self, tpm: Tpm) -> None:
        with pytest.raises(QuoteError) as caught:
            verified(tpm, tpm.quote(hashlib.sha256(b"another nonce").digest()))
        assert caught.value.fault is QuoteFault.NONCE

    def test_other_pcr_values_are_not_the_quoted_ones(self, tpm: Tpm) -> None:
        quote = tpm.quote(NONCE)
        values = {**quote.pcr_values, 4: hashlib.sha256().digest()}
        changed = Quote(attest=quote.attest, signature=quote.signature, pcr_values=values)
        with pytest.raises(QuoteError) as caught:
            verified(tpm, changed)
        assert caught.value.fault is QuoteFault.PCR_DIGEST

    def test_time_goes_on_within_one_boot(self, tpm: Tpm) -> None:
        first, second = verified(tpm, tpm.quote(NONCE)), verified(tpm, tpm.quote(NONCE))
        assert second.clock.reset_count == first.clock.reset_count
        assert second.clock.restart_count == first.clock.restart_count
        assert second.clock.clock_ms >= first.clock.clock_ms
        assert second.firmware_version == first.firmware_version

    def test_many_quotes_leave_nothing_behind(self, tpm: Tpm) -> None:
        """A TPM has room for three loaded objects or so."""
        for _ in range(10):
            verified(tpm, tpm.quote(NONCE))

    def test_it_names_its_manufacturer(self, tpm: Tpm) -> None:
        name = tpm.manufacturer()
        assert 1 <= len(name) <= 4
        assert name.isascii()
        assert name.isprintable()

    def test_a_changed_pcr_shows_in_the_next_quote(self, tpm: Tpm) -> None:
        before = tpm.quote(NONCE)
        pcr = self.change_pcr(tpm)
        after = tpm.quote(NONCE)
        verified(tpm, after)
        assert after.pcr_values[pcr] != before.pcr_values[pcr]
        untouched = [index for index in QUOTED_PCRS if index not in {pcr, 10}]
        assert [after.pcr_values[index] for index in untouched] == [before.pcr_values[index] for index in untouched]

    def test_after_a_reset_the_key_is_the_same_and_the_count_one_more(self, tpm: Tpm) -> None:
        public, before = tpm.ak_public(), verified(tpm, tpm.quote(NONCE))
        tpm = self.restart(tpm)
        assert tpm.ak_public() == public
        after = verified(tpm, tpm.quote(NONCE))
        assert after.clock.reset_count == before.clock.reset_count + 1

    def test_the_counter_counts_by_one_and_reading_leaves_it(self, tpm: Tpm) -> None:
        begin = tpm.counter()
        assert tpm.counter() == begin
        first = tpm.increment_counter()
        assert first > 0
        assert begin is None or first == begin + 1
        assert [tpm.counter(), tpm.counter()] == [first, first]
        assert [tpm.increment_counter() for _ in range(3)] == [first + 1, first + 2, first + 3]
        assert tpm.counter() == first + 3

    def test_the_counter_is_the_tpms_and_not_the_processs(self, tpm: Tpm) -> None:
        value = tpm.increment_counter()
        again = self.reopen(tpm)
        assert again.counter() == value
        assert again.increment_counter() == value + 1

    def test_the_counter_stands_still_over_a_reset(self, tpm: Tpm) -> None:
        value = tpm.increment_counter()
        tpm = self.restart(tpm)
        assert tpm.counter() == value
        assert tpm.increment_counter() == value + 1

    def test_a_counter_that_was_removed_is_none_and_begins_above_what_it_had(self, tpm: Tpm) -> None:
        for _ in range(2):
            value = tpm.increment_counter()
            self.remove_counter(tpm)
            assert tpm.counter() is None
            assert tpm.increment_counter() > value

    def test_something_else_in_the_place_of_the_counter_is_refused(self, tpm: Tpm) -> None:
        tpm.increment_counter()
        self.remove_counter(tpm)
        self.usurp_counter(tpm)
        for call in (tpm.counter, tpm.increment_counter, tpm.counter):
            with pytest.raises(BackendFailed, match="is not that counter"):
                call()
        self.remove_counter(tpm)
        assert tpm.counter() is None

    def test_counting_and_quoting_leave_each_other_alone(self, tpm: Tpm) -> None:
        begin = tpm.increment_counter()
        for number in range(1, 6):
            verified(tpm, tpm.quote(NONCE))
            assert tpm.increment_counter() == begin + number

    def test_the_ek_is_one_of_the_tcgs_templates_and_stays_the_same(self, tpm: Tpm) -> None:
        public = tpm.ek_public()
        assert EkPublic.parse(public).encode() == public
        assert self.reopen(tpm).ek_public() == public

    def test_a_certificate_is_that_of_the_ek(self, tpm: Tpm) -> None:
        certificate = tpm.ek_certificate()
        if not certificate:
            pytest.skip("nobody certified this TPM's EK")
        assert EkPublic.of(read_ek_certificate(certificate).public_key()) == EkPublic.parse(tpm.ek_public())

    def test_a_credential_made_without_a_tpm_is_activated(self, tpm: Tpm) -> None:
        ek, name = EkPublic.parse(tpm.ek_public()), TpmPublic.parse(tpm.ak_public()).name
        for secret in (b"s", hashlib.sha256(b"a secret").digest()):
            assert tpm.activate_credential(make_credential(ek, name, secret)) == secret
        verified(tpm, tpm.quote(NONCE))

    def test_many_credentials_leave_nothing_behind(self, tpm: Tpm) -> None:
        ek, name = EkPublic.parse(tpm.ek_public()), TpmPublic.parse(tpm.ak_public()).name
        for number in range(6):
            assert tpm.activate_credential(make_credential(ek, name, bytes([number]))) == bytes([number])

    def test_a_credential_for_another_ak_or_ek_is_not_activated(self, tpm: Tpm) -> None:
        ek, name = EkPublic.parse(tpm.ek_public()), TpmPublic.parse(tpm.ak_public()).name
        other_ek = EkPublic.of(ec.generate_private_key(ec.SECP256R1()).public_key())
        good = make_credential(ek, name, b"secret")
        changed = replace(good, blob=good.blob[:-1] + bytes([good.blob[-1] ^ 1]))
        for bad in (
            make_credential(ek, name[:-1] + bytes([name[-1] ^ 1]), b"secret"),
            make_credential(other_ek, name, b"secret"),
            changed,
        ):
            with pytest.raises(BackendFailed):
                tpm.activate_credential(bad)
        assert tpm.activate_credential(good) == b"secret"

    def test_what_is_sealed_opens_again(self, tpm: Tpm) -> None:
        secrets = [b"s", bytes(range(MAX_SEALED_BYTES))]
        blobs = [tpm.seal(secret) for secret in secrets]
        assert all(secret not in blob for secret, blob in zip(secrets[1:], blobs[1:], strict=True))
        again = self.reopen(tpm)
        for _ in range(3):
            assert [again.unseal(blob) for blob in blobs] == secrets
        assert again.seal(b"s") != blobs[0]

    def test_what_is_sealed_opens_after_a_reset(self, tpm: Tpm) -> None:
        blob = tpm.seal(b"secret")
        assert self.restart(tpm).unseal(blob) == b"secret"

    def test_what_is_no_sealed_secret_does_not_open(self, tpm: Tpm) -> None:
        blob = tpm.seal(b"secret")
        for bad in (b"", blob[:-1], blob + b"\0", blob[:-1] + bytes([blob[-1] ^ 1]), bytes(300)):
            with pytest.raises(BackendFailed):
                tpm.unseal(bad)
        for secret in (b"", bytes(MAX_SEALED_BYTES + 1)):
            with pytest.raises(BackendFailed):
                tpm.seal(secret)
        assert tpm.unseal(blob) == b"secret"
        verified(tpm, tpm.quote(NONCE))

    def test_a_tpm_out_of_reach_is_a_failed_backend(self) -> None:
        broken = self.broken()
        calls = (broken.ak_public, broken.manufacturer, broken.counter, broken.increment_counter)
        endorsement = (broken.ek_public, broken.ek_certificate)
        credential = Credential(blob=b"", encrypted_secret=b"")
        for call in (
            *calls,
            *endorsement,
            lambda: broken.quote(NONCE),
            lambda: broken.activate_credential(credential),
            lambda: broken.seal(b"secret"),
            lambda: broken.unseal(b"blob"),
        ):
            with pytest.raises(BackendFailed):
                call()
