"""This program on this host. Pure."""

from shamon_host.doctor.facts import HostFacts
from shamon_host.doctor.findings import Finding, Say, listed
from shamon_host.doctor.look import require_seen

_LITTLE, _TOO_LITTLE = 2 << 30, 64 << 20
"""Bytes. Overlays of VMs, the audit log and Evidence grow."""


def disk_space(say: Say, facts: HostFacts) -> Finding:
    disks = facts.program.disks
    for path, look in disks.items():
        require_seen(say, look, what=path)
    free = {path: look.value or 0 for path, look in disks.items()}
    if not free:
        return say.unknown("no disk was looked at", remedy="See `df`.")
    words = listed(f"{path}: {size >> 20} MiB free" for path, size in sorted(free.items()))
    remedy = "Make room: a full disk stops the daemon's database, and VMs' overlays."
    if min(free.values()) < _TOO_LITTLE:
        return say.wrong(words, expected=f"at least {_TOO_LITTLE >> 20} MiB", remedy=remedy)
    if min(free.values()) < _LITTLE:
        return say.warning(words, expected=f"{_LITTLE >> 20} MiB or more", remedy=remedy)
    return say.ok(words)


def unit(say: Say, facts: HostFacts) -> Finding:
    look = facts.program.unit
    require_seen(say, look, what="shamon.service")
    remedy = "cp shamon_host/systemd/shamon.service /etc/systemd/system/ and `systemctl daemon-reload`."
    if look.value is None:
        return say.warning(
            look.bad or "shamon.service is not installed", expected="the unit of this program", remedy=remedy
        )
    if look.value != facts.program.shipped:
        return say.warning(
            "shamon.service is not the one of this program", expected="the unit that comes with it", remedy=remedy
        )
    return say.ok("the one of this program")


def daemon(say: Say, facts: HostFacts) -> Finding | None:
    """The daemon that runs is this program. Before a host has joined none does."""
    running, own = facts.program.running, facts.program.version
    if running.absent:
        return None
    require_seen(say, running, what="the daemon", remedy="`systemctl status shamon.service`")
    if running.value != own:
        return say.wrong(
            f"the daemon that runs is version {running.value or running.bad}, this program is {own}",
            expected="one version",
            remedy="systemctl restart shamon.service; is this the program in /opt/shamon?",
        )
    return say.ok(f"version {own}")
