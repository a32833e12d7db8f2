"""What every `hypervisor.ports.Hypervisor` must do: subclass `HypervisorContract`, give it a `bench`.

Runs on the in-memory hypervisor in the unit tests, as QEMU and as Xen, and on libvirt with QEMU in a lab host that
enforces SELinux, with Xen in one that enforces FLASK.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Protocol

import pytest

from shamon_host.domain.errors import BackendFailed
from shamon_host.domain.flask_labels import flask_context
from shamon_host.domain.labels import UNLABELLED, FlaskContext, SelinuxContext, VmContext, VmName
from shamon_host.domain.policy import HypervisorKind
from shamon_host.hypervisor.ports import (
    RUNNING_STATES,
    DomainBoot,
    DomainReport,
    DomainState,
    Hypervisor,
    VmDisk,
    VmSpec,
)

FIRST, SECOND, STRANGER = VmName("first"), VmName("second"), VmName("stranger")


class Bench(Protocol):
    """A hypervisor on a host where SELinux enforces, or FLASK, and what the contract does around it.

    On Xen the FLASK policy knows the labels of all specs, and one for domains without a label.
    """

    @property
    def hypervisor(self) -> Hypervisor: ...

    def spec(self, name: VmName, *, number: int, interfaces: int = 1) -> VmSpec:
        """A VM that can start: its disk and bridges are there. VMs with different numbers have nothing in common."""
        ...

    def disk(self, number: int, *, read_only: bool) -> VmDisk:
        """A disk beside a VM's own, with a label that (where SELinux labels VMs) only the VM with this number may use,
        to write it or not."""
        ...

    def disk_label(self, disk: VmDisk) -> SelinuxContext | None:
        """The label of its file."""
        ...

    def attach(self, name: VmName, disk: VmDisk) -> None:
        """Give a running domain another disk, behind the caller's back."""
        ...

    def has_tpms(self) -> bool:
        """Whether domains of this host may have TPMs."""
        ...

    def tpm_state(self, spec: VmSpec) -> str:
        """What tells the state of a VM's TPM from every other one; empty where there is none."""
        ...

    def dump(self, file: str) -> str:
        """A path for the memory of a domain; nothing is there."""
        ...

    def is_sealed(self, path: str) -> bool:
        """Whether something is at this path, for root alone to read, and no domain may by its label."""
        ...

    def let_run(self) -> None:
        """Time for the guests that run: Xen cannot read the memory of one that has not begun."""
        ...

    def kill_guest(self, name: VmName) -> None:
        """End the machine from outside, behind the hypervisor's back."""
        ...

    def until(self, condition: Callable[[], bool]) -> bool:
        """Whether the condition comes to hold; the real world may take a few seconds."""
        ...


class HypervisorContract:
    """The suite. No domain is there before a test or after it."""

    platform = HypervisorKind.QEMU

    @pytest.fixture
    def bench(self) -> Iterator[Bench]:
        """A bench without domains."""
        raise NotImplementedError

    def test_starts_paused_under_its_label_and_runs_when_told(self, bench: Bench) -> None:
        spec = bench.spec(FIRST, number=1)
        report = bench.hypervisor.start_paused(spec)
        assert report == DomainReport(
            name=FIRST,
            uuid=spec.uuid,
            state=DomainState.PAUSED,
            context=spec.context,
            interfaces=spec.interfaces,
            disk=spec.disk,
            enforced=True,
            boot=DomainBoot(kernel=spec.kernel, initrd=spec.initrd, cmdline=spec.cmdline),
        )
        assert _domain(bench, FIRST) == report
        for call, state in (
            (bench.hypervisor.resume, DomainState.RUNNING),
            (bench.hypervisor.suspend, DomainState.PAUSED),
        ):
            for _ in range(2):
                call(FIRST)
                assert _domain(bench, FIRST) == replace(report, state=state)

    def test_keeps_domains_apart(self, bench: Bench) -> None:
        first, second = bench.spec(FIRST, number=1), bench.spec(SECOND, number=2, interfaces=2)
        bench.hypervisor.start_paused(first)
        bench.hypervisor.start_paused(second)
        bench.hypervisor.resume(FIRST)
        for spec, state in ((first, DomainState.RUNNING), (second, DomainState.PAUSED)):
            report = _domain(bench, spec.name)
            assert (report.state, report.context, report.uuid) == (state, spec.context, spec.uuid)
            assert report.interfaces == spec.interfaces
        for _ in range(2):
            bench.hypervisor.destroy(FIRST)
            assert [report.name for report in bench.hypervisor.domains()] == [SECOND]
        other = self._another()
        assert bench.hypervisor.start_paused(replace(first, context=other)).context == other
        for name in (FIRST, SECOND, STRANGER):
            bench.hypervisor.destroy(name)
        assert not bench.hypervisor.domains()

    def test_unknown_context(self, bench: Bench) -> None:
        """SELinux refuses it; libxl logs it, and the domain runs as one without a label, which the caller sees."""
        spec = bench.spec(FIRST, number=1)
        if self.platform is HypervisorKind.XEN:
            strange: VmContext = FlaskContext(user="system_u", role="system_r", type="no_such_t")
            report = bench.hypervisor.start_paused(replace(spec, context=strange))
            assert report.context == flask_context(UNLABELLED.name)
            assert _domain(bench, FIRST) == report
            bench.hypervisor.destroy(FIRST)
        else:
            strange = SelinuxContext(user="system_u", role="system_r", type="no_such_t", categories=frozenset({1, 512}))
            with pytest.raises(BackendFailed):
                bench.hypervisor.start_paused(replace(spec, context=strange))
        assert not bench.hypervisor.domains()

    @pytest.mark.parametrize("wrong", ["bridge", "disk", "long tap", "multicast MAC", "name", "memory", "further disk"])
    def test_refuses_what_cannot_be(self, bench: Bench, wrong: str) -> None:
        spec = bench.spec(FIRST, number=1)
        (interface,) = spec.interfaces
        impossible = {
            "bridge": replace(spec, interfaces=(replace(interface, bridge="nobridge0"),)),
            "disk": replace(spec, disk=spec.disk + ".missing"),
            "long tap": replace(spec, interfaces=(replace(interface, device="a-name-too-long-"),)),
            "multicast MAC": replace(spec, interfaces=(replace(interface, mac="01:00:5e:00:00:01"),)),
            "name": replace(spec, name=VmName("../first")),
            "memory": replace(spec, memory_mib=0),
            "further disk": replace(spec, disks=(VmDisk(path=spec.disk + ".missing", read_only=True),)),
        }
        with pytest.raises(BackendFailed):
            bench.hypervisor.start_paused(impossible[wrong])
        assert not bench.hypervisor.domains()

    def test_refuses_what_a_running_domain_holds(self, bench: Bench) -> None:
        first, second = bench.spec(FIRST, number=1), bench.spec(SECOND, number=2)
        (interface,) = second.interfaces
        clashing = {
            "name": replace(second, name=FIRST),
            "uuid": replace(second, uuid=first.uuid),
            "disk": replace(second, disk=first.disk),
            "tap": replace(second, interfaces=(replace(interface, device=first.interfaces[0].device),)),
        }
        report = bench.hypervisor.start_paused(first)
        for what, spec in clashing.items():
            with pytest.raises(BackendFailed):
                bench.hypervisor.start_paused(spec)
            assert tuple(bench.hypervisor.domains()) == (report,), what

    def test_further_disks_and_their_labels(self, bench: Bench) -> None:
        """They are reported as they are, their labels stay as they were, also after the domain is gone."""
        disks = (bench.disk(1, read_only=True), bench.disk(1, read_only=False))
        labels = [bench.disk_label(disk) for disk in disks]
        assert None not in labels
        spec = replace(bench.spec(FIRST, number=1), disks=disks)
        report = bench.hypervisor.start_paused(spec)
        assert (report.disks, report.disk) == (disks, spec.disk)
        assert _domain(bench, FIRST) == report
        assert [bench.disk_label(disk) for disk in disks] == labels
        bench.hypervisor.destroy(FIRST)
        assert [bench.disk_label(disk) for disk in disks] == labels

    @pytest.mark.parametrize("read_only", [True, False])
    def test_refuses_a_disk_that_the_label_does_not_reach(self, bench: Bench, *, read_only: bool) -> None:
        """Nothing but the kernel's SELinux says no here."""
        self._need_labelled_disks()
        disk = bench.disk(1, read_only=read_only)
        stranger = replace(bench.spec(SECOND, number=2), disks=(disk,))
        with pytest.raises(BackendFailed):
            bench.hypervisor.start_paused(stranger)
        assert not bench.hypervisor.domains()
        reaches = _reaching(bench.spec(FIRST, number=1).context, stranger.context)
        assert bench.hypervisor.start_paused(replace(stranger, context=reaches)).disks == (disk,)

    def test_nobody_writes_a_disk_whose_label_is_for_reading(self, bench: Bench) -> None:
        self._need_labelled_disks()
        disk = replace(bench.disk(1, read_only=True), read_only=False)
        with pytest.raises(BackendFailed):
            bench.hypervisor.start_paused(replace(bench.spec(FIRST, number=1), disks=(disk,)))
        assert not bench.hypervisor.domains()

    def test_two_domains_read_one_disk_and_one_alone_writes_one(self, bench: Bench) -> None:
        read, written = bench.disk(1, read_only=True), bench.disk(1, read_only=False)
        first, second = bench.spec(FIRST, number=1), bench.spec(SECOND, number=2)
        reaches = _reaching(first.context, second.context)
        bench.hypervisor.start_paused(replace(first, disks=(read, written)))
        with pytest.raises(BackendFailed):
            bench.hypervisor.start_paused(replace(second, context=reaches, disks=(written,)))
        assert bench.hypervisor.start_paused(replace(second, context=reaches, disks=(read,))).disks == (read,)

    def test_a_disk_that_somebody_attaches_is_told_of_and_reported(self, bench: Bench) -> None:
        told: list[None] = []
        report = bench.hypervisor.start_paused(bench.spec(FIRST, number=1))
        bench.hypervisor.resume(FIRST)
        assert report.disks == ()
        disk = bench.disk(1, read_only=True)
        bench.hypervisor.subscribe(lambda: told.append(None))
        bench.attach(FIRST, disk)
        assert bench.until(lambda: bool(told))
        assert _domain(bench, FIRST).disks == (disk,)

    def test_memory_of_a_suspended_domain(self, bench: Bench) -> None:
        path = bench.dump("first.memory")
        report = bench.hypervisor.start_paused(bench.spec(FIRST, number=1))
        bench.hypervisor.resume(FIRST)
        bench.let_run()
        bench.hypervisor.suspend(FIRST)
        assert not bench.is_sealed(path)
        for _ in range(2):
            bench.hypervisor.dump_memory(FIRST, path)
            assert bench.is_sealed(path)
            assert _domain(bench, FIRST) == report
        bench.hypervisor.resume(FIRST)
        bench.hypervisor.destroy(FIRST)
        assert bench.is_sealed(path)
        with pytest.raises(BackendFailed):
            bench.hypervisor.dump_memory(FIRST, bench.dump("none.memory"))
        assert not bench.is_sealed(bench.dump("none.memory"))

    def test_the_state_of_a_tpm_outlives_its_domain_until_it_is_forgotten(self, bench: Bench) -> None:
        spec = replace(bench.spec(FIRST, number=1), cid=20001)
        if not bench.has_tpms():
            pytest.skip("a paravirtualised guest has no TPM, nor has any where there is no swtpm")
        bench.hypervisor.forget_tpm(FIRST, spec.uuid)
        report = bench.hypervisor.start_paused(spec)
        assert (report.cid, report.tpm) == (20001, True)
        assert _domain(bench, FIRST) == report
        first = bench.tpm_state(spec)
        assert first
        other = replace(bench.spec(SECOND, number=2), cid=20001)
        with pytest.raises(BackendFailed):
            bench.hypervisor.start_paused(other)  # the kernel gives an address to one VM at a time
        with pytest.raises(BackendFailed):
            bench.hypervisor.forget_tpm(FIRST, spec.uuid)
        for _ in range(2):
            bench.hypervisor.destroy(FIRST)
            assert bench.tpm_state(spec) == first
            bench.hypervisor.start_paused(spec)
        bench.hypervisor.destroy(FIRST)
        for _ in range(2):
            bench.hypervisor.forget_tpm(FIRST, spec.uuid)
            assert bench.tpm_state(spec) == ""
        assert not [report for report in bench.hypervisor.domains() if report.state in RUNNING_STATES]
        bench.hypervisor.start_paused(spec)
        assert bench.tpm_state(spec) not in ("", first)
        bench.hypervisor.destroy(FIRST)
        plain = bench.hypervisor.start_paused(bench.spec(FIRST, number=1))
        assert (plain.cid, plain.tpm) == (None, False)

    def test_unknown_domains(self, bench: Bench) -> None:
        for call in (bench.hypervisor.resume, bench.hypervisor.suspend):
            with pytest.raises(BackendFailed):
                call(STRANGER)

    def test_tells_of_changes(self, bench: Bench) -> None:
        told: list[None] = []
        bench.hypervisor.subscribe(lambda: told.append(None))
        steps: tuple[Callable[[], object], ...] = (
            lambda: bench.hypervisor.start_paused(bench.spec(FIRST, number=1)),
            lambda: bench.hypervisor.resume(FIRST),
            lambda: bench.hypervisor.suspend(FIRST),
            lambda: bench.hypervisor.destroy(FIRST),
        )
        for number, step in enumerate(steps):
            told.clear()
            step()
            assert bench.until(lambda: bool(told)), f"step {number} was not told of"

    def test_killed_guest(self, bench: Bench) -> None:
        told: list[None] = []
        bench.hypervisor.start_paused(bench.spec(FIRST, number=1))
        bench.hypervisor.resume(FIRST)
        bench.hypervisor.subscribe(lambda: told.append(None))
        bench.kill_guest(FIRST)
        active = (DomainState.RUNNING, DomainState.PAUSED)
        assert bench.until(lambda: all(report.state not in active for report in bench.hypervisor.domains()))
        assert bench.until(lambda: bool(told))
        bench.hypervisor.destroy(FIRST)
        assert not bench.hypervisor.domains()

    def _another(self) -> VmContext:
        """A label that is known, and that no spec has."""
        if self.platform is HypervisorKind.XEN:
            return flask_context(UNLABELLED.name)
        return SelinuxContext(user="system_u", role="system_r", type="svirt_t", categories=frozenset({3, 700, 701}))

    def _need_labelled_disks(self) -> None:
        if self.platform is HypervisorKind.XEN:
            pytest.skip("dom0 opens disks for its guests: no label of a guest stands against that of a file")


def _reaching(first: VmContext, second: VmContext) -> VmContext:
    """The second one's context, with what it takes to open the first one's disks too."""
    if isinstance(first, SelinuxContext) and isinstance(second, SelinuxContext):
        return replace(second, categories=first.categories | second.categories)
    return second


def _domain(bench: Bench, name: VmName) -> DomainReport:
    (report,) = (report for report in bench.hypervisor.domains() if report.name == name)
    return report
