"""The messages by which a VM moves from one host, its owner, to another one.

    the owner                                   the host that it moves to
      POST /v1/vm/prepare  move, VM, size    →  may it come? the clean image is the pinned one; room for the disk
      (stops the VM)
      POST /v1/vm/disk     move, offset      →  a part of its disk; again and again
      POST /v1/vm/accept   move, token       →  may it still come? all of the disk is there
                           ← the token with this host's signature
      (signs the token: from now on the VM is the other one's)
      POST /v1/vm/hand     token             →  the disk is put in place, the VM started
                           ← what became of it

A VM that moves while it runs is not stopped first. In place of `prepare` and `disk` there is

      POST /v1/vm/receive  move, VM, type,   →  as `prepare`; then the VM is started to wait for its memory, and a
                           secret               passage opened beside the link of this type
      (connects to the passage: disk, memory)
      POST /v1/vm/join     move, VM          →  both streams, which began with the secret, go to the VM that waits
      (sends disk and memory, which stops the VM in the end)

and `accept` means that all of both is there.

Until the owner has signed it may give up (`/v1/vm/abort`); afterwards it says `hand` until that is answered.
"""

from dataclasses import dataclass, field
from typing import ClassVar, Self

from shamon_host.domain.errors import BadInput
from shamon_host.domain.labels import TypeName, VmName, plain_name, type_name
from shamon_host.peer.vm_token import MAX_DISK_BYTES, MAX_TOKEN_ENVELOPE_BYTES
from shamon_host.peer.wire import MAX_DISK_PART, Fields, encode_object, join, split

MOVE_BYTES = 16
MAX_STATE = 200
SECRET_BYTES = 32
_MAX_FRAME_MS = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepare:
    """`move`: 16 bytes that the owner chose at random for this attempt. `size`: of the disk in bytes, 0 for none."""

    move: bytes
    vm: VmName
    policy: str
    """Digest of the policy that the owner enforces, hexadecimal."""
    size: int

    def encode(self) -> bytes:
        return encode_object({"move": self.move.hex(), "vm": self.vm, "policy": self.policy, "size": self.size})

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Raises BadInput."""
        fields = Fields.parse(data, "move", frozenset({"move", "vm", "policy", "size"}))
        return cls(
            move=fields.octets("move", least=MOVE_BYTES),
            vm=VmName(plain_name(fields.text("vm", most=63), "VM name")),
            policy=fields.octets("policy", least=32).hex(),
            size=fields.number("size", least=0, most=MAX_DISK_BYTES),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Receive:
    """`type`: the one beside whose link the VM crosses. `secret`: 32 bytes by which the two streams are known, for
    these two hosts alone."""

    move: bytes
    vm: VmName
    policy: str
    type: TypeName
    secret: bytes = field(repr=False)

    def encode(self) -> bytes:
        return encode_object(
            {
                "move": self.move.hex(),
                "vm": self.vm,
                "policy": self.policy,
                "type": self.type,
                "secret": self.secret.hex(),
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Raises BadInput."""
        fields = Fields.parse(data, "move", frozenset({"move", "vm", "policy", "type", "secret"}))
        return cls(
            move=fields.octets("move", least=MOVE_BYTES),
            vm=VmName(plain_name(fields.text("vm", most=63), "VM name")),
            policy=fields.octets("policy", least=32).hex(),
            type=type_name(fields.text("type", most=127)),
            secret=fields.octets("secret", least=SECRET_BYTES),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _OfMove:
    """A message that names a move and its VM, and says no more."""

    called: ClassVar[str]
    move: bytes
    vm: VmName

    def encode(self) -> bytes:
        return encode_object({"move": self.move.hex(), "vm": self.vm})

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Raises BadInput."""
        fields = Fields.parse(data, cls.called, frozenset({"move", "vm"}))
        return cls(
            move=fields.octets("move", least=MOVE_BYTES), vm=VmName(plain_name(fields.text("vm", most=63), "VM name"))
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Join(_OfMove):
    """The owner has connected both streams."""

    called: ClassVar[str] = "streams of a move"


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskPart:
    """A part of the disk; parts that are zero alone are not sent."""

    move: bytes
    vm: VmName
    offset: int
    data: bytes

    def encode(self) -> bytes:
        return join(encode_object({"move": self.move.hex(), "vm": self.vm, "offset": self.offset}), self.data)

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """Raises BadInput."""
        header, data = split(body)
        fields = Fields.parse(header, "part of a disk", frozenset({"move", "vm", "offset"}))
        if not 0 < len(data) <= MAX_DISK_PART:
            raise BadInput("malformed message", where="part of a disk", expected=f"1 to {MAX_DISK_PART} bytes")
        return cls(
            move=fields.octets("move", least=MOVE_BYTES),
            vm=VmName(plain_name(fields.text("vm", most=63), "VM name")),
            offset=fields.number("offset", least=0, most=MAX_DISK_BYTES),
            data=data,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Handover:
    """To be accepted: a token that nobody has signed. To be handed over: one that both hosts have."""

    move: bytes
    token: bytes
    """An envelope of which nothing is verified."""

    def encode(self) -> bytes:
        return join(encode_object({"move": self.move.hex()}), self.token)

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """Raises BadInput."""
        header, token = split(body)
        fields = Fields.parse(header, "handover", frozenset({"move"}))
        if len(token) > MAX_TOKEN_ENVELOPE_BYTES:
            raise BadInput("malformed message", where="handover", expected=f"at most {MAX_TOKEN_ENVELOPE_BYTES} bytes")
        return cls(move=fields.octets("move", least=MOVE_BYTES), token=token)


@dataclass(frozen=True, slots=True, kw_only=True)
class Abort(_OfMove):
    """The owner keeps the VM."""

    called: ClassVar[str] = "end of a move"


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrived:
    """What became of a VM that was handed over, in words for people; `resumed`: it runs. `waited_ms`: since then;
    `first_frame_ms`: from then until it sent a frame, 0 where nobody waited for that, or none came soon."""

    resumed: bool
    state: str
    waited_ms: int = 0
    first_frame_ms: int = 0

    def encode(self) -> bytes:
        return encode_object(
            {
                "resumed": self.resumed,
                "state": self.state,
                "waited_ms": self.waited_ms,
                "first_frame_ms": self.first_frame_ms,
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Raises BadInput."""
        fields = Fields.parse(data, "arrival", frozenset({"resumed", "state", "waited_ms", "first_frame_ms"}))
        return cls(
            resumed=fields.flag("resumed"),
            state=fields.text("state", most=MAX_STATE),
            waited_ms=fields.number("waited_ms", least=0, most=_MAX_FRAME_MS),
            first_frame_ms=fields.number("first_frame_ms", least=0, most=_MAX_FRAME_MS),
        )
