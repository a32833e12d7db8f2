"""A VM that is attested, and a daemon that dies before any one of its acts: no port of the VM is ever up, and it runs
with none, before its lease holds; its TPM is never older than its disk."""

from dataclasses import replace
from functools import partial

import pytest

from shamon_host.domain.errors import NotTrusted, Refused
from shamon_host.domain.guest_demand import GuestDemand
from shamon_host.domain.guest_leases import Answer, GuestLease
from shamon_host.hypervisor.guest_tpms import GuestTpm
from shamon_host.hypervisor.ports import DomainState
from shamon_host.hypervisor.vm_spec import GUEST_CIDS
from tests.unit.hypervisor.mortal_host import TRACES, Fate, Host, died
from tests.unit.hypervisor.vm_world import POLICY, WEB, VmWorld

DEMAND = GuestDemand(name="app", sha256="0" * 64, period_s=5, lease_s=15)
ATTESTED = replace(POLICY, guests={"app": DEMAND}, vms={**POLICY.vms, WEB: replace(POLICY.vms[WEB], attest="app")})


def attested_world() -> VmWorld:
    return VmWorld(policy=ATTESTED)


def attested(world: VmWorld) -> None:
    """Its answer passes."""
    leases = world.vms.states.leases
    lease = leases.of(WEB)
    assert lease is not None
    now_s = world.now_s
    assert leases.settle(WEB, lease.after(Answer.PASSES, DEMAND, asked_s=now_s, now_s=now_s))


def look(host: Host) -> None:
    """What holds at every moment."""
    world = host.world
    host.look()
    if not world.vms.states.leases.holds(WEB):
        report = world.domain(WEB)
        if report is not None and report.state is DomainState.RUNNING:
            assert host.ports(WEB) == [], "it runs, is not attested, and has a port"


class Watched(Host):
    """Whatever a guest is let run with is looked at, at that moment."""

    def __init__(self) -> None:
        super().__init__(world=attested_world())
        resume = self.world.hypervisor.resume

        def looked_at(name: str) -> None:
            resume(name)  # type: ignore[arg-type]
            look(self)

        self.world.hypervisor.resume = looked_at  # type: ignore[method-assign]


def tpm_is_as_new_as_the_disk(host: Host) -> None:
    """The AK that is noted is of the machine whose disk is there: a marker on the disk, and an AK in the note."""
    tpm = host.world.vms.states.tpm(WEB)
    if tpm is not None and tpm.ak_public:
        assert host.world.marker(WEB) == TRACES


def with_an_ak(host: Host) -> None:
    """web was attested, on its first disk."""
    world = host.world
    attested(world)
    tpm = world.vms.states.tpm(WEB)
    assert tpm is not None
    assert world.vms.states.note_ak(WEB, GuestTpm(mark=tpm.mark, ak_public=b"an AK"))
    host.reconcile()
    assert len(host.ports(WEB)) == 1


@pytest.mark.parametrize("boots", [False, True])
@pytest.mark.parametrize("what", ["replace", "stop and start", "quarantine and release"])
def test_no_port_before_its_lease(what: str, *, boots: bool) -> None:
    def play(fate: Fate) -> bool:
        host = Watched()
        world = host.world
        with_an_ak(host)
        vms, detach = host.mortal(fate), host.act(fate, world.hub.detach)

        def act() -> None:
            if what == "replace":
                vms.replace(WEB, "clean again")
            elif what == "stop and start":
                vms.stop(WEB)
                vms.start(WEB)
            else:
                vms.quarantine(WEB, "looks odd", ports_down=detach)
                vms.start(WEB)

        has_died = died(fate, act)
        if has_died:
            host.restart(boots=boots)
        look(host)
        host.shop_is_as_it_was()
        tpm_is_as_new_as_the_disk(host)
        if world.state(WEB) is DomainState.RUNNING and not world.vms.states.leases.holds(WEB):
            attested(world)
            host.reconcile()
            assert len(host.ports(WEB)) == 1
        return has_died

    for steps in range(60):
        if not play(Fate(steps)):
            assert steps > 2
            return
    raise AssertionError("it never comes to an end")


def test_the_first_start_that_is_cut_short() -> None:
    """Whatever was made of its disk and its TPM, the next start makes both anew, and asks nobody."""
    for steps in range(60):
        host = Watched()
        host.world.vms.stop(WEB)
        host.world.images.discard(WEB)
        host.world.documents.documents.pop(("vm", WEB))
        fate = Fate(steps)
        vms = host.mortal(fate)
        if not died(fate, partial(vms.start, WEB)):
            assert steps > 5
            return
        host.restart(boots=False)
        look(host)
        host.world.vms.start(WEB)
        assert host.world.vms.states.tpm(WEB) is not None
        look(host)
    raise AssertionError("it never comes to an end")


def test_what_its_host_gives_it_and_notes() -> None:
    world = attested_world()
    report = world.vms.start(WEB)
    assert report.tpm
    assert report.cid in GUEST_CIDS
    boot = world.vms.states.booted(WEB)
    assert boot is not None
    assert (boot.cmdline, len(boot.kernel), len(boot.initrd)) == ("quiet", 64, 64)
    assert world.kinds(WEB).count("vm.new-tpm") == 1
    world.vms.stop(WEB)
    world.vms.start(WEB)
    assert world.kinds(WEB).count("vm.new-tpm") == 1, "the TPM stays with the disk"
    assert [status.attested for status in world.vms.states.statuses() if status.name == WEB] == [False]


def test_a_vm_that_was_there_before_is_not_attested_on_its_old_disk() -> None:
    world = VmWorld()
    world.vms.start(WEB)
    world.write_marker(WEB, TRACES)
    world.policy = ATTESTED
    assert world.vms.stop_forbidden(POLICY) == (WEB,)
    with pytest.raises(Refused, match="from before it was to be attested"):
        world.vms.start(WEB)
    assert world.marker(WEB) == TRACES, "nobody threw it away"
    world.vms.replace(WEB, "to be attested")
    assert world.state(WEB) is DomainState.RUNNING


def test_one_that_is_to_be_attested_by_the_next_version_does_not_start_without_a_tpm() -> None:
    world = VmWorld()
    world.successor = replace(ATTESTED, version=2, parent=POLICY.digest)
    with pytest.raises(Refused, match="would have no TPM"):
        world.vms.start(WEB)


def test_a_domain_that_lacks_its_tpm_is_destroyed_before_it_runs() -> None:
    world = attested_world()
    real = world.hypervisor.start_paused
    world.hypervisor.start_paused = lambda spec: replace(real(spec), tpm=False)  # type: ignore[method-assign]
    with pytest.raises(NotTrusted, match="has not the TPM"):
        world.vms.start(WEB)
    assert world.state(WEB) is None


def test_a_result_counts_for_the_start_that_it_is_about() -> None:
    world = attested_world()
    world.vms.start(WEB)
    leases = world.vms.states.leases
    before = leases.of(WEB)
    assert before is not None
    world.vms.replace(WEB, "clean again")
    passed = before.after(Answer.PASSES, DEMAND, asked_s=world.now_s, now_s=world.now_s)
    assert not leases.settle(WEB, passed)
    assert not leases.holds(WEB)
    tpm = world.vms.states.tpm(WEB)
    assert tpm is not None
    assert not world.vms.states.note_ak(WEB, GuestTpm(mark="another", ak_public=b"an AK"))
    assert world.vms.states.note_ak(WEB, GuestTpm(mark=tpm.mark, ak_public=b"an AK"))
    assert not world.vms.states.note_ak(WEB, GuestTpm(mark=tpm.mark, ak_public=b"another AK"))


def test_a_lease_of_another_boot_holds_nothing() -> None:
    world = attested_world()
    world.vms.start(WEB)
    attested(world)
    assert world.vms.states.leases.holds(WEB)
    lease = world.vms.states.leases.of(WEB)
    assert isinstance(lease, GuestLease)
    assert not replace(world.vms.states.leases, boot_id="boot 2").holds(WEB)
    world.now_s += 16
    assert not world.vms.states.leases.holds(WEB)
