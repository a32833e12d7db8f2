"""Reference Values taken from a known-good boot, and from the images that it was made of.

`shamon reference record` runs this on a host that somebody has reason to trust, right after its installation. What the
images say stands by itself: PCR 4, 9 and 11 are computed from the unified kernel image and must be those of the boot,
and the runtime policy is the image's manifest. The rest is taken as it was measured.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from shamon_host.attestation.claims.measurements import BOOT_AGGREGATE, SELINUX_POLICY, SELINUX_STATE, walk
from shamon_host.attestation.event_describe import describe
from shamon_host.attestation.event_log import parse_event_log
from shamon_host.attestation.event_model import Event
from shamon_host.attestation.ima_log import ImaEntry, parse_ima_log, replay_until
from shamon_host.attestation.pcr import Bank, initial_value, replay
from shamon_host.attestation.reference_model import (
    APPRAISED_PCRS,
    IMA_PCR,
    CodeReference,
    EventReference,
    PcrReference,
    ReferencePart,
    ReferenceValues,
    SelinuxReference,
    merged_digests,
)
from shamon_host.attestation.reference_part import digest_text
from shamon_host.attestation.uki import pcr4_value, pcr9_value, pcr11_value
from shamon_host.attestation.verifier_state import LogFacts
from shamon_host.attestation.xen_image import is_xen_image
from shamon_host.attestation.xen_image import pcr_values as xen_pcr_values
from shamon_host.domain.errors import NotTrusted

_MAX_NAMED = 5
BOOTED_ALONE = "/boot/"
"""Kernels of the image are started by the firmware. On a running host kexec alone reads them, with a command line of
its caller's choice, and PCRs that stay as they are: so they are no programs that may run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demanded:
    """What a host of this coalition must have measured. The defaults are Debian's paths on x86-64."""

    ima_policy: str = "/etc/ima/ima-policy"
    early: Mapping[str, str] = field(
        default_factory=lambda: {
            "init": "/usr/lib/systemd/systemd",
            "loader": "/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
            "libc": "/usr/lib/x86_64-linux-gnu/libc.so.6",
        }
    )
    code_prefix: str = "/opt/shamon/"
    code_entry_globs: tuple[str, ...] = (
        "*/shamon_host/__init__.py",
        "*/shamon_host/__pycache__/__init__.*.pyc",
    )
    early_data: tuple[str, ...] = ()
    """See `ReferenceValues.early_data`."""


def record(
    *,
    pcrs: Mapping[int, bytes],
    event_log: bytes,
    ima_log: bytes,
    manifest: Mapping[str, Iterable[str]] | None = None,
    uki: bytes | None = None,
    demanded: Demanded | None = None,
) -> ReferenceValues:
    """Reference Values of the boot that these PCRs and logs are from.

    `pcrs` are the values of PCR 0-14, SHA-256 bank, as quoted; `ima_log` is the whole log, read after the quote;
    `manifest` maps a path to the SHA-256 digests (hexadecimal) that its file may have; `uki` is the unified kernel
    image that was booted, or the unified image of Xen. A host with Xen has no event log: `event_log` is empty, the
    image must be given, and the PCRs that it does not determine are taken as they are. Raises BadInput for logs and
    images that cannot be read, NotTrusted where the boot is not one to record: the logs do not explain the PCRs, the
    image is another one, SELinux is not enforcing, something that is demanded was not measured, or a measurement was
    not reliable.
    """
    demanded = demanded or Demanded()
    of_xen = uki is not None and is_xen_image(uki)
    images = _image_values(uki, pcrs, of_xen=of_xen) if uki is not None else frozenset()
    boot = _pcrs_alone(pcrs, of_xen=of_xen) if not event_log else _pcrs_with_log(pcrs, event_log, images)
    entries = parse_ima_log(ima_log)
    vouched = entries[: replay_until(entries, {}, {IMA_PCR: pcrs[IMA_PCR]}).verified]
    files, buffers = measured_in(vouched, demanded)
    known = {
        path: frozenset(digests) for path, digests in (manifest or {}).items() if not path.startswith(BOOTED_ALONE)
    }
    runtime = merged_digests(known, files)
    require_demanded(demanded, files)
    reference = ReferenceValues(
        pcrs=boot,
        ima_policy=demanded.ima_policy,
        early=dict(demanded.early),
        selinux=selinux_in(vouched, buffers),
        code=CodeReference(prefix=demanded.code_prefix, entries=code_entries_in(demanded, files, runtime)),
        files=runtime,
        buffers=other_buffers(buffers),
        early_data=demanded.early_data,
    )
    # What is left: entries in an order that no good boot has.
    _, failures = walk(vouched, LogFacts(), reference, pcrs)
    for failure in failures.values():
        raise NotTrusted(failure.reason, where=failure.where, expected=failure.expected, found=failure.found)
    return reference


def record_part(*, pcr10: bytes, ima_log: bytes, demanded: Demanded | None = None) -> ReferencePart:
    """What this boot has measured, as a part: files, SELinux's states and policies, other critical data. No PCRs.

    `pcr10` is the quoted value, `ima_log` the whole log, read after the quote. Raises as `record` does.
    """
    demanded = demanded or Demanded()
    entries = parse_ima_log(ima_log)
    vouched = entries[: replay_until(entries, {}, {IMA_PCR: pcr10}).verified]
    files, buffers = measured_in(vouched, demanded)
    return ReferencePart(files=files, selinux=selinux_in(vouched, buffers), buffers=other_buffers(buffers))


def not_in_manifest(reference: ReferenceValues, manifest: Mapping[str, Iterable[str]]) -> dict[str, frozenset[str]]:
    """Files whose digests come from the boot alone: what a person should look at before trusting the recording."""
    return {
        path: unexplained
        for path, digests in reference.files.items()
        if (unexplained := digests - frozenset(manifest.get(path, ())))
    }


def _pcrs_with_log(
    pcrs: Mapping[int, bytes], event_log: bytes, images: frozenset[int]
) -> dict[int, tuple[PcrReference, ...]]:
    log = parse_event_log(event_log)
    if Bank.SHA256 not in log.banks:
        raise NotTrusted("the event log has no SHA-256 digests", where="event log", remedy="Enable that PCR bank.")
    return {pcr: _pcr(pcr, pcrs[pcr], log.of_pcr(pcr), log.startup_locality, images) for pcr in APPRAISED_PCRS}


def _pcrs_alone(pcrs: Mapping[int, bytes], *, of_xen: bool) -> dict[int, tuple[PcrReference, ...]]:
    """Without an event log, which a host with Xen alone may lack, once its image is known to be the one that booted."""
    if not of_xen:
        raise NotTrusted(
            "there is no event log",
            where="event log",
            expected="the firmware's log, or on a host with Xen the image that it was booted from",
            remedy="On a host with Xen, give the image with --uki; on any other, find out where its log went.",
        )
    return {pcr: (PcrReference(value=pcrs[pcr]),) for pcr in APPRAISED_PCRS}


def _image_values(uki: bytes, pcrs: Mapping[int, bytes], *, of_xen: bool) -> frozenset[int]:
    """The PCRs that the image determines, after they have been compared with the boot's."""
    computed = xen_pcr_values(uki) if of_xen else {4: pcr4_value(uki), 9: pcr9_value(uki), 11: pcr11_value(uki)}
    for pcr, value in computed.items():
        if pcrs[pcr] != value:
            raise NotTrusted(
                "the host was not booted from this image",
                where=f"PCR {pcr}",
                expected=value.hex(),
                found=pcrs[pcr].hex(),
                remedy="Give the unified image that this host boots, or find out why it booted another.",
            )
    return frozenset(computed)


def _pcr(
    pcr: int, value: bytes, events: tuple[Event, ...], locality: int, images: frozenset[int]
) -> tuple[PcrReference, ...]:
    start = initial_value(Bank.SHA256, pcr, startup_locality=locality)
    if replay(Bank.SHA256, (event.digests[Bank.SHA256] for event in events), start) != value:
        if pcr in images:
            return (PcrReference(value=value),)
        raise NotTrusted(
            "the event log does not explain this boot",
            where=f"PCR {pcr}",
            found=value.hex(),
            remedy="Something extended the PCR outside of the firmware's log; stop it from doing so.",
        )
    return (
        PcrReference(
            value=value,
            events=tuple(
                EventReference(type=event.type_name, digest=event.digests[Bank.SHA256], description=describe(event))
                for event in events
            ),
        ),
    )


def measured_in(
    entries: Iterable[ImaEntry], demanded: Demanded
) -> tuple[dict[str, frozenset[str]], dict[str, frozenset[str]]]:
    """Digests of the files and of the buffers in the log, by name."""
    files: dict[str, frozenset[str]] = {}
    buffers: dict[str, frozenset[str]] = {}
    unreliable: list[str] = []
    early = True
    for entry in entries:
        fields = entry.fields()
        digest, path = fields.file_digest, fields.path
        if entry.violation or digest is None or path is None or not digest_text(digest):
            unreliable.append(entry.describe())
        elif fields.buf is not None and fields.buffer_matches_digest:
            buffers = merged_digests(buffers, {path: frozenset({Bank.SHA256.digest(fields.buf).hex()})})
        elif path != BOOT_AGGREGATE and not (early and any(fnmatchcase(path, g) for g in demanded.early_data)):
            found = digest_text(digest)
            files[path] = files[path] | {found} if path in files else frozenset({found})
        early = early and path != demanded.ima_policy
    if unreliable:
        raise NotTrusted(
            "some measurements of this boot are not reliable",
            where="IMA log",
            expected="digests of SHA-256, 384 or 512, and no file that is open for writing while it is measured",
            found="; ".join(unreliable[:_MAX_NAMED]) + (f"; {len(unreliable)} in all" if unreliable[1:] else ""),
            remedy="Measure less with the IMA policy (no data files), or stop what writes to these files.",
        )
    return files, buffers


def other_buffers(buffers: Mapping[str, frozenset[str]]) -> dict[str, frozenset[str]]:
    """Critical data that is not SELinux's."""
    return {name: digests for name, digests in buffers.items() if name not in {SELINUX_STATE, SELINUX_POLICY}}


def require_demanded(demanded: Demanded, files: Mapping[str, frozenset[str]]) -> None:
    """Raises NotTrusted unless this boot measured what every boot must have measured."""
    for word, path in {"IMA policy": demanded.ima_policy, **demanded.early}.items():
        if path not in files:
            raise NotTrusted(
                f"this boot has not measured its {word}",
                where="IMA log",
                expected=path,
                remedy="Boot with ima_policy=tcb|critical_data, and let systemd load the custom policy.",
            )


def code_entries_in(
    demanded: Demanded, files: Mapping[str, frozenset[str]], runtime: Mapping[str, frozenset[str]]
) -> tuple[str, ...]:
    """Shamon's entry modules: those that were read, or else those that the image has."""
    for known in (files, runtime):
        found = tuple(
            path
            for path in sorted(known)
            if path.startswith(demanded.code_prefix) and any(fnmatchcase(path, g) for g in demanded.code_entry_globs)
        )
        if found:
            return found
    raise NotTrusted(
        "Shamon's own code was not measured",
        where="IMA log",
        expected=f"{demanded.code_prefix}{demanded.code_entry_globs[0].lstrip('*/')}",
        remedy="Start the daemon before recording, and measure what its SELinux domain reads; or give the manifest.",
    )


def selinux_in(entries: Iterable[ImaEntry], buffers: Mapping[str, frozenset[str]]) -> SelinuxReference:
    states: dict[str, None] = {}
    policies: set[str] = set()
    for entry in entries:
        fields = entry.fields()
        if fields.buf is None or fields.path not in buffers or not fields.buffer_matches_digest:
            continue
        if fields.path == SELINUX_STATE:
            states[fields.buf.rstrip(b"\0").decode("ascii", "backslashreplace")] = None
        elif fields.path == SELINUX_POLICY:
            policies.add(fields.buf.hex())
    good = [state for state in states if "initialized=0" not in state.split(";")]
    for state in good:
        if "enforcing=1" not in state.split(";"):
            raise NotTrusted("SELinux was not enforcing in this boot", where=SELINUX_STATE, found=state)
    if not good or not policies:
        raise NotTrusted(
            "this boot has not measured SELinux's state and policy",
            where="IMA log",
            expected=f"{SELINUX_STATE}, {SELINUX_POLICY}",
            remedy="Boot with SELinux enforcing and ima_policy=tcb|critical_data.",
        )
    return SelinuxReference(states=tuple(good), policy_digests=frozenset(policies))
