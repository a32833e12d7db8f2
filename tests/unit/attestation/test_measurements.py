"""The claims out of the IMA log: what is demanded must be there, and nothing else but what is known."""

import hashlib
from collections.abc import Callable
from dataclasses import replace

import pytest

from shamon_host.attestation.ima_log import ImaEntry, ima_buf_entry, ima_sig_entry, violation_entry
from shamon_host.attestation.pcr import Bank
from shamon_host.domain.results import ClaimName, ClaimStatus
from shamon_host.testing.machine import IMA_POLICY, BootImage, MeasuredMachine
from tests.unit.attestation.appraised_world import Attested, claim_of, recorded, without_files

GOOD = BootImage()
CODE = "/opt/shamon/lib/python3.11/site-packages/shamon_host/daemon/late.py"
LIBC = "/usr/lib/x86_64-linux-gnu/libc.so.6"


@pytest.fixture
def world() -> Attested:
    return Attested()


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def append(machine: MeasuredMachine, entry: ImaEntry) -> None:
    """Have the kernel log an entry that `MeasuredMachine` has no verb for."""
    machine.tpm.extend(entry.pcr, entry.pcr_digest(Bank.SHA256))
    machine.logs.entries.append(entry)


class TestSoftware:
    def test_an_unknown_program_is_named_with_its_digest(self, world: Attested) -> None:
        world.machine.run_program("/usr/local/bin/unknown", b"\x7fELF?")
        claim = claim_of(world.attest(), ClaimName.SOFTWARE)
        assert "/usr/local/bin/unknown" in claim.where
        assert sha256(b"\x7fELF?").hex() in claim.found
        assert claim.sticky

    def test_a_known_path_with_other_content(self, world: Attested) -> None:
        world.machine.run_program("/usr/sbin/libvirtd", b"\x7fELF backdoor")
        claim = claim_of(world.attest(), ClaimName.SOFTWARE)
        assert sha256(b"\x7fELF libvirtd").hex() in claim.expected
        assert sha256(b"\x7fELF backdoor").hex() in claim.found

    def test_known_content_at_another_path(self, world: Attested) -> None:
        world.machine.run_program("/tmp/libvirtd", b"\x7fELF libvirtd")
        assert claim_of(world.attest(), ClaimName.SOFTWARE).status is ClaimStatus.FAIL

    def test_a_kernel_module(self, world: Attested) -> None:
        world.machine.load_module("/root/stranger.ko", b"module")
        claim = claim_of(world.attest(), ClaimName.SOFTWARE)
        assert "/root/stranger.ko" in claim.where

    def test_the_first_is_named_and_the_others_counted(self, world: Attested) -> None:
        for number in range(3):
            world.machine.run_program(f"/tmp/{number}", b"x")
        claim = claim_of(world.attest(), ClaimName.SOFTWARE)
        assert "/tmp/0" in claim.where
        assert "and 2 more" in claim.reason

    def test_several_digests_of_a_path_may_be_known(self, world: Attested) -> None:
        known = {**world.reference.files, "/usr/bin/ls": frozenset(sha256(c).hex() for c in (b"1", b"2"))}
        world.reference = replace(world.reference, files=known)
        world.machine.run_program("/usr/bin/ls", b"1")
        world.machine.run_program("/usr/bin/ls", b"2")
        assert world.attest().trusted

    def test_a_violation_fails_whatever_path_it_names(self, world: Attested) -> None:
        """Of a violation the replay proves only that it took place."""
        world.machine.race("/usr/sbin/libvirtd")
        claim = claim_of(world.attest(), ClaimName.SOFTWARE)
        assert "open for writing" in claim.reason
        assert claim.sticky

    @pytest.mark.parametrize(
        "entry",
        [
            ima_sig_entry("/usr/sbin/libvirtd", hashlib.sha1(b"\x7fELF libvirtd").digest(), algorithm="sha1"),
            ima_buf_entry("kernel_version", b"another"),
            ima_buf_entry("unheard-of", b"data"),
            ima_sig_entry("/tmp/x", sha256(b"x"))._replace(template="ima-buf"),
            ima_buf_entry("selinux-state", b"initialized=1;enforcing=1;")._replace(template="ima-sig"),
            ima_sig_entry("no-slash", sha256(b"x")),
        ],
        ids=["sha1", "other buffer", "unknown buffer", "file as buffer", "buffer as file", "odd path"],
    )
    def test_what_is_neither_known_file_nor_known_buffer(self, world: Attested, entry: ImaEntry) -> None:
        append(world.machine, entry)
        claim = claim_of(world.attest(), ClaimName.SOFTWARE)
        assert claim.status is ClaimStatus.FAIL
        assert claim.sticky

    def test_an_entry_whose_fields_do_not_fill_it(self, world: Attested) -> None:
        measured = b"\x01\0\0\0x" + b"garbage"
        append(world.machine, ImaEntry(10, "ima-sig", hashlib.sha1(measured).digest(), measured))
        assert "malformed" in claim_of(world.attest(), ClaimName.SOFTWARE).reason

    def test_terminal_escapes_in_a_path_are_shown_not_obeyed(self, world: Attested) -> None:
        world.machine.run_program("/tmp/\x1b[2J", b"x")
        assert "\x1b" not in claim_of(world.attest(), ClaimName.SOFTWARE).where

    def test_an_empty_log_is_absent(self, world: Attested) -> None:
        world.machine.tpm.pcrs[10] = bytes(32)
        world.machine.logs.entries.clear()
        result = world.attest()
        for name in (ClaimName.SOFTWARE, ClaimName.IMA_POLICY, ClaimName.SELINUX, ClaimName.SHAMON_CODE):
            assert claim_of(result, name).status is ClaimStatus.ABSENT


class TestEarlyData:
    def test_excused_before_the_ima_policy_only(self, world: Attested) -> None:
        world.reference = replace(world.reference, early_data=("/var/lib/seed/*",))
        early, later = GOOD.early_files, GOOD.files
        world.machine.boot(replace(GOOD, early_files=(*early, ("/var/lib/seed/random", b"1")), files=later))
        assert world.attest().trusted
        world.machine.run_program("/var/lib/seed/program", b"\x7fELF")
        claim = claim_of(world.attest(), ClaimName.SOFTWARE)
        assert "/var/lib/seed/program" in claim.where


class TestImaPolicy:
    @pytest.mark.parametrize(
        ("path", "word"),
        [
            ("/usr/lib/systemd/systemd", "init"),
            ("/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2", "loader"),
            (LIBC, "libc"),
        ],
    )
    def test_what_is_demanded_and_not_there_is_absent(self, world: Attested, path: str, word: str) -> None:
        world.machine.boot(without_files(GOOD, path))
        claim = claim_of(world.attest(), ClaimName.IMA_POLICY)
        assert claim.status is ClaimStatus.ABSENT
        assert word in claim.reason
        assert path in claim.reason

    def test_it_counts_once_it_comes(self, world: Attested) -> None:
        world.machine.boot(without_files(GOOD, LIBC))
        assert not world.attest().trusted
        world.machine.run_program(LIBC, b"\x7fELF libc")
        assert world.attest().trusted

    def test_another_policy(self, world: Attested) -> None:
        other = tuple((path, b"dont_measure" if path == IMA_POLICY else content) for path, content in GOOD.files)
        world.machine.boot(replace(GOOD, files=other))
        claim = claim_of(world.attest(), ClaimName.IMA_POLICY)
        assert claim.status is ClaimStatus.FAIL
        assert sha256(b"dont_measure").hex() in claim.found

    def test_another_libc(self, world: Attested) -> None:
        other = tuple((path, b"\x7fELF evil" if path == LIBC else content) for path, content in GOOD.early_files)
        world.machine.boot(replace(GOOD, early_files=other))
        result = world.attest()
        assert LIBC in claim_of(result, ClaimName.SOFTWARE).where
        assert claim_of(result, ClaimName.IMA_POLICY).status is ClaimStatus.ABSENT

    def test_a_log_that_began_after_another_boot(self, world: Attested) -> None:
        append(world.machine, ima_sig_entry("boot_aggregate", sha256(b"another boot")))
        claim = claim_of(world.attest(), ClaimName.IMA_POLICY)
        assert "boot_aggregate" in claim.where
        assert claim.status is ClaimStatus.FAIL

    def test_no_boot_aggregate(self, world: Attested) -> None:
        world.machine.tpm.pcrs[10] = bytes(32)
        entries = list(world.machine.logs.entries)
        world.machine.logs.entries.clear()
        for entry in entries[1:]:
            append(world.machine, entry)
        claim = claim_of(world.attest(), ClaimName.IMA_POLICY)
        assert (claim.status, "boot_aggregate" in claim.reason) == (ClaimStatus.ABSENT, True)


def _only(keep: Callable[[str], bool]) -> Attested:
    """A host whose kernel logs only some of its entries."""
    world = Attested()
    world.machine.tpm.pcrs[10] = bytes(32)
    entries = list(world.machine.logs.entries)
    world.machine.logs.entries.clear()
    for entry in entries:
        if keep(entry.fields().path or ""):
            append(world.machine, entry)
    return world


class TestSelinux:
    @pytest.mark.parametrize("name", ["selinux-state", "selinux-policy-hash"])
    def test_not_measured_is_absent(self, name: str) -> None:
        claim = claim_of(_only(lambda path: path != name).attest(), ClaimName.SELINUX)
        assert claim.status is ClaimStatus.ABSENT
        assert name in claim.reason

    def test_permissive(self, world: Attested) -> None:
        world.machine.setenforce(False)
        claim = claim_of(world.attest(), ClaimName.SELINUX)
        assert (claim.found, claim.sticky) == ("enforcing=0", True)

    def test_another_policy(self, world: Attested) -> None:
        world.machine.boot(replace(GOOD, selinux_policy=b"allow all"))
        claim = claim_of(world.attest(), ClaimName.SELINUX)
        assert claim.where.endswith("selinux-policy-hash")
        assert claim.found == sha256(b"allow all").hex()

    def test_a_policy_loaded_later(self, world: Attested) -> None:
        assert world.attest().trusted
        append(world.machine, ima_buf_entry("selinux-policy-hash", sha256(b"later")))
        assert claim_of(world.attest(), ClaimName.SELINUX).status is ClaimStatus.FAIL

    @pytest.mark.parametrize(
        "state", [b"initialized=1;enforcing=1;checkreqprot=1;", b"initialized=0;enforcing=1;", b"", b"\xff\xfe"]
    )
    def test_a_state_that_no_good_boot_was_in(self, world: Attested, state: bytes) -> None:
        append(world.machine, ima_buf_entry("selinux-state", state))
        assert claim_of(world.attest(), ClaimName.SELINUX).status is ClaimStatus.FAIL

    def test_before_its_policy_is_loaded_selinux_decides_nothing(self) -> None:
        world = Attested()
        entries = list(world.machine.logs.entries)
        at = next(number for number, entry in enumerate(entries) if entry.fields().path == "selinux-state")
        world.machine.tpm.pcrs[10] = bytes(32)
        world.machine.logs.entries.clear()
        for entry in (*entries[:at], ima_buf_entry("selinux-state", b"initialized=0;enforcing=0;")):
            append(world.machine, entry)
        assert claim_of(world.attest(), ClaimName.SELINUX).status is ClaimStatus.ABSENT
        for entry in entries[at:]:
            append(world.machine, entry)
        assert world.attest().trusted


class TestShamonCode:
    def test_no_code_read_is_absent(self, world: Attested) -> None:
        world.machine.boot(without_files(GOOD, *(path for path, _ in GOOD.files if path.startswith("/opt/shamon/"))))
        claim = claim_of(world.attest(), ClaimName.SHAMON_CODE)
        assert claim.status is ClaimStatus.ABSENT

    def test_a_module_that_is_not_shamons(self, world: Attested) -> None:
        world.machine.read_by_daemon(CODE, b"import os")
        claim = claim_of(world.attest(), ClaimName.SHAMON_CODE)
        assert CODE in claim.where
        assert claim.sticky

    def test_a_module_that_was_changed(self, world: Attested) -> None:
        path = next(path for path, _ in GOOD.files if path.endswith("__init__.py"))
        world.machine.read_by_daemon(path, b"# patched")
        assert claim_of(world.attest(), ClaimName.SHAMON_CODE).status is ClaimStatus.FAIL

    def test_the_standard_library_is_software(self, world: Attested) -> None:
        world.machine.read_by_daemon("/usr/lib/python3.11/ssl.py", b"# patched")
        assert claim_of(world.attest(), ClaimName.SOFTWARE).status is ClaimStatus.FAIL

    def test_a_module_of_the_image_that_was_not_read_while_recording(self) -> None:
        digest = frozenset({sha256(b"# late").hex()})
        reference = recorded()
        world = Attested(reference=replace(reference, files={**reference.files, CODE: digest}))
        world.machine.read_by_daemon(CODE, b"# late")
        assert world.attest().trusted


def test_a_violation_hides_nothing_of_the_others(world: Attested) -> None:
    append(world.machine, violation_entry("/usr/bin/ls"))
    world.machine.setenforce(False)
    assert {claim.name for claim in world.attest().failures} == {ClaimName.SOFTWARE, ClaimName.SELINUX}
