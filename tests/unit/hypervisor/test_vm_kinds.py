"""VMs without a label, with interfaces of their own choice, and on hosts that may not run everything (yet)."""

import pytest

from shamon_host.domain.contexts import allocate_for
from shamon_host.domain.errors import Refused
from shamon_host.domain.labels import VmName
from shamon_host.domain.policy_file import parse_policy
from shamon_host.domain.results import ClaimStatus, TpmKind
from shamon_host.hypervisor.ports import DomainReport, DomainState
from shamon_host.hypervisor.report import check_hypervisor_report, hypervisor_report
from shamon_host.testing.images import sha256_of
from tests.unit.hypervisor.vm_world import ALPHA, BETA, BLACK, BLUE, GATE, IMAGE, PROBE, RED, SHOP, WEB, VmWorld, svirt

TOOLS, MORE_TOOLS = VmName("tools"), VmName("more-tools")
POLICY = parse_policy(
    f"""
    coalition = {{name = "unit", version = 1}}
    types = {{"{RED}" = {{}}, "{BLUE}" = {{}}, "{BLACK}" = {{tpm = "hardware"}}}}
    labels.red.types = ["{RED}"]
    labels.blue.types = ["{BLUE}"]
    labels.black.types = ["{BLACK}"]
    labels.both.types = ["{RED}", "{BLUE}"]
    hosts.alpha = {{address = "192.0.2.1", types = ["{RED}", "{BLUE}", "{BLACK}"], starting = ["{BLUE}"]}}
    hosts.beta = {{address = "192.0.2.2", types = ["{RED}"]}}
    images.app.sha256 = "{sha256_of(IMAGE)}"
    vms.web = {{label = "red", image = "app", host = "alpha", interfaces = []}}
    vms.shop = {{label = "blue", image = "app", host = "alpha"}}
    vms.probe = {{label = "black", image = "app", host = "alpha"}}
    vms.gate = {{label = "both", image = "app", host = "alpha", interfaces = ["{BLUE}", "{RED}"]}}
    vms.tools = {{label = "unlabelled", image = "app", host = "alpha"}}
    vms.more-tools = {{label = "unlabelled", image = "app", host = "alpha"}}
    vms.db = {{label = "red", image = "app", host = "beta"}}
    """.encode(),
    source="policy.toml",
)
LABEL_MAP = allocate_for(POLICY, ALPHA)


@pytest.fixture
def world() -> VmWorld:
    return VmWorld(policy=POLICY, label_map=LABEL_MAP)


class TestUnlabelled:
    def test_it_runs_beside_all_others_without_a_type(self, world: VmWorld) -> None:
        for name in (GATE, TOOLS, MORE_TOOLS):
            assert world.vms.start(name).state is DomainState.RUNNING
        domain = world.domain(TOOLS)
        assert domain is not None
        assert domain.interfaces == ()
        assert svirt(domain.context).categories == set(LABEL_MAP.vms[TOOLS])
        assert world.vms.states.running_types() == {RED, BLUE}
        assert (world.status(TOOLS).types, world.status(TOOLS).interfaces) == ((), ())
        assert world.vms.enforce_labels() == ()

    def test_two_of_them_have_nothing_in_common(self, world: VmWorld) -> None:
        one, other = world.vms.start(TOOLS), world.vms.start(MORE_TOOLS)
        assert svirt(one.context).categories.isdisjoint(svirt(other.context).categories)

    def test_no_attachment_is_asked_for(self, world: VmWorld) -> None:
        world.vms.start(TOOLS)
        assert world.kinds(TOOLS) == ["vm.start", "label.vm"]

    def test_a_peer_finds_it_under_its_label(self) -> None:
        def report(name: VmName) -> DomainReport:
            context = LABEL_MAP.vm_context(name, POLICY.label_of(name).types)
            return DomainReport(name=name, uuid="", state=DomainState.RUNNING, context=context, interfaces=(), disk="")

        right = hypervisor_report([report(TOOLS), report(MORE_TOOLS), report(WEB)], LABEL_MAP)
        assert check_hypervisor_report(right, host=ALPHA, policy=POLICY).status is ClaimStatus.PASS
        stolen = DomainReport(
            name=TOOLS,
            uuid="",
            state=DomainState.RUNNING,
            context=LABEL_MAP.vm_context(TOOLS, [RED]),
            interfaces=(),
            disk="",
        )
        claim = check_hypervisor_report(hypervisor_report([stolen], LABEL_MAP), host=ALPHA, policy=POLICY)
        assert (claim.status, claim.where) == (ClaimStatus.FAIL, TOOLS)


class TestInterfaces:
    def test_in_the_order_of_the_policy(self, world: VmWorld) -> None:
        report = world.vms.start(GATE)
        assert [interface.bridge for interface in report.interfaces] == ["br-blue", "br-red"]
        assert list(world.vms.states.taps().values()) == [BLUE, RED]
        assert world.status(GATE).interfaces == (BLUE, RED)
        assert world.status(GATE).types == (RED, BLUE)
        assert world.kinds(GATE) == ["vm.start", "vm.attach", "vm.attach", "label.vm"]

    def test_none_at_all(self, world: VmWorld) -> None:
        assert world.vms.start(WEB).interfaces == ()
        assert world.vms.states.taps() == {}
        assert world.vms.states.running_types() == {RED}
        assert world.kinds(WEB) == ["vm.start", "label.vm"]


class TestHost:
    def test_what_runs_before_any_peer_has_admitted_it(self, world: VmWorld) -> None:
        world.admitted = False
        for name in (SHOP, TOOLS):
            assert world.vms.start(name).state is DomainState.RUNNING
        for name in (WEB, GATE):
            with pytest.raises(Refused, match="no peer has admitted alpha in this boot"):
                world.vms.start(name)
            assert world.domain(name) is None
        world.admitted = True
        for name in (WEB, GATE):
            assert world.vms.start(name).state is DomainState.RUNNING

    def test_a_resume_is_asked_again(self, world: VmWorld) -> None:
        world.vms.start(WEB)
        world.vms.suspend(WEB, "a test")
        world.admitted = False
        with pytest.raises(Refused, match="management-label"):
            world.vms.start(WEB)
        assert world.state(WEB) is DomainState.PAUSED

    def test_a_type_that_demands_a_hardware_tpm(self) -> None:
        software = VmWorld(policy=POLICY, label_map=LABEL_MAP, host_tpm=TpmKind.SOFTWARE)
        with pytest.raises(Refused, match="audit/black demands a hardware TPM"):
            software.vms.start(PROBE)
        assert software.domain(PROBE) is None
        assert software.vms.start(WEB).state is DomainState.RUNNING
        hardware = VmWorld(policy=POLICY, label_map=LABEL_MAP)
        assert hardware.vms.start(PROBE).state is DomainState.RUNNING


def test_a_report_needs_the_types_of_its_host_and_no_others() -> None:
    """The label map of beta has the one type of beta."""
    own = allocate_for(POLICY, BETA)
    assert set(own.types) == {RED}
    assert check_hypervisor_report(hypervisor_report([], own), host=BETA, policy=POLICY).status is ClaimStatus.PASS
    claim = check_hypervisor_report(hypervisor_report([], own), host=ALPHA, policy=POLICY)
    assert claim.status is ClaimStatus.ABSENT
    assert "audit/black, rival/blue" in claim.expected
