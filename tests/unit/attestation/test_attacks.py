"""Root of an attested host against the Verifier: TPM and kernel are honest, the log that is shown is root's to choose.

Root may run what is known, extend PCRs, keep files away from the next boot, and tell the log's entries under other
names. What root cannot do is take something out of a PCR. Each test is an attack that must not end in trust.
"""

import hashlib
from collections.abc import Callable
from dataclasses import replace

import pytest

from shamon_host.attestation.evidence import Evidence, Role, leaf
from shamon_host.attestation.ima_log import (
    ImaEntry,
    boot_aggregate,
    encode_ima_log,
    ima_buf_entry,
    ima_sig_entry,
    parse_ima_log,
    violation_entry,
)
from shamon_host.attestation.merkle import MerkleTree, node, root_from_path
from shamon_host.attestation.pcr import Bank
from shamon_host.attestation.reference_model import ReferenceValues
from shamon_host.attestation.reference_record import record
from shamon_host.domain.errors import BadInput
from shamon_host.domain.results import ClaimName, ClaimStatus
from shamon_host.testing.machine import IMA_POLICY, BootImage
from tests.unit.attestation.appraised_world import Attested, claim_of, recorded, without_files

GOOD = BootImage()
POLICY_CONTENT = dict(GOOD.files)[IMA_POLICY]
UNKNOWN = "/usr/local/bin/unknown"


@pytest.fixture
def world() -> Attested:
    return Attested()


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def extend(world: Attested, *entries: ImaEntry) -> None:
    """Root extends PCR 10 by hand and shows entries that explain it."""
    for entry in entries:
        world.machine.tpm.extend(entry.pcr, entry.pcr_digest(Bank.SHA256))
        world.machine.logs.entries.append(entry)


def forged_policy() -> ImaEntry:
    return ima_sig_entry(IMA_POLICY, sha256(POLICY_CONTENT))


def forged_selinux(world: Attested) -> tuple[ImaEntry, ...]:
    return (
        ima_buf_entry("selinux-state", world.reference.selinux.states[0].encode()),
        ima_buf_entry("selinux-policy-hash", sha256(GOOD.selinux_policy)),
    )


class TestForgedEntries:
    """What should have been measured and was not, extended by root afterwards."""

    def test_the_policy_is_kept_from_the_boot_and_told_later(self, world: Attested) -> None:
        """Without a policy file, rules may be written straight to the kernel, which does not measure them."""
        world.machine.boot(without_files(GOOD, IMA_POLICY))
        extend(world, forged_policy())
        claim = claim_of(world.attest(), ClaimName.IMA_POLICY)
        assert (claim.status, claim.sticky) == (ClaimStatus.FAIL, True)
        assert "went on without" in claim.reason

    def test_selinux_is_kept_from_the_boot_and_told_later(self, world: Attested) -> None:
        entries = [entry for entry in world.machine.logs.entries if entry.template != "ima-buf"]
        world.machine.tpm.pcrs[10] = bytes(32)
        world.machine.logs.entries.clear()
        extend(world, *entries, *forged_selinux(world))
        claim = claim_of(world.attest(), ClaimName.IMA_POLICY)
        assert (claim.status, claim.sticky) == (ClaimStatus.FAIL, True)
        assert "before SELinux" in claim.reason

    def test_the_policy_told_again_heals_nothing(self, world: Attested) -> None:
        world.machine.boot(without_files(GOOD, IMA_POLICY))
        extend(world, *forged_selinux(world), forged_policy())
        assert not world.attest().trusted
        extend(world, *forged_selinux(world), forged_policy())
        assert not world.attest().trusted

    def test_the_policy_is_measured_as_a_file_only(self, world: Attested) -> None:
        """`cat /etc/ima/ima-policy` leaves the same entry as loading it does."""
        first = (("/usr/lib/systemd/system/debug-shell.service", b"[Service]"),)
        image = replace(GOOD, files=(*first, *GOOD.files))
        world.reference = recorded_with(first)
        world.machine.boot(image)
        assert claim_of(world.attest(), ClaimName.IMA_POLICY).status is ClaimStatus.FAIL

    def test_a_driver_may_be_loaded_in_between(self, world: Attested) -> None:
        first = (("/usr/lib/modules/6.1.0/kernel/x.ko", b"module"), ("/usr/lib/firmware/x.bin", b"firmware"))
        world.reference = recorded_with(first)
        world.machine.boot(replace(GOOD, files=(*first, *GOOD.files)))
        assert world.attest().trusted

    def test_permissive_is_not_undone_by_a_forged_enforcing(self, world: Attested) -> None:
        world.machine.setenforce(False)
        extend(world, *forged_selinux(world))
        assert claim_of(world.attest(), ClaimName.SELINUX).status is ClaimStatus.FAIL

    def test_enforcing_again_does_not_heal(self, world: Attested) -> None:
        assert world.attest().trusted
        world.machine.setenforce(False)
        world.machine.setenforce(True)
        assert not world.attest().trusted
        world.machine.setenforce(False)  # the kernel logs it once
        world.machine.setenforce(True)
        assert claim_of(world.attest(), ClaimName.SELINUX).sticky


class TestKexec:
    """Another kernel by kexec: PCR 0-9 and resetCount stay, and what it is started with is not in any PCR."""

    def test_a_second_boot_aggregate(self, world: Attested) -> None:
        assert world.attest().trusted
        extend(world, ima_sig_entry("boot_aggregate", boot_aggregate(Bank.SHA256, world.machine.tpm.pcrs)))
        claim = claim_of(world.attest(), ClaimName.IMA_POLICY)
        assert (claim.status, claim.sticky) == (ClaimStatus.FAIL, True)
        assert "another kernel" in claim.reason

    def test_the_images_own_kernel_is_no_program(self, world: Attested) -> None:
        kernel = "/boot/vmlinuz-6.1.0"
        machine = world.machine
        world.reference = record(
            pcrs=machine.tpm.pcrs,
            event_log=machine.logs.event_log(),
            ima_log=machine.logs.ima_log(0),
            manifest={kernel: [sha256(b"kernel").hex()], "/usr/bin/kexec": [sha256(b"kexec").hex()]},
        )
        machine.run_program("/usr/bin/kexec", b"kexec")
        assert world.attest().trusted
        machine.run_program(kernel, b"kernel")
        assert kernel in claim_of(world.attest(), ClaimName.SOFTWARE).where


class TestTheLogThatIsShown:
    """The replay covers bytes and order; everything else in the log is the attacker's."""

    def told(self, world: Attested, change: Callable[[list[ImaEntry]], list[ImaEntry]]) -> bool:
        world.machine.run_program(UNKNOWN, b"\x7fELF ?")
        transcript = world.new_transcript()
        evidence = world.evidence(transcript)
        log = encode_ima_log(change(list(parse_ima_log(evidence.ima_log))))
        return world.appraise(replace(evidence, ima_log=log), transcript).trusted

    def test_left_out(self, world: Attested) -> None:
        assert not self.told(world, lambda entries: entries[:-1])

    def test_moved(self, world: Attested) -> None:
        assert not self.told(world, lambda entries: [entries[-1], *entries[:-1]])

    def test_said_to_be_in_another_pcr(self, world: Attested) -> None:
        assert not self.told(world, lambda entries: [*entries[:-1], entries[-1]._replace(pcr=11)])

    def test_said_to_be_a_violation(self, world: Attested) -> None:
        assert not self.told(world, lambda entries: [*entries[:-1], entries[-1]._replace(template_hash=bytes(20))])

    def test_replaced_by_a_known_one(self, world: Attested) -> None:
        assert not self.told(world, lambda entries: [*entries[:-1], entries[5]])

    @pytest.mark.parametrize(
        "template",
        ["ima-buf", "ima-ng", "ima-ngv2", "ima-sigv2", "ima-modsig", "ima", "evmsig|n-ng|sig", "sig|n-ng|d-ng", "d-ng"],
    )
    def test_told_under_another_template(self, world: Attested, template: str) -> None:
        assert not self.told(world, lambda entries: [*entries[:-1], entries[-1]._replace(template=template)])

    def test_a_signature_that_is_told_as_a_state(self, world: Attested) -> None:
        """A file named like critical data, with the state as its content and as its security.ima."""
        world.machine.setenforce(False)
        good = world.reference.selinux.states[0].encode()
        extend(world, ima_sig_entry("selinux-state", sha256(good), signature=good)._replace(template="ima-buf"))
        assert claim_of(world.attest(), ClaimName.SELINUX).status is ClaimStatus.FAIL

    def test_violations_cannot_be_drowned(self, world: Attested) -> None:
        extend(world, violation_entry(UNKNOWN), *(ima_sig_entry(*known) for known in [(IMA_POLICY, sha256(b"x"))]))
        assert claim_of(world.attest(), ClaimName.SOFTWARE).status is ClaimStatus.FAIL


class TestPaths:
    @pytest.mark.parametrize(
        "path",
        [
            "/usr/sbin/../sbin/libvirtd",
            "//usr/sbin/libvirtd",
            "usr/sbin/libvirtd",
            "/usr/sbin/libvirtd (deleted)",
            "/usr/sbin/libvirtd\n",
            "libvirtd",
            "/" + "x" * 5000,
        ],
    )
    def test_known_content_under_a_name_that_is_nearly_known(self, world: Attested, path: str) -> None:
        world.machine.run_program(path, dict(GOOD.files)["/usr/sbin/libvirtd"])
        assert not world.attest().trusted

    def test_a_name_that_goes_on_behind_its_end(self, world: Attested) -> None:
        extend(world, ima_sig_entry("/usr/sbin/libvirtd\0/tmp/x", sha256(dict(GOOD.files)["/usr/sbin/libvirtd"])))
        assert "malformed" in claim_of(world.attest(), ClaimName.SOFTWARE).reason

    def test_early_data_excuses_nothing_that_is_demanded(self, world: Attested) -> None:
        world.reference = replace(world.reference, early_data=("/etc/*/*", "/opt/shamon/*"))
        other = tuple((path, b"dont_measure" if path == IMA_POLICY else content) for path, content in GOOD.files)
        early = (*GOOD.early_files, ("/opt/shamon/lib/x.py", b"import os"))
        world.machine.boot(replace(GOOD, early_files=early, files=other))
        result = world.attest()
        assert claim_of(result, ClaimName.IMA_POLICY).status is ClaimStatus.FAIL
        assert claim_of(result, ClaimName.SHAMON_CODE).status is ClaimStatus.FAIL


class TestIncrements:
    def test_an_offset_inside_the_log_hides_nothing(self, world: Attested) -> None:
        assert world.attest().trusted
        world.machine.run_program(UNKNOWN, b"?")
        world.machine.run_program("/usr/sbin/libvirtd", dict(GOOD.files)["/usr/sbin/libvirtd"])
        transcript = world.new_transcript()
        evidence = world.evidence(transcript)
        for offset in (1, evidence.ima_offset + 1, evidence.ima_offset + len(evidence.ima_log), 1 << 40):
            shifted = replace(evidence, ima_offset=offset)
            assert not world.appraise(shifted, transcript).trusted

    def test_the_log_of_a_good_boot_after_a_bad_one(self, world: Attested) -> None:
        world.machine.run_program(UNKNOWN, b"?")
        assert not world.attest().trusted
        good = Attested(machine=world.machine)  # boots again: the old log proves nothing of it, and the new one counts
        good.state = world.state
        assert good.attest().trusted

    def test_reference_values_that_change_void_no_entry(self, world: Attested) -> None:
        world.machine.run_program(UNKNOWN, b"?")
        assert not world.attest().trusted
        world.reference = replace(world.reference, buffers={**world.reference.buffers, "other": frozenset({"0" * 64})})
        assert not world.attest().trusted


class TestTree:
    def test_a_path_from_an_inner_node(self) -> None:
        leaves = [sha256(bytes([number])) for number in range(4)]
        tree = MerkleTree.over(leaves)
        inner = node(leaves[0], leaves[1])
        assert root_from_path(inner, 0, (tree.levels[1][1],)) == tree.root  # so a Verifier must make the leaf itself
        assert leaf(Role.INITIATOR, bytes(32), hypervisor_report=b"", network_state=b"", audit_head=bytes(32)) != inner

    @pytest.mark.parametrize(
        ("index", "path"), [(1, ()), (2, (bytes(32),)), (-1, (bytes(32),)), (0, (bytes(32),) * 11)]
    )
    def test_an_index_beyond_the_path(self, index: int, path: tuple[bytes, ...]) -> None:
        with pytest.raises(BadInput):
            root_from_path(bytes(32), index, path)

    def test_one_sides_quote_is_not_the_other_sides(self, world: Attested) -> None:
        transcript = world.new_transcript()
        evidence: Evidence = world.evidence(transcript)
        for path, index in (((), 0), ((sha256(b"sibling"),), 0), ((sha256(b"sibling"),), 1)):
            moved = replace(evidence, merkle_path=path, merkle_index=index)
            result = world.appraise(moved, transcript, role=Role.INITIATOR)
            assert claim_of(result, ClaimName.BINDING).status is ClaimStatus.FAIL


def test_an_event_log_that_lies_changes_no_verdict(world: Attested) -> None:
    transcript = world.new_transcript()
    evidence = world.evidence(transcript)
    assert world.appraise(replace(evidence, event_log=b"lies"), transcript).trusted
    world.machine.boot(replace(GOOD, cmdline=GOOD.cmdline + " selinux=0"))
    transcript = world.new_transcript()
    lying = replace(world.evidence(transcript), event_log=evidence.event_log)
    assert claim_of(world.appraise(lying, transcript), ClaimName.BOOT_CHAIN).status is ClaimStatus.FAIL


def recorded_with(files: tuple[tuple[str, bytes], ...]) -> ReferenceValues:
    """Reference Values that know these files too."""
    reference = recorded()
    more = {path: frozenset({sha256(content).hex()}) for path, content in files}
    return replace(reference, files={**reference.files, **more})
