"""Who is enrolled, kept up to date between hosts: records come in, are decided on, take effect at once, and go on.

What narrows (a host was expelled, or left) takes effect whatever this host's policy says of it; a host that is
enrolled, newly or again, needs the monitor's `host.enrol`. Each decision is in the audit log before its effect, and a
record is in the store before it counts, so that no restart brings an older one back.

Every period, and at once when something is new, this host compares its records with those of every other one.
"""

import asyncio
import hashlib
import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

from cryptography import x509

from shamon_host.daemon.admissions import Admissions
from shamon_host.daemon.audit_log import AuditLog
from shamon_host.daemon.background import Background
from shamon_host.daemon.enforced_policy import EnforcedPolicy
from shamon_host.daemon.ports import Blocking, Clock, Waker
from shamon_host.daemon.store import Store
from shamon_host.domain.errors import BadInput, NotTrusted, Refused, ShamonError, Unreachable
from shamon_host.domain.labels import HostName
from shamon_host.peer.coalition_ca import read_der_certificate
from shamon_host.peer.enrolment import PeerRegistry, decide_enrolment
from shamon_host.peer.host_record import Authorities, HostRecord, read_host_record, sign_leave, successor
from shamon_host.peer.ports import EnrolledPeer, Membership, PeerTransport
from shamon_host.peer.registry_messages import Exchange
from shamon_host.peer.signed_record import PrivateKey, PublicKey, public_text
from shamon_host.peer.wire import REGISTRY

_KIND, _CA_KIND = "registry", "registry-ca"
_RENEW_S = 60 * 86400.0
"""What is left of a certificate when people are told to renew it."""
_HEAR_S = 2.0
"""How long a host that has started waits for what it may have missed, before it admits anybody."""
_ROUNDS = 8
"""Messages of one exchange, each with as many records as fit."""


def stored_authorities(authorities: Authorities, store: Store, wall_s: float) -> dict[str, PublicKey]:
    """The CAs of this host's `ca.pem`, and those that came after them. Raises BackendFailed."""
    known = dict(authorities)
    now = datetime.fromtimestamp(wall_s, UTC)
    for _, document in sorted(store.items(_CA_KIND), key=lambda item: int(item[1].get("number", 0))):
        with suppress(BadInput, NotTrusted, ValueError):
            name, key = successor(bytes.fromhex(str(document.get("certificate", ""))), known, now)
            known[name] = key
    return known


def take_stored(registry: PeerRegistry, store: Store, authorities: Authorities) -> None:
    """At the start: what came in since the files of the registry were written. Raises BackendFailed.

    A stored record that no CA of this host has signed (any more) counts for nothing; its host is known by its file.
    """
    records: list[HostRecord] = []
    for host, document in store.items(_KIND):
        with suppress(BadInput, NotTrusted):
            envelope = str(document.get("record", "")).encode("ascii", "replace")
            records.append(read_host_record(envelope, authorities, source=f"stored record of {host}"))
    for record in _room_first(records):
        with suppress(BadInput, NotTrusted):
            registry.take(record)


def _room_first(records: Iterable[HostRecord]) -> list[HostRecord]:
    """First what makes room: the TPM of a host that left may be another host's now."""
    return sorted(records, key=lambda record: record.peer.membership is Membership.ENROLLED)


@dataclass(kw_only=True)
class Members:
    """See the module. Implements `peer.ports.RegistryHandler`; `run` goes on until cancelled."""

    name: HostName
    enforced: EnforcedPolicy
    registry: PeerRegistry
    admissions: Admissions
    store: Store
    audit: AuditLog
    clock: Clock
    blocking: Blocking
    background: Background
    authorities: dict[str, PublicKey]
    """The coalition's CAs: `receive` adds the one that comes next."""
    own_cas: tuple[bytes, ...] = ()
    """Behind this host's certificate: passed on like those that came in."""
    transport: PeerTransport
    key: PrivateKey = field(repr=False)
    """Of this host's certificate: signs that this host leaves."""
    wake: Waker
    _news: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    """Something is new here, or this host is."""
    _taking: asyncio.Lock = field(init=False, default_factory=asyncio.Lock)
    _refused: dict[HostName, int] = field(init=False, default_factory=dict)
    """Host → rank of the newest record of it that was refused here: it is offered again and again, and told once."""

    _compared: bool = field(init=False, default=False)
    _begun_s: float = field(init=False, default=math.inf)
    _owing: set[HostName] = field(init=False, default_factory=set)
    """Hosts that lack something of what is known here, as far as this host can tell: they are asked every period."""
    _failed: dict[HostName, str] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._news.set()

    def own_enrolment(self) -> Mapping[str, object]:
        """What the coalition says of this host, and when its certificate ends, for people."""
        record = self.registry.record(self.name)
        if record is None or not record.certificate:
            return {}
        ends = x509.load_der_x509_certificate(record.certificate).not_valid_after_utc
        left_s = ends.timestamp() - self.clock.wall_s()
        return {
            "state": record.peer.membership.value,
            "serial": record.peer.serial,
            "tpm": record.peer.tpm.value,
            "ek": record.peer.ek_sha256.hex(),
            "certificate_until": ends.strftime("%Y-%m-%d"),
            "renew": left_s < _RENEW_S,
        }

    def heard(self) -> bool:
        """Whether every other host has been asked once since the start, or has had its time to answer."""
        return self._compared or self.clock.boottime_s() >= self._begun_s + _HEAR_S

    async def run(self) -> None:
        """Compare records with every other host, for ever. Raises what ends the daemon."""
        self._begun_s = self.clock.boottime_s()
        while True:
            if self._news.is_set():
                self._news.clear()
                self._owing.update(self._others())
            # Of two hosts that both know all, the one whose name sorts first asks.
            await asyncio.gather(
                *(self._exchange_with(host) for host in self._others() if host in self._owing or self.name < host)
            )
            self._compared = True
            await self._period()

    def _others(self) -> list[HostName]:
        """The other hosts of the policy that are enrolled, as far as is known here: the others can only call."""
        known = {peer.host for peer in self.registry.hosts() if peer.membership is Membership.ENROLLED}
        return [host for host in sorted(self.enforced.policy.hosts) if host != self.name and host in known]

    async def handle_registry(self, caller: HostName, body: bytes) -> bytes:
        request = Exchange.decode(body)
        await self.receive(request.records, caller, cas=request.cas)
        return self._message(self.registry.newer_than(request.ranks))

    async def receive(self, envelopes: Iterable[bytes], source: str, *, cas: Iterable[bytes] = ()) -> None:
        """Take what is newer and rightly signed. Raises BackendFailed when it cannot be written down, NotTrusted for
        a record that is signed by nobody whom this host knows, BadInput for one that is none."""
        for certificate in cas:
            await self._take_ca(certificate, source)
        known = {record.envelope for record in self.registry.records()}
        news = [envelope for envelope in dict.fromkeys(envelopes) if envelope not in known]
        if not news:
            return

        def read() -> list[HostRecord]:
            return [read_host_record(each, self.authorities, source=f"record from {source}") for each in news]

        await self._take_all(await self.blocking(read), source)

    async def _take_all(self, records: Iterable[HostRecord], source: str) -> None:
        """To its end, also when whoever brought them does not wait for it."""

        async def take() -> None:
            async with self._taking:
                for record in _room_first(records):
                    await self._take(record, source)

        await asyncio.shield(self.background.spawn(take(), f"records from {source}", finish=True))

    async def leave(self) -> Mapping[HostName, str]:
        """This host gives up its place: it says so to every other one, and closes its links.

        Host → why it has not heard, for those that have not. Raises NotTrusted when this host is not enrolled.
        """
        self.registry.enrolled(self.name)
        own = self.registry.record(self.name)
        if own is None or not own.envelope:
            raise Refused("this host has no signed record to leave by", where=self.name)
        record = sign_leave(own, self.key, self.authorities)
        self.audit.append("host.leave", self.name, {"serial": own.peer.serial})
        unheard = await self._tell(record)
        await self._take_all([record], self.name)
        return unheard

    async def _tell(self, record: HostRecord) -> Mapping[HostName, str]:
        """Say it to everybody while this host still counts, hence may call them."""
        others = self._others()
        body = Exchange.of({}, [record]).encode()

        async def tell(host: HostName) -> str:
            try:
                await self._call(host, body)
            except ShamonError as error:
                return str(error)
            return ""

        outcomes = await asyncio.gather(*map(tell, others))
        return {host: words for host, words in zip(others, outcomes, strict=True) if words}

    async def _take_ca(self, certificate: bytes, source: str) -> None:
        digest = hashlib.sha256(certificate).hexdigest()
        if self.store.get(_CA_KIND, digest) is not None:
            return
        name = public_text(read_der_certificate(certificate, where="next CA").public_key())
        believed = name in self.authorities
        try:
            _, key = successor(certificate, self.authorities, datetime.fromtimestamp(self.clock.wall_s(), UTC))
        except NotTrusted:
            if believed:
                return  # by a CA that came before those of this host's `ca.pem`
            raise
        if name in {public_text(read_der_certificate(each, where="next CA").public_key()) for each in self._cas()}:
            return  # its signature was written in another way
        if not believed:
            self.audit.append("coalition.ca", self.name, {"certificate": digest, "from": source})
        # Kept also where `ca.pem` has the new CA: who knows only the older one hears of it from here.
        number = len(self.store.items(_CA_KIND)) + 1
        self.store.put(_CA_KIND, digest, {"certificate": certificate.hex(), "number": number})
        self.authorities[name] = key
        self._news.set()

    def _cas(self) -> list[bytes]:
        documents = [document for _, document in self.store.items(_CA_KIND)]
        stored = [
            bytes.fromhex(str(each["certificate"])) for each in sorted(documents, key=lambda each: each["number"])
        ]
        return list(dict.fromkeys((*stored, *self.own_cas)))

    def _message(self, records: Iterable[HostRecord] = ()) -> bytes:
        return Exchange.of(self.registry.ranks(), records, self._cas()).encode()

    async def _take(self, record: HostRecord, source: str) -> None:
        peer, registry = record.peer, self.registry
        before = registry.get(peer.host)
        if record.rank <= registry.ranks().get(peer.host, -1):
            return  # old news, or an old record played again
        if peer.membership is Membership.ENROLLED:
            if self._is_permitted(record, source):
                self._store(record)
                registry.take(record)
                await self._apply(peer, before)
            return
        try:
            detail = {"serial": peer.serial, "reason": peer.reason, "from": source}
            self.audit.append(f"host.{peer.membership}", peer.host, detail)
            self._store(record)
        finally:
            # It only narrows: done even if nothing can be written any more.
            registry.take(record)
            await self._apply(peer, before)

    def _is_permitted(self, record: HostRecord, source: str) -> bool:
        """Ask the monitor, and write down what it says; the same no is written down once."""
        peer = record.peer
        decision = decide_enrolment(
            self.enforced.policy,
            self.registry,
            host=peer.host,
            ak_name=peer.ak_name,
            ek_sha256=peer.ek_sha256,
            tpm=peer.tpm,
            anew=True,
        )
        if not decision.permitted:
            if self._refused.get(peer.host, -1) >= record.rank:
                return False
            self._refused[peer.host] = record.rank
        self.audit.append(decision.check, peer.host, {**decision.as_detail(), "from": source})
        return decision.permitted

    def _store(self, record: HostRecord) -> None:
        self.store.put(_KIND, record.peer.host, {"record": record.envelope.decode("ascii")})

    async def _apply(self, peer: EnrolledPeer, before: EnrolledPeer | None) -> None:
        """What follows from a record that counts now."""
        self._news.set()
        if peer.membership is Membership.ENROLLED:
            if peer.host in self.admissions.peers:
                await self._enrolled(peer, before)
            return
        words = peer.reason or f"it was {peer.membership}"
        if peer.host == self.name:
            for other in tuple(self.admissions.peers):
                await self.admissions.suspend(other, f"this host is out of the coalition: {words}", definite=False)
        elif peer.host in self.admissions.peers:
            await self.admissions.expel(peer.host, words)

    async def _enrolled(self, peer: EnrolledPeer, before: EnrolledPeer | None) -> None:
        """What was proved by another AK counts no more, and who was out may prove itself again."""
        if before is not None and before.ak_name != peer.ak_name:
            await self.admissions.suspend(peer.host, "it was enrolled anew, with another AK", definite=False)
        self.admissions.pardon(peer.host)
        self.wake(peer.host)

    async def _exchange_with(self, host: HostName) -> None:
        """Compare records with this host. It is owed another try as long as it lacks something."""
        try:
            answer = Exchange.decode(await self._call(host, self._message()))
            await self.receive(answer.records, host, cas=answer.cas)
            for _ in range(_ROUNDS):
                lacking = self.registry.newer_than(answer.ranks)
                if not lacking and not answer.records:
                    break
                answer = Exchange.decode(await self._call(host, self._message(lacking)))
                await self.receive(answer.records, host, cas=answer.cas)
        except (NotTrusted, BadInput) as error:  # a bad record or answer, or somebody else's: people should know
            self._owing.add(host)
            if self._failed.get(host) != str(error):
                self._failed[host] = str(error)
                self.audit.append("host.not-compared", host, {"reason": str(error)})
        except (Unreachable, Refused):
            self._owing.add(host)
        else:
            self._failed.pop(host, None)
            if self.registry.newer_than(answer.ranks):
                self._owing.add(host)
            else:
                self._owing.discard(host)

    async def _call(self, host: HostName, body: bytes) -> bytes:
        policy = self.enforced.policy
        if host not in policy.hosts:
            raise Refused("the policy knows no such host", where=host)  # any more: it has changed meanwhile
        return await self.transport.call(policy.hosts[host], REGISTRY, body, timeout_s=policy.intervals.timeout_s)

    async def _period(self) -> None:
        """Until the period is over or something is new."""
        sleeper = asyncio.ensure_future(self.clock.sleep(self.enforced.policy.intervals.period_s))
        waiter = asyncio.ensure_future(self._news.wait())
        try:
            await asyncio.wait({sleeper, waiter}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (sleeper, waiter):
                task.cancel()
