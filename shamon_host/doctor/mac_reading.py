"""SELinux and IMA as they are: the kernel's own answers, and IMA's log."""

from pathlib import Path

from shamon_host.attestation.ima_log import ImaLogError, iter_ima_log
from shamon_host.attestation.linux_logs import IMA_LOG, MAX_IMA_LOG_BYTES, SECURITYFS
from shamon_host.doctor.bounded import within
from shamon_host.doctor.facts import ImaSummary, MacFacts
from shamon_host.doctor.host_files import HostFiles
from shamon_host.doctor.look import Look, reason_of
from shamon_host.domain.errors import BackendFailed
from shamon_host.selinux.checking import check_host
from shamon_host.selinux.labelled_host import LinuxLabelledHost
from shamon_host.selinux.ports import SelinuxStatus
from shamon_host.selinux.questions import Finding
from shamon_host.selinux.selinuxfs import SELINUXFS, SelinuxFs

IMA_POLICY = "/etc/ima/ima-policy"
_STATE = "selinux-state"
_SELINUX_LIMIT_S = 120.0
_IMA_LIMIT_S = 60.0
_MAX_STATES = 1000


def read_mac(files: HostFiles) -> MacFacts:
    return MacFacts(
        status=_status(files),
        asked=_asked(files),
        config=files.text("/etc/selinux/config"),
        ima=within(_IMA_LIMIT_S, "the IMA log", lambda: read_ima(files)),
        policy_file=files.data(IMA_POLICY),
    )


def read_ima(files: HostFiles) -> Look[ImaSummary]:
    return files.data(SECURITYFS / IMA_LOG, MAX_IMA_LOG_BYTES).then(summarise)


def summarise(log: bytes) -> Look[ImaSummary]:
    """What bears on a host that is to join, of the bytes of a log."""
    count, policies, algorithms, states = 0, [], set(), []
    try:
        for entry in iter_ima_log(log):
            count += 1
            if entry.violation:
                continue
            fields = entry.fields()
            if fields.path == _STATE and fields.buf is not None:
                states.append(fields.buf[:500].decode("ascii", "replace"))
            elif fields.file_digest is not None and fields.buf is None:
                algorithms.add(fields.file_digest.algorithm)
                if fields.path == IMA_POLICY:
                    policies.append(f"{fields.file_digest.algorithm}:{fields.file_digest.digest.hex()}")
    except ImaLogError as error:
        return Look(bad=str(error))
    return Look(
        ImaSummary(
            entries=count,
            policies=tuple(policies[-_MAX_STATES:]),
            algorithms=frozenset(algorithms),
            states=tuple(states[-_MAX_STATES:]),
        )
    )


def _kernel(files: HostFiles) -> SelinuxFs:
    return SelinuxFs(files.path(SELINUXFS))


def _status(files: HostFiles) -> Look[SelinuxStatus]:
    there = files.there(f"{SELINUXFS}/status")
    if there.value is not True:
        return Look(unread=there.unread)
    try:
        return Look(_kernel(files).status())
    except BackendFailed as error:
        return Look(unread=str(error))


def _asked(files: HostFiles) -> Look[tuple[Finding, ...]]:
    """All that `shamon selinux check` asks."""
    if files.there(f"{SELINUXFS}/status").value is not True:
        return Look()

    def ask() -> Look[tuple[Finding, ...]]:
        host = LinuxLabelledHost() if files.root == Path("/") else LinuxLabelledHost(proc=files.path("/proc"), roots=())
        try:
            return Look(check_host(_kernel(files), host))
        except (BackendFailed, OSError) as error:
            return Look(unread=reason_of(str(error)))

    return within(_SELINUX_LIMIT_S, "the kernel's SELinux", ask)
