"""What Reference Values accept beside a digest under a path, and what none of it ever excuses."""

import base64
import hashlib
import json
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from shamon_host.attestation.claims.measurements import LogFailure, walk
from shamon_host.attestation.ima_entry import ImaEntry
from shamon_host.attestation.ima_log import ima_sig_entry, violation_entry
from shamon_host.attestation.pcr import Bank
from shamon_host.attestation.reference_lookup import ReferenceLookup
from shamon_host.attestation.reference_model import ReferencePart, ReferenceValues, SignedFiles
from shamon_host.attestation.reference_part import part_document
from shamon_host.attestation.reference_paths import PathPatterns, exact_pattern, too_wide
from shamon_host.attestation.reference_values import parse_any, parse_reference_values
from shamon_host.attestation.verifier_state import LogFacts
from shamon_host.domain.errors import BadInput
from shamon_host.domain.results import Claim, ClaimName, ClaimStatus
from shamon_host.testing.machine import IMA_POLICY
from tests.examples import examples
from tests.unit.attestation.appraised_world import Attested, claim_of
from tests.unit.attestation.measured_world import (
    CODE,
    LIBC,
    entries,
    good_boot,
    good_reference,
    hexdigest,
    logs,
    of_template,
    parts,
    references,
)

PROGRAM = "/var/lib/app/program"
CONTENT = b"\x7fELF new"


def attested(part: ReferencePart, *, path: str = PROGRAM, content: bytes = CONTENT) -> Claim:
    """The claim `software` of a host that ran a program which the part is about."""
    world = Attested()
    world.reference = world.reference.merged(part)
    world.machine.run_program(path, content)
    return claim_of(world.attest(), ClaimName.SOFTWARE)


def failures(
    entries_: tuple[ImaEntry, ...], reference: ReferenceValues
) -> tuple[LogFacts, dict[ClaimName, Claim], list[LogFailure]]:
    found: list[LogFailure] = []
    facts, first = walk(entries_, LogFacts(), reference, good_boot().pcrs, on_failure=found.append)
    return facts, first, found


class TestPackages:
    def test_a_file_of_a_package_is_known(self) -> None:
        part = ReferencePart(packages={"app 1.0-1": {PROGRAM: frozenset({hexdigest(CONTENT)})}})
        assert attested(part).status is ClaimStatus.PASS

    def test_a_verdict_names_the_package(self) -> None:
        part = ReferencePart(packages={"app 1.0-1": {PROGRAM: frozenset({hexdigest(b"old")})}})
        claim = attested(part)
        assert claim.expected == f"sha256:{hexdigest(b'old')}, as in package app 1.0-1"
        assert "not the known one" in claim.reason

    def test_an_upgrade_replaces_its_group_alone(self) -> None:
        digests = frozenset({hexdigest(CONTENT)})
        before = ReferencePart(packages={"app 1": {PROGRAM: digests}, "app-data 1": {"/var/lib/x/y": digests}})
        newer = ReferencePart(packages={"app 2": {PROGRAM: digests}})
        assert set(before.merged(newer).packages) == {"app 1", "app 2", "app-data 1"}
        assert set(before.without_other_versions(newer).merged(newer).packages) == {"app 2", "app-data 1"}

    @settings(max_examples=examples(100), deadline=None)
    @given(log=logs(), reference=references())
    def test_grouped_values_accept_the_same(self, log: tuple[ImaEntry, ...], reference: ReferenceValues) -> None:
        grouped = reference.grouped()
        paths = {*reference.files, *(path for files in reference.packages.values() for path in files)}
        assert all(reference.lookup.digests(path) == grouped.lookup.digests(path) for path in paths)
        assert failures(log, reference) == failures(log, grouped)
        for files in grouped.packages.values():
            assert not any(grouped.files.get(path, frozenset()) & digests for path, digests in files.items())

    def test_demanded_files_may_be_of_a_package(self) -> None:
        """What must have been measured may be known by its package alone."""
        reference = good_reference()
        files = {path: digests for path, digests in reference.files.items() if path != LIBC}
        grouped = replace(reference, files=files, packages={"libc6 2": {LIBC: reference.files[LIBC]}})
        again = parse_reference_values(json.dumps(grouped.to_document()).encode())
        assert not failures(good_boot().entries, again)[1]
        assert "libc" in failures(good_boot().entries, again)[0].early


class TestDigestsAlone:
    def test_the_content_is_known_under_any_path(self) -> None:
        part = ReferencePart(digests=frozenset({hexdigest(CONTENT)}))
        assert attested(part).status is ClaimStatus.PASS
        assert attested(part, path="/somewhere/else").status is ClaimStatus.PASS
        assert attested(part, content=b"other").status is ClaimStatus.FAIL


class TestHashes:
    """Kernels measure with the hash that `ima_hash` says; the template says of which kind a digest is."""

    @pytest.mark.parametrize("algorithm", ["sha384", "sha512"])
    def test_a_digest_with_its_hash(self, algorithm: str) -> None:
        digest = hashlib.new(algorithm, CONTENT)
        part = ReferencePart(files={PROGRAM: frozenset({f"{algorithm}:{digest.hexdigest()}"})})
        entry = ima_sig_entry(PROGRAM, digest.digest(), algorithm=algorithm)
        log = (*good_boot().entries, entry)
        assert not failures(log, good_reference().merged(part))[1]
        (found,) = failures(log, good_reference())[2]
        assert found.content == f"{algorithm}:{digest.hexdigest()}"
        other = ReferencePart(files={PROGRAM: frozenset({f"{algorithm}:{hashlib.new(algorithm).hexdigest()}"})})
        assert "as in" not in failures(log, good_reference().merged(other))[1][ClaimName.SOFTWARE].expected
        assert f"{algorithm}:" in failures(log, good_reference().merged(other))[1][ClaimName.SOFTWARE].expected

    def test_a_verity_digest_is_no_digest_of_the_content(self) -> None:
        content = ReferencePart(files={PROGRAM: frozenset({hexdigest(CONTENT)})})
        verity = ReferencePart(files={PROGRAM: frozenset({f"verity:sha256:{hexdigest(CONTENT)}"})})
        plain = ima_sig_entry(PROGRAM, hashlib.sha256(CONTENT).digest())
        for part, kind in ((content, "ima"), (verity, "verity")):
            for entry_kind in ("ima", "verity"):
                log = (*good_boot().entries, of_template("ima-sigv2", plain, entry_kind))
                assert bool(failures(log, good_reference().merged(part))[1]) == (kind != entry_kind)

    @pytest.mark.parametrize(
        "digest",
        [
            "sha1:" + "ab" * 20,
            "sha512:" + "ab" * 32,
            "sha256:" + "ab" * 32,
            "verity:" + "ab" * 32,
            "verity:sha256:" + "AB" * 32,
            "md5:" + "ab" * 16,
            "sha512:" + "ab" * 64 + " ",
            ":" + "ab" * 32,
            "ab" * 64,
        ],
    )
    def test_another_way_to_write_one_is_refused(self, digest: str) -> None:
        with pytest.raises(BadInput, match="files"):
            parse_any(json.dumps({"format": "shamon-reference-part/2", "files": {"/a": [digest]}}).encode())


class TestPatterns:
    def test_any_content_is_accepted_and_counted(self) -> None:
        part = ReferencePart(patterns=("/var/lib/app/*",))
        assert "1 excused by the pattern of their path" in attested(part).reason
        assert attested(part, path="/var/lib/apps/x").status is ClaimStatus.FAIL

    @pytest.mark.parametrize(
        ("pattern", "why"),
        [
            ("/usr/lib/*", "programs may be below /usr/"),
            ("/opt/x/y", "programs may be below /opt/"),
            ("/tmp/x/*", "programs may be below /tmp/"),
            ("/home/a/b/*", "programs may be below /home/"),
            ("/var/*", "two directories"),
            ("/*/log/app/*", "two directories"),
            ("/[u]sr/bin/*", "two directories"),
            ("/v?r/log/app/*", "two directories"),
            ("*", "no absolute path"),
            ("var/log/*", "no absolute path"),
            ("/var/log/../../usr/bin/*", "no absolute path"),
            ("/var//log/*", "no absolute path"),
            ("/var/log/./x", "no absolute path"),
            ("/var/log/" + "x" * 5000, "longer"),
        ],
    )
    @pytest.mark.parametrize("key", ["patterns", "violations"])
    def test_one_that_could_excuse_programs_is_refused(self, key: str, pattern: str, why: str) -> None:
        assert why in too_wide(pattern)
        with pytest.raises(BadInput) as caught:
            parse_any(json.dumps({"format": "shamon-reference-part/2", key: [pattern]}).encode())
        assert f"{key}.0" in caught.value.what
        assert why in caught.value.expected

    @pytest.mark.parametrize(
        "pattern", ["/srv/shamon/data/*", "/srv/shamon/*.json", "/etc/ima/*", "/etc/ima/ima-policy"]
    )
    def test_one_that_names_what_is_demanded_is_refused(self, pattern: str) -> None:
        code = replace(good_reference().code, prefix="/srv/shamon/data/code/")
        reference = replace(good_reference(), code=code, patterns=(pattern,))
        if pattern == "/srv/shamon/*.json":
            assert PathPatterns((pattern,)).match("/srv/shamon/data/code/x.json")  # a star stands for slashes too
        if pattern.startswith("/srv/shamon/data/"):
            assert PathPatterns((pattern,)).match("/srv/shamon/data/code/x")
        with pytest.raises(BadInput, match=r"patterns\.0"):
            parse_reference_values(json.dumps(reference.to_document()).encode())

    @pytest.mark.parametrize("path", ["/var/log/[x]", "/var/log/a*b?", "/var/log/plain", "/var/lib/é"])
    def test_an_exact_pattern_names_one_path(self, path: str) -> None:
        patterns = PathPatterns((exact_pattern(path),))
        assert patterns.match(path)
        assert not patterns.match(path + "x")
        assert not patterns.match("/var/log/x")


class TestViolations:
    def test_they_are_refused_unless_the_values_tolerate_them(self) -> None:
        world = Attested()
        world.machine.race("/var/log/app/log")
        assert claim_of(world.attest(), ClaimName.SOFTWARE).status is ClaimStatus.FAIL

    def test_a_data_file_may_be_written(self) -> None:
        world = Attested()
        world.reference = world.reference.merged(ReferencePart(violations=("/var/log/app/*",)))
        world.machine.race("/var/log/app/log")
        world.machine.race("/var/log/app/log")
        claim = claim_of(world.attest(), ClaimName.SOFTWARE)
        assert claim.status is ClaimStatus.PASS
        assert "2 of data files that were being written" in claim.reason
        world.machine.race("/usr/sbin/libvirtd")
        assert claim_of(world.attest(), ClaimName.SOFTWARE).status is ClaimStatus.FAIL

    def test_known_content_in_a_violation_is_no_known_file(self) -> None:
        """Nothing in a violation is proved: it must not pass for the measurement that it looks like."""
        known = good_boot().entries[-1]
        disguised = known._replace(template_hash=bytes(20))
        _, first, _ = failures((*good_boot().entries, disguised), good_reference())
        assert "open for writing" in first[ClaimName.SOFTWARE].reason


class TestSignatures:
    key = ec.generate_private_key(ec.SECP256R1())

    def rule(self, prefix: str = "/") -> ReferencePart:
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        der = self.key.public_key().public_bytes(serialization.Encoding.DER, form)
        return ReferencePart(signed=(SignedFiles(key=base64.b64encode(der).decode(), prefix=prefix),))

    def signed(self, path: str, content: bytes, *, over: bytes | None = None) -> ImaEntry:
        """As evmctl signs: version 2, SHA-256 (4 in the kernel's list), key id from the key's point."""
        digest = hashlib.sha256(content).digest()
        point = serialization.PublicFormat.UncompressedPoint
        key_id = hashlib.sha1(self.key.public_key().public_bytes(serialization.Encoding.X962, point)).digest()[-4:]
        made = self.key.sign(
            digest if over is None else hashlib.sha256(over).digest(), ec.ECDSA(utils.Prehashed(hashes.SHA256()))
        )
        return ima_sig_entry(path, digest, signature=b"\x03\x02\x04" + key_id + len(made).to_bytes(2, "big") + made)

    def software(self, entry: ImaEntry, part: ReferencePart) -> Claim:
        world = Attested()
        world.reference = world.reference.merged(part)
        world.machine.tpm.extend(10, entry.pcr_digest(Bank.SHA256))
        world.machine.logs.entries.append(entry)
        return claim_of(world.attest(), ClaimName.SOFTWARE)

    def test_a_signed_file_is_accepted_and_counted(self) -> None:
        claim = self.software(self.signed(PROGRAM, CONTENT), self.rule())
        assert claim.status is ClaimStatus.PASS
        assert "1 by their signature" in claim.reason

    def test_below_its_directory_alone(self) -> None:
        entry = self.signed(PROGRAM, CONTENT)
        assert self.software(entry, self.rule("/var/lib/")).status is ClaimStatus.PASS
        assert self.software(entry, self.rule("/usr/lib/")).status is ClaimStatus.FAIL

    def test_a_signature_over_something_else(self) -> None:
        assert self.software(self.signed(PROGRAM, CONTENT, over=b"other"), self.rule()).status is ClaimStatus.FAIL

    def test_no_signature_and_no_rule(self) -> None:
        unsigned = ima_sig_entry(PROGRAM, hashlib.sha256(CONTENT).digest())
        assert self.software(unsigned, self.rule()).status is ClaimStatus.FAIL
        assert self.software(self.signed(PROGRAM, CONTENT), ReferencePart()).status is ClaimStatus.FAIL

    @pytest.mark.parametrize("path", [LIBC, IMA_POLICY, CODE])
    def test_a_signature_says_nothing_of_where_a_file_belongs(self, path: str) -> None:
        """So what is demanded of a path is a digest under that path."""
        _, first, _ = failures((*good_boot().entries, self.signed(path, CONTENT)), good_reference().merged(self.rule()))
        assert first

    def test_a_known_file_may_have_a_signature(self) -> None:
        part = ReferencePart(files={PROGRAM: frozenset({hexdigest(CONTENT)})})
        assert self.software(self.signed(PROGRAM, CONTENT, over=b"other"), part).status is ClaimStatus.PASS

    @pytest.mark.parametrize("key", ["", "AAAA", "no base64!", base64.b64encode(b"x" * 100).decode()])
    def test_a_key_that_is_none(self, key: str) -> None:
        document = {"format": "shamon-reference-part/2", "signed": [{"key": key, "prefix": "/"}]}
        with pytest.raises(BadInput, match=r"signed\.0\.key"):
            parse_any(json.dumps(document).encode())


class TestParts:
    @settings(max_examples=examples(100), deadline=None)
    @given(parts())
    def test_what_is_written_is_read_back(self, part: ReferencePart) -> None:
        """A part as a part, and in whole values."""
        assert parse_any(json.dumps(part_document(part)).encode()) == part
        whole = good_reference().merged(part)
        again = parse_reference_values(json.dumps(whole.to_document()).encode())
        assert again == whole
        assert again.digest == whole.digest

    @pytest.mark.parametrize(
        ("document", "key"),
        [
            ({"files": {"/a": []}}, "files./a"),
            ({"pcrs": {"10": []}}, "pcrs.10"),
            ({"pcrs": {"4": []}}, "pcrs.4"),
            ({"packages": {"app": {"/a": ["ab" * 32]}}}, "packages.app"),
            ({"packages": {"app 1": {}}}, "packages.app 1"),
            ({"packages": {"app 1 2": {"/a": ["ab" * 32]}}}, "packages.app 1 2"),
            ({"digests": ["AB" * 32]}, "digests.0"),
            ({"signed": [{"key": "AAAA"}]}, "signed.0.prefix"),
            ({"ima_policy": "/etc/ima"}, "ima_policy"),
            ({"selinux": {"states": ["enforcing=0"]}}, "selinux.states.0"),
            ({"version": 3}, "version"),
        ],
    )
    def test_a_mistake_is_named(self, document: dict[str, Any], key: str) -> None:
        with pytest.raises(BadInput) as caught:
            parse_any(json.dumps({"format": "shamon-reference-part/2"} | document).encode())
        assert key in caught.value.what

    def test_values_of_the_format_before(self) -> None:
        document = good_reference().to_document()
        for key in ("version", "parent", "packages", "digests", "signed", "patterns", "violations"):
            del document[key]
        old = parse_reference_values(json.dumps(document | {"format": "shamon-reference-values/1"}).encode())
        assert old == good_reference()
        with pytest.raises(BadInput, match="unknown key at patterns"):
            parse_reference_values(
                json.dumps(document | {"format": "shamon-reference-values/1", "patterns": []}).encode()
            )

    @pytest.mark.parametrize("version", [0, -1, 1.5, "2", True, None, 2**60])
    def test_a_version_that_is_none(self, version: object) -> None:
        with pytest.raises(BadInput, match="version"):
            parse_reference_values(json.dumps(good_reference().to_document() | {"version": version}).encode())

    def test_the_version_after(self) -> None:
        first = good_reference()
        second = first.merged(ReferencePart(digests=frozenset({hexdigest(b"x")}))).following(first)
        assert (second.version, second.parent) == (2, first.digest)


class TestProperties:
    @settings(max_examples=examples(200), deadline=None)
    @given(log=logs(), reference=references())
    def test_the_short_way_says_what_the_long_way_says(
        self, log: tuple[ImaEntry, ...], reference: ReferenceValues
    ) -> None:
        class Slow(ReferenceLookup):
            def recognises(self, template: str, measured: bytes) -> bool:
                return False

        slow = replace(reference)
        demanded = (slow.ima_policy, *slow.early.values(), *slow.code.entries)
        vars(slow)["lookup"] = Slow(slow, demanded=demanded, code_prefix=slow.code.prefix)
        told = failures(log, slow)
        assert failures(log, reference) == told  # at first sight
        assert failures(log, reference) == told  # as recognised before
        assert not any(map(slow.lookup.recognised, ("ima-ng", "ima-sig", "ima-ngv2", "ima-sigv2")))

    def test_an_increment_that_begins_before_the_ima_policy(self) -> None:
        """A known program does not belong there, wherever the Verifier has stopped reading before."""
        boot = good_boot().entries
        at = next(number for number, entry in enumerate(boot) if entry.fields().path == IMA_POLICY)
        facts, first = walk(boot[:at], LogFacts(), good_reference(), good_boot().pcrs)
        assert not first
        _, first = walk(boot[at + 1 :], facts, good_reference(), good_boot().pcrs)
        assert "without the IMA policy" in first[ClaimName.IMA_POLICY].reason
        assert f"entry {at + 1}, /usr/sbin/libvirtd" in first[ClaimName.IMA_POLICY].where

    @settings(max_examples=examples(200), deadline=None)
    @given(log=logs(), reference=references(), part=parts())
    def test_merging_never_narrows(
        self, log: tuple[ImaEntry, ...], reference: ReferenceValues, part: ReferencePart
    ) -> None:
        before, after = (failures(log, each) for each in (reference, reference.merged(part)))
        if not before[1]:
            assert not after[1]
        # Another IMA policy that becomes known ends the time in which data files are excused: no part may do so here.
        assume(all(IMA_POLICY not in table for table in (part.files, *part.packages.values())))
        failed = {(failure.number, failure.path, failure.claim.name) for failure in before[2]}
        assert {(failure.number, failure.path, failure.claim.name) for failure in after[2]} <= failed

    @settings(max_examples=examples(200), deadline=None)
    @given(
        path=st.sampled_from(
            [LIBC, IMA_POLICY, CODE, *good_reference().code.entries, *good_reference().early.values()]
        ),
        at=st.integers(1, len(good_boot().entries)),
        wide=st.sampled_from(["*", "/*", "/usr/*", "/opt/*", "/etc/*", "/opt/shamon/*"]),
        violation=st.booleans(),
        others=st.lists(entries(), max_size=3),
    )
    def test_nothing_that_is_wider_than_a_path_excuses_what_is_demanded(
        self, path: str, at: int, wide: str, violation: bool, others: list[ImaEntry]
    ) -> None:
        """Not even values that could not be read from a file."""
        strange = b"strange"
        reference = replace(
            good_reference(),
            patterns=(wide,),
            violations=(wide,),
            early_data=(wide,),
            digests=frozenset({hexdigest(strange)}),
        )
        entry = violation_entry(path) if violation else ima_sig_entry(path, hashlib.sha256(strange).digest())
        boot = good_boot().entries
        _, _, found = failures((*boot[:at], entry, *boot[at:], *others), reference)
        assert at + 1 in {failure.number for failure in found}


@pytest.mark.parametrize("template", ["ima-ng", "ima-sig", "ima-ngv2", "ima-sigv2"])
@pytest.mark.parametrize("signature", [b"", b"\x03\x02\x04 and so on"])
def test_a_known_file_is_found_by_what_the_kernel_hashed(template: str, signature: bytes) -> None:
    """Under each template that has a digest and a path, with and without a signature; whatever is amiss is read."""
    part = ReferencePart(files={PROGRAM: frozenset({hexdigest(CONTENT)})})
    lookup = good_reference().merged(part).lookup
    entry = of_template(template, ima_sig_entry(PROGRAM, hashlib.sha256(CONTENT).digest(), signature=signature))
    for _ in range(2):
        assert lookup.recognises(template, entry.measured)
        for wrong in (entry.measured[:-1], entry.measured + b"\0", entry.measured[1:], b"", entry.measured[:50]):
            assert not lookup.recognises(template, wrong)
    unsigned = not signature or template in {"ima-ng", "ima-ngv2"}
    assert lookup.recognised(template) == ({entry.measured} if unsigned else set())


def test_what_is_recognised_is_bounded_by_what_is_known() -> None:
    """Not by what a log repeats, with a new signature each time."""
    part = ReferencePart(files={PROGRAM: frozenset({hexdigest(CONTENT)})})
    lookup = good_reference().merged(part).lookup
    digest = hashlib.sha256(CONTENT).digest()
    for number in range(100):
        assert lookup.recognises("ima-sig", ima_sig_entry(PROGRAM, digest, signature=b"%d" % number).measured)
    assert lookup.recognised("ima-sig") == set()
    assert not lookup.recognises("ima-sig", ima_sig_entry(PROGRAM, bytes(32)).measured)


def test_templates_that_have_to_be_read() -> None:
    lookup = good_reference().lookup
    for template in ("ima", "ima-buf", "ima-modsig", "evm-sig", "n-ng|d-ng"):
        assert lookup.recognised(template) == frozenset()
        assert not lookup.recognises(template, good_boot().entries[-1].measured)
    assert lookup.recognises("ima-sig", good_boot().entries[-1].measured)
