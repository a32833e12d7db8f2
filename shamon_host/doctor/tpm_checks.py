"""The TPM and the measured boot. Pure."""

from shamon_host.attestation.pcr import Bank
from shamon_host.doctor.facts import HostFacts
from shamon_host.doctor.findings import Finding, Say, listed
from shamon_host.doctor.kernel_checks import require_securityfs
from shamon_host.doctor.look import require_seen

_SECURE_BOOT_BYTES = 5
"""Attributes of the variable, and its one byte."""


def tpm(say: Say, facts: HostFacts) -> Finding:
    answer = facts.tpm.answer
    require_seen(say, answer, what="/dev/tpmrm0")
    remedy = (
        "Switch the TPM on in the firmware; a VM needs one of its own (swtpm). The kernel needs TCG_TIS or TCG_CRB."
    )
    if answer.value is None:
        return say.wrong(answer.bad or "there is no /dev/tpmrm0", expected="a TPM 2.0 that answers", remedy=remedy)
    if answer.value.family != "2.0":
        return say.wrong(f"family {answer.value.family!r}", expected="2.0", remedy=remedy)
    return say.ok("a TPM 2.0, and it answers")


def tpm_bank(say: Say, facts: HostFacts) -> Finding | None:
    """Not told where there is no TPM at all: that is told already."""
    bank, value = facts.tpm.bank, facts.tpm.pcr_10
    if facts.tpm.answer.absent and not bank.value:
        return None
    require_seen(say, bank, value, what="the TPM's SHA-256 bank")
    remedy = "Allocate the SHA-256 bank in the firmware's setup, or with `tpm2_pcrallocate sha256:all`, and reboot."
    if not bank.value:
        return say.wrong("the TPM has no SHA-256 bank", expected="PCRs of SHA-256", remedy=remedy)
    if value.value is None:
        return say.unknown(value.bad or "PCR 10 is not shown", remedy="Look at `tpm2_pcrread sha256:10`.")
    if not value.value.strip("0"):
        return say.wrong(
            "PCR 10 is zero: IMA has extended nothing",
            expected="IMA's measurements in PCR 10",
            remedy="The kernel found its TPM too late, or IMA measures nothing: TCG_TIS and TCG_CRB must be built in.",
        )
    return say.ok("there, and IMA extends PCR 10")


def ek_certificate(say: Say, facts: HostFacts) -> Finding | None:
    if facts.tpm.answer.value is None:
        return None
    if not facts.tpm.answer.value.ek_certificate:
        return say.warning(
            "the TPM has no certificate of its EK",
            expected="one by the TPM's maker",
            remedy="Let the operator pin the EK (`shamon host ek`, then `shamon coalition invite --ek`), or enrol by "
            "hand. An swtpm has none as a rule, and the policy must allow it.",
        )
    return say.ok("the TPM has one")


def uefi(say: Say, facts: HostFacts) -> Finding | None:
    """Dom0 of Xen is not told how the firmware began."""
    if facts.on_xen:
        return None
    efi, secure, stub = facts.tpm.efi, facts.tpm.secure_boot, facts.tpm.stub
    require_seen(say, efi, what="/sys/firmware/efi")
    if not efi.value:
        return say.wrong(
            "this boot was not by UEFI",
            expected="UEFI",
            remedy="Boot by UEFI: other firmware does not measure kernel and command line.",
        )
    state = "unknown"
    if secure.value is not None and len(secure.value) == _SECURE_BOOT_BYTES:
        state = "on" if secure.value[-1] == 1 else "off"
    if stub.unread:
        return say.warning(
            f"UEFI, Secure Boot {state}; its variables cannot be read: {stub.unread}",
            expected="a unified kernel image",
            remedy="Mount efivarfs and look again, as root.",
        )
    if not stub.value:
        return say.warning(
            f"UEFI, Secure Boot {state}, no unified kernel image that says so",
            expected="one EFI file with kernel, initrd and command line, which the firmware measures",
            remedy="Make one with vm_images/uki.py (docs/operating.md, section 1), or record all PCRs as they are.",
        )
    return say.ok(f"UEFI, a unified kernel image, Secure Boot {state}")


def event_log(say: Say, facts: HostFacts) -> Finding | None:
    """Xen's dom0 has none, and is judged by its PCRs."""
    log = facts.tpm.event_log
    if facts.on_xen and log.absent:
        return None
    require_seen(say, log, what="the firmware's event log")
    require_securityfs(say, facts, log)
    if log.value is None:
        return say.wrong(
            log.bad or "there is none",
            expected="/sys/kernel/security/tpm0/binary_bios_measurements",
            remedy="Boot by UEFI with the TPM switched on, and mount securityfs.",
        )
    if Bank.SHA256 not in log.value.banks:
        return say.wrong(
            "it has no SHA-256 digests",
            expected="digests of the SHA-256 bank",
            remedy="Switch the SHA-256 bank on in the firmware, or update it.",
        )
    return say.ok(f"{len(log.value.events)} events")


def pcr_extenders(say: Say, facts: HostFacts) -> Finding:
    there = sorted(unit for unit, state in facts.tpm.units.items() if state != "masked")
    if there:
        return say.wrong(
            f"not masked: {listed(there)}",
            expected="nothing extends PCRs while the host runs",
            remedy=f"systemctl mask {' '.join(there)}; then reboot.",
        )
    masked = sorted(facts.tpm.units)
    return say.ok(f"masked: {listed(masked)}" if masked else "this systemd has no unit that does")
