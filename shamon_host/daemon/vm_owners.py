"""Which host owns each VM that was ever moved, as far as this host knows: its newest token (`domain.vm_tokens`).

The tokens are this host's own, of VMs that it gave away or took, and those that peers show in the report that their
quote covers. They are written down before anything follows from them. Everything of the daemon that asks where a VM is
asks the policy in force (`Policy.host_of`), which `EnforcedPolicy` places by what is known here.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from shamon_host.daemon.store import Store
from shamon_host.domain.errors import BadInput, NotTrusted, ShamonError
from shamon_host.domain.labels import HostName, VmName
from shamon_host.domain.policy import Policy
from shamon_host.domain.vm_tokens import VmToken, owners, require_new
from shamon_host.hypervisor.report import MAX_TOKENS, tokens_in_report
from shamon_host.peer.enrolment import PeerRegistry
from shamon_host.peer.vm_token import KeyOf, read_token, token_in

_KIND = "vm-token"
Changes = Mapping[tuple[str, str], Mapping[str, Any] | None]
"""Documents that are to change in the same transaction (`Store.change`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """What a peer's report says of owners, beside what was known."""

    moved: Mapping[VmName, HostName]
    """VM → owner by the newest token, known before or in the report."""
    news: tuple[tuple[VmToken, bytes], ...] = ()
    """Tokens that were not known, verified, with their envelopes."""
    problems: Mapping[VmName, str] = field(default_factory=dict)
    """VM → why a token in the report does not count."""


@dataclass(kw_only=True)
class VmOwners:
    """One for each daemon. Safe to call from any thread."""

    store: Store
    registry: PeerRegistry
    _tokens: Mapping[VmName, tuple[VmToken, bytes]] = field(init=False)
    _moved: Mapping[VmName, HostName] = field(init=False)
    _lock: threading.Lock = field(init=False, default_factory=threading.Lock, repr=False)

    def __post_init__(self) -> None:
        envelopes = [str(document["token"]).encode("ascii") for _, document in self.store.items(_KIND)]
        self._set({token.vm: (token, envelope) for envelope in envelopes for token in [token_in(envelope)]})

    def moved(self) -> Mapping[VmName, HostName]:
        """VM → owner by its newest token: the same value until one changes."""
        return self._moved

    def newest(self, vm: VmName) -> VmToken | None:
        """The newest token of a VM; None for one that was never moved."""
        pair = self._tokens.get(vm)
        return None if pair is None else pair[0]

    def known(self) -> Mapping[VmName, VmToken]:
        """VM → its newest token, as of this moment."""
        return {vm: token for vm, (token, _) in self._tokens.items()}

    def next_number(self, vm: VmName) -> int:
        """The generation of the token by which the VM moves next."""
        token = self.newest(vm)
        return 1 if token is None else token.generation + 1

    def reported(self, host: HostName) -> tuple[bytes, ...]:
        """The envelopes that a host shows its peers: of what it owns, then of what it gave away last."""
        own = [envelope for token, envelope in self._tokens.values() if token.owner == host]
        given = sorted(
            (pair for pair in self._tokens.values() if pair[0].previous == host), key=lambda pair: -pair[0].time
        )
        return (*own, *(envelope for _, envelope in given))[:MAX_TOKENS]

    def take(self, token: VmToken, envelope: bytes, changes: Changes | None = None) -> None:
        """Write down a token that was verified, with what else changes by it: all of it or nothing. Raises
        BackendFailed."""
        with self._lock:
            document = {"token": envelope.decode("ascii")}
            self.store.change({**(changes or {}), (_KIND, token.vm): document})
            self._set({**self._tokens, token.vm: (token, envelope)})

    def key_of(self, host: HostName) -> str:
        """Public key of a host's certificate; of one that is out, the last one. Raises NotTrusted."""
        peer = self.registry.get(host)
        if peer is None or not peer.record_key:
            raise NotTrusted("no key of this host is known", where=host)
        return peer.record_key

    def _set(self, tokens: Mapping[VmName, tuple[VmToken, bytes]]) -> None:
        self._moved = owners({vm: token for vm, (token, _) in tokens.items()})
        self._tokens = tokens


def owners_by_word(report: bytes) -> Mapping[VmName, HostName]:
    """VM → owner as the tokens in a report say, of which nothing is verified. Never raises."""
    try:
        return owners({token.vm: token for token in map(token_in, tokens_in_report(report))})
    except BadInput:
        return {}


def claimed(report: bytes, *, known: Mapping[VmName, VmToken], policy: Policy, key_of: KeyOf) -> Claimed:
    """What a peer's report says of owners. `policy`: the peer's. Never raises: a token that does not count changes
    nothing, and a report that cannot be read is told of by its own check."""
    try:
        envelopes: Sequence[bytes] = tokens_in_report(report)
    except BadInput:
        envelopes = ()
    news: dict[VmName, tuple[VmToken, bytes]] = {}
    problems: dict[VmName, str] = {}
    for envelope in envelopes:
        try:
            token = token_in(envelope)
        except BadInput:
            continue
        newest = news[token.vm][0] if token.vm in news else known.get(token.vm)
        if token == newest or token.vm not in policy.vms:
            continue
        try:
            require_new(token, policy, newest)
            read_token(envelope, key_of)
        except ShamonError as error:
            problems[token.vm] = str(error)
        else:
            news[token.vm] = (token, envelope)
    newest_of = {**known, **{vm: token for vm, (token, _) in news.items()}}
    return Claimed(moved=owners(newest_of), news=tuple(news.values()), problems=problems)
