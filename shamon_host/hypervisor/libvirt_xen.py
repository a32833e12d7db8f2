"""Domains of Xen through libvirt's libxl driver, with FLASK labels.

libvirt knows what it was asked for, and no domain that somebody else started (`xl create`); libxl starts a domain
whose label the hypervisor's policy does not know under the label of those without one, and tells only its log. So the
domains, their labels, and whether they are paused are read from the hypervisor itself, and looked at again every
second: nothing tells of a domain that was started, paused or unpaused past libvirt, or given another label.
"""

import contextlib
import threading
from collections.abc import Sequence
from typing import Any

from shamon_host.domain.errors import BackendFailed, BadInput
from shamon_host.domain.labels import FlaskContext, VmName
from shamon_host.hypervisor.libvirt_domain import xen_domain_xml
from shamon_host.hypervisor.libvirt_domains import LibvirtDomains
from shamon_host.hypervisor.ports import RUNNING_STATES, DomainReport, DomainState, VmSpec
from shamon_host.hypervisor.programs import run_program
from shamon_host.hypervisor.xen_control import XenControl, XenDomain

_DOM0 = 0
_LOOK_S = 1.0
_DESTROY_S = 60
_STRANGER = "xen domain "


class LibvirtXen(LibvirtDomains):
    """libvirt's libxl driver, and the hypervisor below it."""

    def __init__(self, uri: str, control: XenControl) -> None:
        """Raises BackendFailed when libvirtd does not answer."""
        self._control = control
        self._stop = threading.Event()
        self._starting: dict[str, frozenset[int]] = {}
        """UUID of a domain that the hypervisor may know already and libvirt not yet → the numbers that were taken
        before."""
        self._seen: frozenset[tuple[XenDomain, str]] = frozenset()
        with contextlib.suppress(BackendFailed):  # FLASK may hide a domain until this host's policy is put back
            self._seen = self._labels()
        super().__init__(uri)
        threading.Thread(target=self._watch, name="xen domains", daemon=True).start()

    def domain_xml(self, spec: VmSpec) -> str:
        return xen_domain_xml(spec)

    def observed(self, domain: Any, name: VmName, state: DomainState) -> tuple[DomainState, FlaskContext | None, bool]:
        """A domain that Xen takes apart, or knows no more, runs no more, and one that somebody has paused or unpaused
        past libvirt is what Xen says, whatever libvirt still does."""
        found = self._known_to_xen(domain)
        if found is None:
            return DomainState.SHUT_OFF, None, True
        return _state_of(found), self._context(found), self._control.enforcing()

    def resume(self, name: VmName) -> None:
        if self._found(name).paused:
            super().resume(name)
            self._bring_to(name, paused=False)

    def suspend(self, name: VmName) -> None:
        if not self._found(name).paused:
            super().suspend(name)
            self._bring_to(name, paused=True)

    def write_memory(self, domain: Any, path: str) -> None:
        """In Xen's own format of core dumps, by libxl."""
        domain.coreDump(path, 0)

    def start_paused(self, spec: VmSpec) -> DomainReport:
        for report in self.domains():
            _refuse_sharing(spec, report)
        self._starting[spec.uuid] = frozenset(domain.number for domain in self._control.domains())
        try:
            return super().start_paused(spec)
        finally:
            self._starting.pop(spec.uuid, None)

    def destroy(self, name: VmName) -> None:
        if not name.startswith(_STRANGER):
            return super().destroy(name)
        number = name.removeprefix(_STRANGER)
        if any(str(domain.number) == number for domain in self._strangers()):
            _xl_destroy(number)
        return None

    def forget_tpm(self, name: VmName, uuid: str) -> None:
        """A paravirtualised guest has none."""

    def _list(self) -> Sequence[DomainReport]:
        return (*super()._list(), *map(self._report_of_stranger, self._strangers()))

    def close(self) -> None:
        self._stop.set()
        super().close()

    def listed(self, connection: Any) -> Sequence[Any]:
        return [domain for domain in connection.listAllDomains() if domain.ID() != _DOM0]

    def _known_to_xen(self, domain: Any) -> XenDomain | None:
        """libvirt's domain as the hypervisor has it; None where it has none, or takes it apart."""
        wanted = (domain.ID(), domain.UUIDString())
        return next(
            (found for found in self._control.domains() if (found.number, found.uuid) == wanted and not found.dying),
            None,
        )

    def _found(self, name: VmName) -> XenDomain:
        with self.connected() as connection:
            found = self._known_to_xen(connection.lookupByName(name))
        if found is None:
            raise BackendFailed("the hypervisor has no such domain", where=name)
        return found

    def _bring_to(self, name: VmName, *, paused: bool) -> None:
        """libvirt does nothing where it believes that it is done. Raises BackendFailed, also where the hypervisor says
        afterwards that it is not."""
        found = self._found(name)
        if found.paused is not paused:
            (self._control.pause if paused else self._control.unpause)(found.number)
            found = self._found(name)
        if found.paused is not paused:
            raise BackendFailed(
                "a domain of Xen does not do as it is told",
                where=name,
                expected="it stands still" if paused else "it runs",
                found=f"it is {_state_of(found)}",
                remedy=f"See `xl list` for who else pauses or unpauses domain {found.number}.",
            )

    def _strangers(self) -> Sequence[XenDomain]:
        """Domains that libvirt does not know."""
        there = [domain for domain in self._control.domains() if not domain.dying and not self._is_starting(domain)]
        with self.connected() as connection:  # read later: one that libvirt has just started is in it
            known = {_DOM0, *(domain.ID() for domain in connection.listAllDomains())}
        return [domain for domain in there if domain.number not in known]

    def _is_starting(self, domain: XenDomain) -> bool:
        """Whether it is what libxl makes for `start_paused` now: anybody may give a domain of his own a VM's UUID, but
        not take back that it was there before, or runs."""
        before = self._starting.get(domain.uuid)
        return before is not None and domain.number not in before and domain.paused

    def _report_of_stranger(self, domain: XenDomain) -> DomainReport:
        """Named by its number, which is no name that a policy can have: what it calls itself is its affair."""
        return DomainReport(
            name=VmName(f"{_STRANGER}{domain.number}"),
            uuid=domain.uuid,
            state=_state_of(domain),
            context=self._context(domain),
            interfaces=(),
            disk="",
            enforced=self._control.enforcing(),
        )

    def _context(self, domain: XenDomain) -> FlaskContext | None:
        try:
            return FlaskContext.parse(self._control.context_of(domain.sid))
        except BadInput:
            return None

    def _labels(self) -> frozenset[tuple[XenDomain, str]]:
        """By context: a domain whose label goes with a policy keeps its SID."""
        return frozenset((domain, self._control.context_of(domain.sid)) for domain in self._control.domains())

    def _watch(self) -> None:
        while not self._stop.wait(_LOOK_S):
            with contextlib.suppress(BackendFailed):
                now = self._labels()
                if now != self._seen:
                    self._seen = now
                    self._tell()


def _state_of(domain: XenDomain) -> DomainState:
    return DomainState.PAUSED if domain.paused else DomainState.RUNNING


def _refuse_sharing(spec: VmSpec, other: DomainReport) -> None:
    """libxl gives two domains one file to write, and takes an interface's name away from another one's, without a word.

    Raises BackendFailed."""
    if other.state not in RUNNING_STATES:
        return
    written = {other.disk, *(disk.path for disk in other.disks if not disk.read_only)}
    used = written.union(disk.path for disk in other.disks)
    wanted = {spec.disk, *(disk.path for disk in spec.disks if not disk.read_only)}
    taken = (wanted & used) | (written & {disk.path for disk in spec.disks})
    taken |= {interface.device for interface in spec.interfaces} & {each.device for each in other.interfaces}
    if taken:
        raise BackendFailed(
            "a running domain has what this one would get", where=spec.name, found=f"{min(taken)}: {other.name}"
        )


def _xl_destroy(number: str) -> None:
    """By the toolstack that libvirt shares with `xl`: its own records go too. Raises BackendFailed."""
    run_program(
        "xl",
        "destroy",
        number,
        timeout_s=_DESTROY_S,
        failed="a domain of Xen that libvirt does not know cannot be destroyed",
        where=f"domain {number}",
    )
