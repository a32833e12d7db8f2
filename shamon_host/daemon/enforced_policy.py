"""The policy that this host enforces now, its label map, and how another version takes its place.

Everything of the daemon that asks what is allowed asks here at that moment, so that one assignment moves all of it to
the next version. Which policy a start begins with is decided before anything is done under it: what an update brought
into force stays in force, whatever lies in the file that the host was set up with.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from shamon_host.attestation.ports import Tpm
from shamon_host.daemon.audit_log import AuditLog
from shamon_host.daemon.policy_versions import PolicyRecord, PolicyVersions
from shamon_host.daemon.ports import Clock
from shamon_host.domain import monitor
from shamon_host.domain.contexts import allocate_for
from shamon_host.domain.decision import Decision
from shamon_host.domain.errors import BadInput, NotTrusted
from shamon_host.domain.label_map import EMPTY, LabelMap
from shamon_host.domain.labels import HostName, VmName
from shamon_host.domain.policy import Policy, Renames
from shamon_host.domain.replay import renamed_map
from shamon_host.peer.policy_authority import lacking_signatures, lacking_signers

_ROLLED_BACK = (
    "Its disk was put back to an earlier state, or its TPM was cleared or changed. If you did that yourself, remove "
    "the daemon's database and enrol the host again; else take it out of the coalition and look into it."
)


_NOWHERE: Mapping[VmName, HostName] = {}


@dataclass(kw_only=True)
class EnforcedPolicy:
    """One for each daemon. Methods are synchronous and do input and output, but for the properties and `status`."""

    host: HostName
    file: Policy
    """What the host was set up with, or was given by hand since."""
    file_envelope: bytes = b""
    versions: PolicyVersions
    audit: AuditLog
    clock: Clock
    tpm: Tpm
    moved: Callable[[], Mapping[VmName, HostName]] = lambda: _NOWHERE
    """VM → the host that it was moved to (`vm_owners`): the same value until that changes."""
    successor: Policy | None = None
    """A version that this host has agreed to: until it is in force or given up, what starts must suit both."""
    _record: PolicyRecord = field(init=False)
    _label_map: LabelMap = field(init=False)
    _placed: tuple[Policy, Mapping[VmName, HostName], Policy] | None = field(init=False, default=None)
    """A policy, what it was placed by, and the result."""

    def __post_init__(self) -> None:
        file = PolicyRecord(policy=self.file, envelope=self.file_envelope)
        self._record = self.versions.pending() or _begins_with(self.versions.current(), file)
        policy = self._record.policy
        if self.host not in policy.hosts:
            raise BadInput("this host is not in the policy", expected=", ".join(sorted(policy.hosts)), found=self.host)
        self._label_map = self.allocated(policy)

    @property
    def policy(self) -> Policy:
        """It knows where VMs are now (`Policy.host_of`)."""
        signed, moved, placed = self._record.policy, self.moved(), self._placed
        if placed is None or placed[0] is not signed or placed[1] is not moved:
            placed = self._placed = signed, moved, signed.placed(moved)
        return placed[2]

    def placed(self, policy: Policy) -> Policy:
        """Another version, by what is known here of where VMs are."""
        return policy.placed(self.moved())

    @property
    def record(self) -> PolicyRecord:
        """The policy with its envelope, for hosts that ask."""
        return self._record

    @property
    def label_map(self) -> LabelMap:
        return self._label_map

    def status(self) -> dict[str, Any]:
        """The policy in force, and what is under way, for people."""
        record, successor = self._record, self.successor
        return {
            "version": record.policy.version,
            "digest": record.policy.digest,
            "signed": bool(record.envelope),
            "expires": record.policy.expires_s,
            "tpm_counter": record.counter,
            "agreed_to": successor.version if successor else None,
            "decisions": self.policy.decisions.figures().as_detail(),
        }

    def install(self) -> None:
        """At the start: enforce the policy that was chosen. Raises Refused, NotTrusted, BackendFailed."""
        pending, current = self.versions.pending(), self.versions.current()
        counter = self._require_not_rolled_back(pending, current)
        policy = self.policy
        if pending is not None:
            self._bring_into_force(pending, counter)
            return
        if current is None or current.policy.digest == policy.digest:
            decision = monitor.policy_install(
                policy,
                current.policy.which if current else None,
                now_wall_s=self.clock.wall_s(),
                unsigned=() if current else lacking_signers(self._record.envelope, policy),
            )
        else:
            decision = self._decided(self._record, current.policy, ())
        self._note(decision)
        if current is None or current.policy.digest != policy.digest:
            self._begin(self._record, counter)
        elif self._label_map != self.versions.label_map():
            self._install_label_map(policy, self._label_map)
            self.versions.finish(current, self._label_map)
        if self.file.digest != policy.digest:
            self.audit.append(
                "policy.file-not-used",
                self.host,
                {"file": f"version {self.file.version}, {self.file.digest}", "in_force": policy.version},
            )

    def decide(self, record: PolicyRecord, violations: tuple[str, ...] = (), *, passing: bool = False) -> Decision:
        """The monitor's answer on `policy.update` to this version, from the one in force. Not yet in the audit log.

        `passing`: on the way to a later version; it may have expired since it was agreed to.
        """
        return self._decided(record, self.policy, violations, passing=passing)

    def change(self, record: PolicyRecord) -> None:
        """Put a version that was decided on in force. When this raises before anything was written down, the old one
        stays in force; after that, the next start finishes it."""
        self._begin(record, self.tpm.counter())

    def _decided(
        self, record: PolicyRecord, current: Policy, violations: tuple[str, ...], *, passing: bool = False
    ) -> Decision:
        return monitor.policy_update(
            record.policy,
            current,
            now_wall_s=0.0 if passing else self.clock.wall_s(),
            unsigned=lacking_signatures(record.envelope, record.policy, current),
            violations=violations,
        )

    def _begin(self, record: PolicyRecord, counter: int | None) -> None:
        """Write down that it comes into force, count, and bring it about. Whatever can be refused is, before that."""
        self._install_label_map(record.policy, self.allocated(record.policy))
        expected = None if counter is None else counter + 1
        pending = replace(record, counter=expected)
        self.versions.begin(pending)
        self._bring_into_force(pending, counter)

    def _bring_into_force(self, pending: PolicyRecord, counter: int | None) -> None:
        if counter is None or pending.counter is None or counter < pending.counter:
            counter = self.tpm.increment_counter()
        label_map = self.allocated(pending.policy)
        record = replace(pending, counter=counter)
        self.versions.finish(record, label_map)
        self._record, self._label_map, self.successor = record, label_map, None

    def allocated(self, policy: Policy) -> LabelMap:
        """The label map for `policy` after the stored one: whatever is only renamed keeps its categories."""
        current = self.versions.label_map() or EMPTY
        renames = policy.renames if set(policy.renames.types) & set(current.types) else Renames()
        return allocate_for(policy, self.host, renamed_map(current, renames))

    def _install_label_map(self, policy: Policy, label_map: LabelMap) -> None:
        if label_map != self.versions.label_map():
            self._note(monitor.labelmap_install(policy, self.host, label_map))

    def _require_not_rolled_back(self, pending: PolicyRecord | None, current: PolicyRecord | None) -> int | None:
        """The TPM's counter, which must be where the last version in force left it. Raises NotTrusted."""
        counter = self.tpm.counter()
        if pending is not None and pending.counter is not None and counter in (pending.counter - 1, pending.counter):
            return counter
        expected = current.counter if current is not None else None
        if expected is not None and counter != expected:
            raise NotTrusted(
                "this host's state is not the one that it left",
                where=self.host,
                expected=f"the TPM's counter at {expected}",
                found="no counter" if counter is None else str(counter),
                remedy=_ROLLED_BACK,
            )
        return counter

    def _note(self, decision: Decision) -> None:
        self.audit.append(decision.check, self.host, decision.as_detail())
        decision.enforce()


def _begins_with(stored: PolicyRecord | None, file: PolicyRecord) -> PolicyRecord:
    """The version that a start begins with, where none is coming into force.

    A file with another version counts where the policy in force is unsigned, or where it comes in an envelope; whether
    it may follow the one in force is the monitor's to say. An older version in the file is what the host was set up
    with before an update.
    """
    if stored is None:
        return file
    if file.policy.digest == stored.policy.digest or file.policy.version < stored.policy.version:
        return stored
    return file
