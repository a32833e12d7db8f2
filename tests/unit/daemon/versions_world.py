"""One host's versions of the policy, its store and its TPM, which may fail where they are told to; and its restarts."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from shamon_host.daemon.audit_log import AuditLog
from shamon_host.daemon.database import Database
from shamon_host.daemon.enforced_policy import EnforcedPolicy
from shamon_host.daemon.policy_versions import PolicyVersions
from shamon_host.daemon.store import Store
from shamon_host.domain.errors import BackendFailed
from shamon_host.domain.labels import HostName
from shamon_host.domain.policy import Policy
from shamon_host.domain.policy_form import with_digest
from shamon_host.testing.tpm import MemoryTpm
from tests.unit.daemon.signed_world import envelope as signed_envelope

ALPHA = HostName("alpha")


def successor(policy: Policy, **changes: Any) -> Policy:
    """The version after it, with other fields."""
    return with_digest(replace(policy, version=policy.version + 1, parent=policy.digest, **changes))


class Crash(BackendFailed):
    """Where the daemon dies."""

    def __init__(self) -> None:
        super().__init__("the daemon dies here")


class DyingStore(Store):
    """Dies before the change with which a version is in force, as often as `dies` says."""

    dies = 0

    def change(self, documents: Mapping[tuple[str, str], Mapping[str, Any] | None]) -> None:
        if ("policy", "current") in documents and self.dies:
            self.dies -= 1
            raise Crash
        super().change(documents)


@dataclass(kw_only=True)
class DyingTpm(MemoryTpm):
    """Dies before or after it has counted, as often as these say."""

    before: int = 0
    after: int = 0

    def increment_counter(self) -> int:
        if self.before:
            self.before -= 1
            raise Crash
        counted = super().increment_counter()
        if self.after:
            self.after -= 1
            raise Crash
        return counted


@dataclass(kw_only=True)
class VersionsWorld:
    """What stays of host alpha when its daemon is started again. Its clock stands still unless it is set."""

    tpm: DyingTpm = field(default_factory=DyingTpm)
    database: Database = field(default_factory=lambda: Database(":memory:"))
    store: DyingStore = field(init=False)
    audit: AuditLog = field(init=False)
    now_s: float = 1_800_000_000.0

    def __post_init__(self) -> None:
        self.store = DyingStore(self.database)
        self.audit = AuditLog(self.database, wall_s=self.wall_s, boottime_s=self.boottime_s)

    def wall_s(self) -> float:
        return self.now_s

    def boottime_s(self) -> float:
        return 1000.0

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("nobody sleeps here")

    @property
    def versions(self) -> PolicyVersions:
        return PolicyVersions(self.store)

    def starts(self, file: Policy, envelope: bytes | None = None, *, host: HostName = ALPHA) -> EnforcedPolicy:
        """The daemon starts with this file: the policy is chosen and not in force yet.

        `envelope` is empty for a file in TOML; None: a signed first version comes in its envelope, others do not.
        """
        if envelope is None:
            envelope = signed_envelope(file) if file.version == 1 and file.signing is not None else b""
        return EnforcedPolicy(
            host=host,
            file=file,
            file_envelope=envelope,
            versions=self.versions,
            audit=self.audit,
            clock=self,
            tpm=self.tpm,
        )

    def runs(self, file: Policy, envelope: bytes | None = None, *, host: HostName = ALPHA) -> EnforcedPolicy:
        """The daemon starts, and the policy is in force."""
        enforced = self.starts(file, envelope, host=host)
        enforced.install()
        return enforced

    def in_force(self) -> tuple[int | None, int | None]:
        """Version and TPM counter of what is in force, as it is written down."""
        record = self.versions.current()
        return (None, None) if record is None else (record.policy.version, record.counter)

    def recorded(self, kind: str) -> list[Mapping[str, Any]]:
        """Details of the audit records of a kind, oldest first."""
        return [record.detail for record in self.audit.records(limit=10_000) if record.kind == kind]
