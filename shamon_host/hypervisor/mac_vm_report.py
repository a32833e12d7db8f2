"""What a host reports of the VM that holds its links, and how a peer judges that: what it was started from, and, where
the policy has it attested, whether it is now.

The host's word about the second counts as much as its word about the first: see
docs/decisions/mac-vm-attested-by-its-host.md.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any

from shamon_host.domain.errors import BadInput
from shamon_host.domain.labels import HostName, VmName, plain_name
from shamon_host.domain.policy import HypervisorKind, PinnedBoot, Policy
from shamon_host.domain.results import Claim, ClaimName, ClaimStatus
from shamon_host.domain.text import is_sha256

MAX_CMDLINE = 2048
"""COMMAND_LINE_SIZE of x86 (arch/x86/include/asm/setup.h)."""
MAX_REASON = 500
NOT_YET = "the MAC VM is not attested yet"
"""Of a claim that is absent: nothing is known against the host."""


class RuntimeState(StrEnum):
    """Where a MAC VM that is to be attested stands."""

    WAITING = "waiting"
    """No answer of it counts, and none was bad."""
    ATTESTED = "attested"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedRuntime:
    """What the host found of a MAC VM that the policy has attested."""

    reference_sha256: str
    """The digest of the Reference Values that it was held against, as the host's policy demands."""
    state: RuntimeState
    reason: str = ""
    """Why it failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedMacVm:
    """The VM that holds the host's links, and what the host started it from, as it compared it with its policy: SHA-256
    of the image below its disk, of kernel and initrd, in lower-case hexadecimal, and the kernel's command line."""

    name: VmName
    image_sha256: str
    boot: PinnedBoot
    runtime: ReportedRuntime | None = None
    """None where the host's policy does not have it attested."""


def mac_vm_document(mac_vm: ReportedMacVm) -> dict[str, Any]:
    """As a JSON object; `read_mac_vm` reads it back."""
    runtime = {} if mac_vm.runtime is None else {"runtime": asdict(mac_vm.runtime)}
    return {"name": mac_vm.name, "image_sha256": mac_vm.image_sha256, **asdict(mac_vm.boot), **runtime}


def read_mac_vm(value: Mapping[str, Any]) -> ReportedMacVm:
    """What a peer says of its MAC VM. Raises BadInput; AttributeError, TypeError or KeyError where it is no object."""
    boot = {each.name for each in fields(PinnedBoot)}
    texts = {key: item for key, item in value.items() if key != "runtime"}
    if set(texts) != {"name", "image_sha256", *boot} or not all(_is_text(each, MAX_CMDLINE) for each in texts.values()):
        wanted = ", ".join(sorted({"name", "image_sha256", *boot}))
        raise BadInput("malformed hypervisor report", expected=f"of the MAC VM: {wanted}")
    return ReportedMacVm(
        name=VmName(plain_name(texts["name"], "VM name")),
        image_sha256=texts["image_sha256"],
        boot=PinnedBoot(**{name: texts[name] for name in boot}),
        runtime=_runtime(value["runtime"]) if "runtime" in value else None,
    )


def reason_in_report(words: str) -> str:
    """Of a failure: cut, and as a report may have it."""
    return "".join(sign if sign.isascii() and sign.isprintable() else "?" for sign in words)[:MAX_REASON]


def check_mac_vm(found: ReportedMacVm | None, *, runs: bool, host: HostName, policy: Policy) -> Claim | str:
    """Whether the VM that holds the host's links is the policy's, runs, was started from what the policy pins, and is
    attested where the policy demands it: the claim `running-labels` where not, else what to say of it.

    `runs`: the report has it among the domains that run.
    """
    wanted = policy.hosts[host].mac_vm if host in policy.hosts else None
    if wanted is None:
        if found is not None:
            return _claim(ClaimStatus.FAIL, "a VM holds the host's links", where=found.name, expected="the host itself")
        return ""
    if found is None:
        return _claim(ClaimStatus.ABSENT, "nothing is said of the MAC VM", where=host, expected=wanted)
    if found.name != wanted:
        return _claim(ClaimStatus.FAIL, "another VM holds the host's links", expected=wanted, found=found.name)
    if not runs:
        return _claim(ClaimStatus.ABSENT, "the MAC VM does not run", where=wanted)
    image = policy.image_of(wanted)
    pins = {"image": image.sha256, **(asdict(image.boot) if image.boot is not None else {})}
    for what, was in {"image": found.image_sha256, **asdict(found.boot)}.items():
        expected = pins.get(what, "")
        if expected != was:
            return _claim(
                ClaimStatus.FAIL,
                f"the MAC VM was started from another {what.removesuffix('_sha256')} than the policy pins",
                where=wanted,
                expected=expected,
                found=was,
            )
    return _check_runtime(found, host=host, policy=policy)


def _check_runtime(found: ReportedMacVm, *, host: HostName, policy: Policy) -> Claim | str:
    started = f"; the MAC VM {found.name} was started from what the policy pins"
    demand, runtime = policy.attested(found.name), found.runtime
    if demand is None:
        on_xen = policy.hypervisor_of(host) is HypervisorKind.XEN
        why = "a paravirtualised guest of Xen has no TPM" if on_xen else "the policy does not have it attested"
        return f"{started} (macvm.runtime absent: {why}, so what it runs since, nobody vouches for)"
    if runtime is None:
        return _claim(
            ClaimStatus.ABSENT,
            "nothing is said of the MAC VM's attestation",
            where=found.name,
            expected=f"attested by its host, as {demand.name} demands",
        )
    if runtime.reference_sha256 != demand.sha256:
        return _claim(
            ClaimStatus.FAIL,
            "the MAC VM is held against other Reference Values than the policy names",
            where=found.name,
            expected=demand.sha256,
            found=runtime.reference_sha256,
        )
    match runtime.state:
        case RuntimeState.WAITING:
            return _claim(ClaimStatus.ABSENT, NOT_YET, where=found.name, expected="attested by its host")
        case RuntimeState.FAILED:
            return _claim(
                ClaimStatus.FAIL,
                f"the MAC VM's attestation failed: {runtime.reason}",
                where=found.name,
                expected="attested by its host",
            )
        case RuntimeState.ATTESTED:
            return (
                f"{started}, and runs what the policy's Reference Values {demand.name} have, as its host attests "
                "(macvm.runtime pass)"
            )


def _runtime(value: Mapping[str, Any]) -> ReportedRuntime:
    wanted = {each.name for each in fields(ReportedRuntime)}
    if set(value) != wanted or not all(isinstance(each, str) for each in value.values()):
        raise BadInput("malformed hypervisor report", expected=f"of the MAC VM: {', '.join(sorted(wanted))}")
    digest, state, reason = value["reference_sha256"], value["state"], value["reason"]
    if not is_sha256(digest):
        raise BadInput("malformed hypervisor report", expected="a SHA-256 digest, 64 lower-case hexadecimal digits")
    of_state = state in tuple(RuntimeState) and bool(reason) == (state == RuntimeState.FAILED)
    if not of_state or reason != reason_in_report(reason):
        raise BadInput("malformed hypervisor report", expected="waiting, attested, or failed with a reason")
    return ReportedRuntime(reference_sha256=digest, state=RuntimeState(state), reason=reason)


def is_not_yet(claim: Claim) -> bool:
    """Whether all that keeps a host from being trusted is that its MAC VM has not answered yet: it says nothing about
    the host."""
    return (claim.name, claim.status, claim.reason) == (ClaimName.RUNNING_LABELS, ClaimStatus.ABSENT, NOT_YET)


def _is_text(value: object, most: int) -> bool:
    return isinstance(value, str) and len(value) <= most


def _claim(status: ClaimStatus, reason: str, *, where: str = "", expected: str = "", found: str = "") -> Claim:
    return Claim(
        name=ClaimName.RUNNING_LABELS, status=status, reason=reason, where=where, expected=expected, found=found
    )
