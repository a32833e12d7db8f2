"""What a handshake asks of links: ports and SPIs first, then the receiving side, then the sending side and the gate.

Each step is checked before anything is done, written down before the kernel is touched, and taken back when it fails:
what earlier handshakes made stays then. Keys only pass through: they are in an `AddSa` on its way to the kernel and
nowhere else.
"""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from shamon_host.domain.errors import BackendFailed, BadInput, Refused
from shamon_host.domain.labels import HostName, TypeName
from shamon_host.links.agreed import AgreedLink, Installation, Offer, agreed_detail, check_agreed, words_of
from shamon_host.links.desired import canonical_address
from shamon_host.links.link_core import LinkCore
from shamon_host.links.link_records import LinkRecord, PeerRecord, SaRecord
from shamon_host.links.model import KernelState, SaId
from shamon_host.links.rekeying import perhaps_in_use, receiving, switched


class LinkOpening(LinkCore):
    """See the module. Part of `LinkManager`."""

    def offer(self, peer: HostName, address: str, types: Collection[TypeName]) -> tuple[Offer, ...]:
        """A port and a fresh SPI for each type, in the order of their names; the SPIs go with `abandon`.

        () while SELinux is not enforcing, or its policy not fit: the host attests still, so that its peers see why,
        but gets no link.
        Raises Refused when the guard cannot be put up: without it nothing is offered.
        """
        address = canonical_address(address)
        with self.lock:
            state = self.read()
            if state.no_links_because:
                self.audit("link.not-offered", peer, {"reason": state.no_links_because})
                return ()
            try:
                self.converge(state)
            except BackendFailed as error:
                raise Refused("the guard or the SPD is not as it should be", where=peer, found=str(error)) from error
            offers: list[Offer] = []
            try:
                for name, port in self.book.ports(peer, sorted(types)).items():
                    spi = self.kernel.allocate_spi(source=address, destination=self.address)
                    offers.append(Offer(type=name, port=port, spi=spi))
            except BackendFailed:
                self.convergence.delete_sas(SaId(destination=self.address, spi=offer.spi) for offer in offers)
                raise
            self.reserved.setdefault(peer, set()).update(offer.spi for offer in offers)
            return tuple(offers)

    def install_inbound(self, peer: HostName, address: str, links: Sequence[AgreedLink], *, lifetime_s: int) -> None:
        """Install the receiving side: SPD entries, SAs, tunnels. The gate stays as it is, and so does what is there
        of earlier handshakes. When it fails, nothing of it stays."""
        address = canonical_address(address)
        with self.lock:
            before = self.book.get(peer)
            record = before or PeerRecord(peer=peer, address=address)
            if record.address != address:
                raise BadInput("the peer has another address", where=peer, expected=record.address, found=address)
            self._check(peer, links, lifetime_s)
            until = self.boottime_s() + lifetime_s
            for link in links:
                old = record.links.get(link.type)
                new = LinkRecord(
                    type=link.type,
                    local_port=link.local_port,
                    peer_port=link.peer_port,
                    in_sas=(SaRecord(spi=link.in_spi, expires_s=until),),
                )
                record = record.with_link(receiving(old, new))
            self.audit("link.install-inbound", peer, agreed_detail(links, lifetime_s=lifetime_s))
            self.reserved.get(peer, set()).difference_update(link.in_spi for link in links)
            new_sas = Installation(
                peer=peer,
                inbound=True,
                keys={link.type: (link.in_spi, link.in_key) for link in links},
                lifetime_s=lifetime_s,
                rekey=self.rekey_after(),
            )
            # The sending side reads the whole, and these SAs with it, before it opens the gate.
            self._install(record, before, lambda state: self.add(state, with_keys=new_sas.give))

    def install_outbound(
        self, peer: HostName, address: str, links: Sequence[AgreedLink], *, gate_s: float, lifetime_s: int
    ) -> None:
        """The peer receives: install the sending side, put the ports into their bridges, open the gate.

        SAs of earlier handshakes go a while later (`rekeying`, `tidy`), links to the peer that are not among `links` at
        once. When it fails, nothing of this handshake stays, and the gate stays as short as it was.
        """
        address = canonical_address(address)
        gate_until_s = self.boottime_s() + gate_s
        with self.lock:
            before = self.book.get(peer)
            if links and (before is None or before.address != address):
                raise Refused("the receiving side is not installed", where=peer)
            self._check(peer, links, lifetime_s)
            gate_s = min(gate_s, gate_until_s - self.boottime_s())  # others may have had the lock for long
            if not 0 < gate_s <= lifetime_s:
                raise Refused("the lease is over", where=peer, found=f"{gate_s:.1f} s are left of it")
            self.audit(
                "link.install-outbound", peer, agreed_detail(links, lifetime_s=lifetime_s, gate_s=round(gate_s, 3))
            )
            if before is None:
                return  # admitted, and no type in common: there is nothing to carry
            now = self.boottime_s()
            before = self._free_spis(before, {link.out_spi for link in links})
            record = replace(before.only({link.type for link in links}), gate_until_s=now + gate_s)
            for link in links:
                old = record.links.get(link.type)
                if old is None or link.in_spi not in {sa.spi for sa in old.in_sas} or old.peer_port != link.peer_port:
                    raise Refused("the receiving side is not installed", where=f"{peer} {link.type}")
                sending = SaRecord(spi=link.out_spi, expires_s=now + lifetime_s)
                record = record.with_link(
                    switched(old, in_spi=link.in_spi, sending=sending, now_s=now, grace_s=self.grace_s)
                )
            new_sas = Installation(
                peer=peer,
                inbound=False,
                keys={link.type: (link.out_spi, link.out_key) for link in links},
                lifetime_s=lifetime_s,
                rekey=self.rekey_after(),
            )

            def carry_out(state: KernelState) -> None:
                state = self.converge(state, with_keys=new_sas.give)
                self._demand_sas(peer, address, links, state)
                # The gate last, for what is left by then: to build the rest may have taken long.
                left_s = record.gate_until_s - self.boottime_s()
                if links:
                    self.add(state, opening={address: min(gate_s, left_s)})

            self._install(record, before, carry_out)
            self.want_rekey -= {peer}

    def abandon(
        self,
        peer: HostName,
        address: str,
        spis: Collection[int],
        links: Sequence[AgreedLink] = (),
        *,
        gate_s: float = math.inf,
        unanswered: bool = False,
    ) -> None:
        """A handshake came to nothing: give back the SPIs that `offer` reserved for it, and remove what was installed
        of its links. Links of earlier handshakes stay, their gate for `gate_s` at most: what is left of the lease in
        force. `unanswered`: the peer may have switched to `links` and could not say so; then receiving SAs of links
        that were up before stay as well. Does not raise BackendFailed: what could not be removed is told to the audit
        log and goes with the next `reconcile`."""
        address = canonical_address(address)
        in_spis, out_spis = {*spis, *(link.in_spi for link in links)}, {link.out_spi for link in links}
        if not in_spis:
            return
        with self.lock:
            record = self.book.get(peer)
            self.reserved.get(peer, set()).difference_update(in_spis)
            kept = perhaps_in_use(record, in_spis) if unanswered and record is not None else frozenset()
            in_spis -= kept
            self.audit("link.abandon", peer, {"spis": words_of(in_spis), "kept": words_of(kept)})
            if record is not None and links:
                until_s = min(record.gate_until_s, self.boottime_s() + gate_s)
                self.book.remember(replace(record.without(in_spis=in_spis, out_spis=out_spis), gate_until_s=until_s))
            try:
                self.convergence.delete_sas(
                    [
                        *(SaId(destination=self.address, spi=spi) for spi in sorted(in_spis)),
                        *(SaId(destination=address, spi=spi) for spi in sorted(out_spis)),
                    ]
                )
                if links:
                    self.converge(self.read())
            except BackendFailed as error:
                self.audit("link.abandon-failed", peer, {"reason": str(error)})

    def _install(self, record: PeerRecord, before: PeerRecord | None, carry_out: Callable[[KernelState], None]) -> None:
        """Write the record down and carry it out on the kernel as it is read first; on failure put the earlier record
        back, and the kernel."""
        state = self.read()
        if state.no_links_because:
            raise Refused(
                "no link while SELinux is not fit",
                where=record.peer,
                expected="enforcing",
                found=state.no_links_because,
            )
        self.book.remember(record)
        try:
            carry_out(state)
        except (BackendFailed, BadInput):
            self.book.remember(before or replace(record, links={}))
            try:
                self.converge(self.kernel.read())
            except BackendFailed as error:
                self.audit("link.roll-back-failed", record.peer, {"reason": str(error)})
            raise

    def _demand_sas(self, peer: HostName, address: str, links: Sequence[AgreedLink], state: KernelState) -> None:
        """Of both directions: those of the receiving side were installed a while ago."""
        present = {sa.id for sa in state.sas}
        for link in links:
            ids = {SaId(destination=self.address, spi=link.in_spi), SaId(destination=address, spi=link.out_spi)}
            if not ids <= present:
                raise BackendFailed("an SA that was installed is not there", where=f"{peer} {link.type}")

    def _free_spis(self, record: PeerRecord, out_spis: Collection[int]) -> PeerRecord:
        """A peer that booted anew may give SPIs again under which there still is a sending SA of before: that one goes
        first, for a key is never replaced under its SPI. Returns the record without them."""
        taken = {sa.spi for link in record.links.values() for sa in link.out_sas} & set(out_spis)
        if not taken:
            return record
        self.convergence.delete_sas(SaId(destination=record.address, spi=spi) for spi in sorted(taken))
        links = {name: link.without(out_spis=taken) for name, link in record.links.items()}
        kept = replace(record, links=links)
        self.book.remember(kept)
        return kept

    def _check(self, peer: HostName, links: Sequence[AgreedLink], lifetime_s: int) -> None:
        ports = self.book.ports(peer, [link.type for link in links])
        check_agreed(peer, links, lifetime_s=lifetime_s, ports=ports, types=self.label_map().types)
