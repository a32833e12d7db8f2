"""MIGRATE: SAs and the policies that use them move to other addresses (RFC 4555).

Sent by a program, and told to all afterwards (xfrm_do_migrate, build_migrate of net/xfrm/xfrm_user.c).
"""

from dataclasses import dataclass

from .attributes import attributes, iterate_attributes, pack_attribute, pack_interface_id, pack_policy_type
from .constants import PROTO_ESP, Attribute, Direction, Mode, PolicyType
from .errors import invalid, malformed
from .policy import TEMPLATES_MAX, PolicyId
from .policy_codec import decode_policy_id
from .sa_options import Encapsulation
from .sa_options_codec import decode_encapsulation, encode_encapsulation
from .structs import (
    KMADDRESS,
    USER_MIGRATE,
    USERPOLICY_ID_SIZE,
    USERPOLICY_ID_TAIL,
    family_of,
    pack_address,
    pack_selector,
    unpack_address,
)
from .values import Address, Selector, in_range


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """One pair of addresses and what takes its place: struct xfrm_user_migrate. `reqid` 0 is any."""

    old_source: Address
    old_destination: Address
    new_source: Address
    new_destination: Address
    protocol: int = PROTO_ESP
    mode: Mode = Mode.TUNNEL
    reqid: int = 0

    def __post_init__(self) -> None:
        if self.old_source.version != self.old_destination.version:
            raise invalid("move", f"{self.old_source} and {self.old_destination} are of different families")
        if self.new_source.version != self.new_destination.version:
            raise invalid("move", f"{self.new_source} and {self.new_destination} are of different families")
        in_range("move", "protocol", self.protocol, 0xFF)
        in_range("move", "reqid", self.reqid, 2**32 - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyManagerAddresses:
    """Where key managers shall talk from and to from now on: struct xfrm_user_kmaddress."""

    local: Address
    remote: Address

    def __post_init__(self) -> None:
        if self.local.version != self.remote.version:
            raise invalid("key manager addresses", f"{self.local} and {self.remote} are of different families")


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """Which policy, and what of its templates and their SAs moves; all of it or nothing."""

    selector: Selector
    direction: Direction
    moves: tuple[Move, ...]
    type: PolicyType = PolicyType.MAIN
    key_manager: KeyManagerAddresses | None = None
    encapsulation: Encapsulation | None = None
    interface_id: int = 0

    def __post_init__(self) -> None:
        if not 0 < len(self.moves) <= TEMPLATES_MAX:
            raise invalid("migration", f"1 to {TEMPLATES_MAX} moves, found {len(self.moves)}")
        in_range("migration", "interface id", self.interface_id, 2**32 - 1)

    @property
    def policy_id(self) -> PolicyId:
        return PolicyId(
            direction=self.direction, selector=self.selector, type=self.type, interface_id=self.interface_id
        )


def encode_migration(migration: Migration) -> bytes:
    """Body of MIGRATE."""
    moves = b"".join(
        USER_MIGRATE.pack(
            pack_address(move.old_destination),
            pack_address(move.old_source),
            pack_address(move.new_destination),
            pack_address(move.new_source),
            move.protocol,
            move.mode,
            0,
            move.reqid,
            family_of(move.old_source.version),
            family_of(move.new_source.version),
        )
        for move in migration.moves
    )
    parts = [
        pack_selector(migration.selector) + USERPOLICY_ID_TAIL.pack(0, migration.direction),
        pack_policy_type(migration.type),
        pack_attribute(Attribute.MIGRATE, moves),
    ]
    if (manager := migration.key_manager) is not None:
        packed = KMADDRESS.pack(
            pack_address(manager.local), pack_address(manager.remote), 0, family_of(manager.local.version)
        )
        parts.append(pack_attribute(Attribute.KMADDRESS, packed))
    if migration.encapsulation is not None:
        parts.append(encode_encapsulation(migration.encapsulation))
    parts.append(pack_interface_id(migration.interface_id))
    return b"".join(parts)


def decode_migration(body: bytes) -> Migration:
    """From a MIGRATE notification, where each move is an attribute of its own (build_migrate), or a request. Raises
    XfrmError."""
    policy_id = decode_policy_id(body)
    if policy_id.selector is None:
        raise malformed("read a MIGRATE", "it names no selector")
    found = attributes(body, USERPOLICY_ID_SIZE)
    try:
        moves = tuple(_decode_move(packed) for packed in _moves(body))
        return Migration(
            selector=policy_id.selector,
            direction=policy_id.direction,
            type=policy_id.type,
            moves=moves,
            key_manager=_decode_key_manager(found.get(Attribute.KMADDRESS)),
            encapsulation=decode_encapsulation(found, family_of(policy_id.selector.version)),
            interface_id=policy_id.interface_id,
        )
    except ValueError as error:
        raise malformed("read a MIGRATE", str(error)) from None


def _moves(body: bytes) -> list[tuple[bytes, bytes, bytes, bytes, int, int, int, int, int, int]]:
    packed = []
    for kind, payload in iterate_attributes(body, USERPOLICY_ID_SIZE):
        if kind == Attribute.MIGRATE:
            if len(payload) % USER_MIGRATE.size:
                raise malformed("read a MIGRATE", f"{len(payload)} bytes are no multiple of {USER_MIGRATE.size}")
            packed += list(USER_MIGRATE.iter_unpack(payload))
            if len(packed) > TEMPLATES_MAX:
                raise malformed("read a MIGRATE", f"more than {TEMPLATES_MAX} moves")
    return packed


def _decode_move(packed: tuple[bytes, bytes, bytes, bytes, int, int, int, int, int, int]) -> Move:
    old_daddr, old_saddr, new_daddr, new_saddr, protocol, mode, _reserved, reqid, old_family, new_family = packed
    return Move(
        old_source=unpack_address(old_saddr, old_family),
        old_destination=unpack_address(old_daddr, old_family),
        new_source=unpack_address(new_saddr, new_family),
        new_destination=unpack_address(new_daddr, new_family),
        protocol=protocol,
        mode=Mode(mode),
        reqid=reqid,
    )


def _decode_key_manager(payload: bytes | None) -> KeyManagerAddresses | None:
    if payload is None:
        return None
    if len(payload) < KMADDRESS.size:
        raise malformed("read a MIGRATE", f"key manager addresses of {len(payload)} bytes")
    local, remote, _reserved, family = KMADDRESS.unpack_from(payload)
    return KeyManagerAddresses(local=unpack_address(local, family), remote=unpack_address(remote, family))
