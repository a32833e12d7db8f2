"""Reference Values of guests, taken from a known-good start of a VM that is made from the image.

The VM has to be one that nobody else has reached: its ports are down until it is attested, which it is not before
somebody has recorded it. What its image's manifest says stands by itself; the rest is taken as it was measured.
"""

from collections.abc import Iterable, Mapping

from shamon_host.attestation.claims.measurements import SELINUX_STATE, walk
from shamon_host.attestation.guest_reference import GuestBoot, GuestReference
from shamon_host.attestation.ima_log import parse_ima_log, replay_until
from shamon_host.attestation.reference_model import (
    APPRAISED_PCRS,
    IMA_PCR,
    CodeReference,
    PcrReference,
    ReferenceValues,
    SelinuxReference,
    merged_digests,
)
from shamon_host.attestation.reference_record import (
    Demanded,
    code_entries_in,
    measured_in,
    other_buffers,
    require_demanded,
    selinux_in,
)
from shamon_host.attestation.verifier_state import LogFacts
from shamon_host.domain.errors import NotTrusted

OF_MAC_VM = Demanded(
    early={
        "init": "/usr/sbin/init",
        "loader": "/usr/lib64/ld-linux-x86-64.so.2",
        "libc": "/usr/lib/x86_64-linux-gnu/libc.so.6",
    }
)
"""What a VM that holds a host's links must have measured: it has an init of its own, and no service manager."""


def record_guest(
    *,
    pcrs: Mapping[int, bytes],
    ima_log: bytes,
    boot: GuestBoot,
    manifest: Mapping[str, Iterable[str]] | None = None,
    demanded: Demanded | None = None,
) -> GuestReference:
    """Reference Values of the start that these PCRs and this log are from; as `reference_record.record`.

    `pcrs`: as quoted; `ima_log`: the whole log, read after the quote; `boot`: what the host digested. SELinux is taken
    in where the guest has it. Raises BadInput for a log that cannot be read, NotTrusted for a start that is none to
    record.
    """
    demanded = demanded or Demanded()
    entries = parse_ima_log(ima_log)
    vouched = entries[: replay_until(entries, {}, {IMA_PCR: pcrs[IMA_PCR]}).verified]
    files, buffers = measured_in(vouched, demanded)
    runtime = merged_digests({path: frozenset(each) for path, each in (manifest or {}).items()}, files)
    require_demanded(demanded, files)
    values = ReferenceValues(
        pcrs={pcr: (PcrReference(value=pcrs[pcr]),) for pcr in APPRAISED_PCRS},
        ima_policy=demanded.ima_policy,
        early=dict(demanded.early),
        selinux=selinux_in(vouched, buffers) if SELINUX_STATE in buffers else SelinuxReference(),
        code=CodeReference(prefix=demanded.code_prefix, entries=code_entries_in(demanded, files, runtime)),
        files=runtime,
        buffers=other_buffers(buffers),
        early_data=demanded.early_data,
    )
    _, failures = walk(vouched, LogFacts(), values, pcrs)
    for failure in failures.values():
        raise NotTrusted(failure.reason, where=failure.where, expected=failure.expected, found=failure.found)
    return GuestReference(boots=(boot,), values=values)
