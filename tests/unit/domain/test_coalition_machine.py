"""A coalition in domain terms, whatever happens in whatever order: invariants 2, 3 and 4 of the architecture.

Each host has a label map and VMs that run under contexts that were given to them when they started; the policy changes
above them. What the monitor permits is done, and only that; what has to hold is taken from the definitions in words.
"""

from dataclasses import dataclass, field, replace
from itertools import permutations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from shamon_host.domain import monitor
from shamon_host.domain.contexts import vm_context
from shamon_host.domain.decision import Rule
from shamon_host.domain.flask_labels import flask_context
from shamon_host.domain.label_map import EMPTY, LabelMap, allocate
from shamon_host.domain.labels import FlaskContext, HostName, SelinuxContext, TypeName, VmContext, VmLabel, VmName
from shamon_host.domain.policy import Policy
from shamon_host.domain.policy_form import with_digest
from shamon_host.domain.replay import Running, renamed_map, violations
from shamon_host.domain.results import TpmKind
from shamon_host.domain.ste import may_send
from tests.examples import examples
from tests.unit.domain import oracle
from tests.unit.domain.decisions import NOW_S, admitted
from tests.unit.domain.generated import policies
from tests.unit.domain.successors import only_renamed, renaming, successors

TPMS = st.sampled_from([TpmKind.HARDWARE, TpmKind.HARDWARE, TpmKind.SOFTWARE])
BEFORE_ALL_TIME_S = -1.0
"""No policy has expired."""


@dataclass(frozen=True, kw_only=True)
class Domain:
    """A VM as the hypervisor has it. Neither changes while it runs."""

    context: VmContext
    bridges: tuple[int, ...]
    """Of each interface: the category of the type when the VM was started, which stands for the type's bridge."""


@dataclass(kw_only=True)
class Host:
    tpm: TpmKind
    label_map: LabelMap = EMPTY
    admitted: bool = False
    domains: dict[VmName, Domain] = field(default_factory=dict)
    """VMs that run or are suspended."""
    saved: set[VmName] = field(default_factory=set)

    def bridge_names(self, domain: Domain) -> list[TypeName]:
        """What the bridges of its interfaces are called now."""
        names = {category: name for name, category in self.label_map.types.items()}
        return [names[category] for category in domain.bridges]


class Coalition(RuleBasedStateMachine):
    policy: Policy
    hosts: dict[HostName, Host]

    @initialize(policy=policies(least_hosts=2, least_vms=5), tpms=st.lists(TPMS, min_size=4, max_size=4))
    def found(self, policy: Policy, tpms: list[TpmKind]) -> None:
        """Most of it runs already."""
        self.policy = policy
        self.hosts = {name: Host(tpm=tpm, admitted=True) for name, tpm in zip(policy.hosts, tpms, strict=False)}
        for name in self.hosts:
            self._map(name, EMPTY)
        for vm in sorted(policy.vms)[1:]:
            self._start(vm)

    # What a host does

    @rule(data=st.data())
    def start(self, data: st.DataObject) -> None:
        for vm in data.draw(st.permutations(sorted(self.policy.vms))):
            self._start(vm)

    @rule(data=st.data())
    def start_where_it_does_not_belong(self, data: st.DataObject) -> None:
        place = self._host(data)
        for vm in self.policy.vms:
            if oracle.owner(self.policy, vm) != place:
                assert self._decide(vm, place).rule is Rule.ASSIGNMENT

    @rule(data=st.data())
    def stop(self, data: st.DataObject) -> None:
        place, vm = self._running(data)
        if vm is not None:
            del self.hosts[place].domains[vm]

    @rule(data=st.data())
    def save(self, data: st.DataObject) -> None:
        """It holds no place on its host until it is resumed, and others may start in between."""
        place, vm = self._running(data)
        if vm is not None:
            del self.hosts[place].domains[vm]
            self.hosts[place].saved.add(vm)

    @rule(data=st.data())
    def resume(self, data: st.DataObject) -> None:
        saved = [
            (place, vm)
            for place, host in self.hosts.items()
            for vm in sorted(host.saved)
            if vm in self.policy.vms and oracle.owner(self.policy, vm) == place
        ]
        if saved:
            place, vm = data.draw(st.sampled_from(saved))
            if self._start(vm):
                self.hosts[place].saved.remove(vm)

    @rule(data=st.data())
    def migrate(self, data: st.DataObject) -> None:
        """Both sides decide; then it is the other host's, and runs there under what its label maps to there."""
        source, vm = self._running(data)
        destination = self._host(data)
        if vm is None:
            return
        here, there = self.hosts[source], self.hosts[destination]
        decisions = [
            monitor.vm_migrate(
                self.policy,
                vm,
                source=source,
                destination=destination,
                running_there=self._labels(destination),
                peer_state=admitted(peer, tpm=self.hosts[peer].tpm),
                local_tpm=own.tpm,
                now_s=NOW_S,
            )
            for own, peer in ((here, destination), (there, source))
        ]
        against = oracle.reasons_against(self.policy, vm, destination, self._labels(destination), tpm=there.tpm)
        alike = self.policy.hosts[source].hypervisor is self.policy.hosts[destination].hypervisor
        entry = self.policy.vms[vm]
        belongs = source != destination and alike and destination in {entry.host, *entry.may_move_to}
        expected = belongs and not [each for each in against if each is not Rule.ASSIGNMENT]
        assert [decision.permitted for decision in decisions] == [expected, expected], decisions
        if expected:
            del here.domains[vm]
            self.policy = self.policy.placed({**self.policy.moved, vm: destination})
            there.domains[vm] = self._domain(vm, there)

    @rule(data=st.data())
    def crash(self, data: st.DataObject) -> None:
        """A host loses all that runs and what it proved; its label map is on its disk."""
        host = self.hosts[self._host(data)]
        host.domains.clear()
        host.admitted = False

    @rule(data=st.data())
    def admit(self, data: st.DataObject) -> None:
        self.hosts[self._host(data)].admitted = True

    # What happens to the policy

    @rule(data=st.data())
    def rename(self, data: st.DataObject) -> None:
        """Every host agrees, but where names that sort otherwise would exchange interfaces, and where a VM on Xen would
        have another context."""
        following = data.draw(only_renamed(self.policy))
        exchanged = [
            vm
            for host in self.hosts.values()
            for vm in host.domains
            if [following.renames.types.get(name, name) for name in oracle.interfaces(self.policy, vm)]
            != oracle.interfaces(following, vm)
        ]
        relabelled = any(
            isinstance(domain.context, FlaskContext) and self.policy.vms[vm].label != following.vms[vm].label
            for host in self.hosts.values()
            for vm, domain in host.domains.items()
        )
        agreed = not exchanged and not relabelled
        self._update(following)
        assert (self.policy.digest == following.digest) == agreed

    @rule(data=st.data())
    def change(self, data: st.DataObject) -> None:
        self._update(data.draw(successors(self.policy)))

    @rule(data=st.data())
    def keep_apart_what_runs_together(self, data: st.DataObject) -> None:
        """A version that gives walls to two labels, between which nothing passes, comes into force nowhere."""
        together = [
            (one.name, other.name)
            for place in self.hosts
            for one, other in permutations(self._labels(place).values(), 2)
            if one.types and other.types and one.name != other.name
        ]
        if not together:
            return
        following = renaming(self.policy, {})
        labels = dict(following.vm_labels)
        for name, wall in zip(data.draw(st.sampled_from(together)), ("north", "south"), strict=True):
            labels[name] = replace(labels[name], walls=labels[name].walls | {wall})
        sets = {**following.conflict_sets, "apart": frozenset({"north", "south"})}
        walls = following.walls | {"north", "south"}
        self._update(with_digest(replace(following, vm_labels=labels, conflict_sets=sets, walls=walls)))
        assert self.policy.version < following.version

    @rule(data=st.data())
    @precondition(lambda self: self._guests())
    def settle(self, data: st.DataObject) -> None:
        """A version that makes the host that a VM moved to its home, or does not let it be there."""
        place, vm = data.draw(st.sampled_from(self._guests()))
        following = renaming(self.policy, {})
        entry, agreed = following.vms[vm], data.draw(st.booleans())
        elsewhere = entry.may_move_to - {place}
        moved = replace(entry, host=place if agreed else entry.host, may_move_to=elsewhere)
        before = self.policy
        self._update(with_digest(replace(following, vms={**following.vms, vm: moved})))
        assert agreed or self.policy is before

    # What always holds

    @invariant()
    def every_vm_runs_under_what_its_label_maps_to(self) -> None:
        for host in self.hosts.values():
            for vm, domain in host.domains.items():
                types = oracle.label(self.policy, vm).types
                categories = {host.label_map.types[name] for name in types} | set(host.label_map.vms[vm])
                for name in oracle.disks(self.policy, vm):
                    categories |= set(host.label_map.disks[name])
                if isinstance(domain.context, SelinuxContext):
                    assert domain.context.categories == categories
                else:
                    assert domain.context == flask_context(self.policy.vms[vm].label)
                assert domain.context == vm_context(self.policy, host.label_map, vm)
            contexts = [each.context for each in host.domains.values() if isinstance(each.context, SelinuxContext)]
            assert len(set(contexts)) == len(contexts)

    @invariant()
    def frames_go_between_vms_iff_their_labels_share_a_type(self) -> None:
        everything = [(place, vm) for place, host in self.hosts.items() for vm in host.domains]
        for (here, sender), (there, receiver) in permutations(everything, 2):
            one, other = oracle.label(self.policy, sender), oracle.label(self.policy, receiver)
            wired = set(self._bridges(here, sender)) & set(self._bridges(there, receiver))
            if here != there:
                wired = {name for name in wired if self._linked(here, there, name)}
            goes = wired & may_send(one, other)
            written = set(oracle.interfaces(self.policy, sender)) & set(oracle.interfaces(self.policy, receiver))
            assert goes == written & oracle.frames_go(self.policy, one, other)

    @invariant()
    def nothing_runs_beside_what_it_must_not(self) -> None:
        for place in self.hosts:
            assert not oracle.in_conflict(self.policy, list(self._labels(place).values()))

    # How it is done

    def _start(self, vm: VmName) -> bool:
        place = oracle.owner(self.policy, vm)
        host = self.hosts[place]
        if any(vm in other.domains for other in self.hosts.values()):
            return False
        against = oracle.reasons_against(
            self.policy, vm, place, self._labels(place), tpm=host.tpm, admitted=host.admitted
        )
        decision = self._decide(vm, place)
        assert decision.permitted == (not against), (decision, against)
        if decision.permitted:
            host.domains[vm] = self._domain(vm, host)
        return decision.permitted

    def _decide(self, vm: VmName, place: HostName) -> monitor.Decision:
        host = self.hosts[place]
        return monitor.vm_start(
            self.policy, vm, host=place, running=self._labels(place), host_tpm=host.tpm, admitted=host.admitted
        )

    def _domain(self, vm: VmName, host: Host) -> Domain:
        context = vm_context(self.policy, host.label_map, vm)
        bridges = tuple(host.label_map.types[name] for name in self.policy.interfaces_of(vm))
        return Domain(context=context, bridges=bridges)

    def _update(self, following: Policy) -> None:
        """Every host replays what it has; the version comes into force if all agree, and nowhere if one does not."""
        links = {
            place: {
                peer: frozenset(name for name in self.policy.types if self._linked(place, peer, name))
                for peer in self.hosts
                if peer != place
            }
            for place in self.hosts
        }
        decisions = []
        following = following.placed(self.policy.moved)
        for place, host in self.hosts.items():
            runs = {vm: tuple(self._bridges(place, vm)) for vm in host.domains}
            there = Running(host=place, tpm=host.tpm, vms=runs, links=links[place])
            told = violations(following, self.policy, there)
            decision = monitor.policy_update(
                following, self.policy, now_wall_s=BEFORE_ALL_TIME_S, unsigned=(), violations=told
            )
            assert decision.permitted == (not told), decision
            decisions.append(decision)
        if all(decision.permitted for decision in decisions):
            renames, self.policy = following.renames, following
            before = self.hosts
            self.hosts = {name: before.get(name) or Host(tpm=TpmKind.HARDWARE) for name in following.hosts}
            for name, host in self.hosts.items():
                self._map(name, renamed_map(host.label_map, renames))

    def _map(self, place: HostName, current: LabelMap) -> None:
        """The label map that a host works under: its types, its VMs, and those that may be moved to it."""
        host = self.hosts[place]
        vms = {vm for vm, entry in self.policy.vms.items() if place in {entry.host, *entry.may_move_to}}
        disks = {name for vm in vms for name in self.policy.disks_of(vm)}
        host.label_map = allocate(current, self.policy.hosts[place].types, vms, disks)
        decision = monitor.labelmap_install(self.policy, place, host.label_map)
        assert decision.permitted, decision

    def _linked(self, here: HostName, there: HostName, name: TypeName) -> bool:
        """Both ends permit a link for the type."""
        permitted = [
            check(
                self.policy,
                own,
                peer,
                name,
                admitted(peer, tpm=self.hosts[peer].tpm),
                shared=self.policy.types,
                local_tpm=self.hosts[own].tpm,
                now_s=NOW_S,
            ).permitted
            for check, own, peer in ((monitor.link_open, here, there), (monitor.link_accept, there, here))
        ]
        assert permitted[0] == permitted[1]
        return permitted[0]

    def _bridges(self, place: HostName, vm: VmName) -> list[TypeName]:
        host = self.hosts[place]
        return host.bridge_names(host.domains[vm])

    def _labels(self, place: HostName) -> dict[VmName, VmLabel]:
        """What runs on a host, as the hypervisor's port tells the monitor."""
        return {vm: self.policy.label_of(vm) for vm in self.hosts[place].domains}

    def _guests(self) -> list[tuple[HostName, VmName]]:
        return [
            (place, vm)
            for place, host in self.hosts.items()
            for vm in host.domains
            if self.policy.vms[vm].host != place
        ]

    def _host(self, data: st.DataObject) -> HostName:
        return data.draw(st.sampled_from(sorted(self.hosts)))

    def _running(self, data: st.DataObject) -> tuple[HostName, VmName | None]:
        """Some VM that runs, and where; None where nothing does."""
        running: list[tuple[HostName, VmName | None]] = [
            (place, vm) for place, host in self.hosts.items() for vm in host.domains
        ]
        return data.draw(st.sampled_from(running or [(min(self.hosts), None)]))


TestCoalition = Coalition.TestCase
TestCoalition.settings = settings(max_examples=examples(80), stateful_step_count=30)
