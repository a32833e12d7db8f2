"""ACQUIRE: the kernel asks for an SA (build_acquire of net/xfrm/xfrm_user.c), or a program asks all key managers."""

from dataclasses import dataclass, replace

from .attributes import (
    attributes,
    pack_security_context,
    pack_u32,
    unpack_security_context,
    unpack_u32,
)
from .constants import ALL_ALGORITHMS, Attribute
from .errors import invalid, malformed
from .policy import Policy
from .policy_codec import decode_policy, encode_policy_attributes, encode_policy_info
from .structs import (
    ACQUIRE_SIZE,
    ACQUIRE_TAIL,
    ID,
    SELECTOR,
    USER_TMPL,
    family_of,
    pack_address,
    pack_selector,
    pack_spi,
    unpack_address,
    unpack_selector,
)
from .values import Address, Selector


@dataclass(frozen=True, slots=True, kw_only=True)
class Acquire:
    """A packet matched an out-policy and no SA was there for it (XFRM_MSG_ACQUIRE).

    `selector` describes the packet: full addresses, protocol, ports. `security_context` is that of the packet's socket,
    None without SELinux. `policy` is the one that matched; its own security context is not told. An SA that answers
    carries `sequence`. Told once: then the kernel waits net.core.xfrm_acq_expires seconds before it tells again.
    """

    source: Address
    destination: Address
    protocol: int
    selector: Selector
    policy: Policy
    sequence: int
    security_context: str | None
    auth_algorithms: int = ALL_ALGORITHMS
    cipher_algorithms: int = ALL_ALGORITHMS
    compression_algorithms: int = ALL_ALGORITHMS
    cpu: int | None = None
    """The CPU that wants an SA of its own (PolicyFlag.CPU_ACQUIRE)."""


def encode_acquire(acquire: Acquire) -> bytes:
    """Body of ACQUIRE as a request: the kernel gives it a number and tells all who listen (xfrm_add_acquire)."""
    if not acquire.policy.templates:
        raise invalid("ask for an SA", "its policy has no template")
    return b"".join(
        (
            ID.pack(pack_address(acquire.destination), pack_spi(0), acquire.protocol),
            pack_address(acquire.source),
            pack_selector(acquire.selector),
            encode_policy_info(acquire.policy),
            ACQUIRE_TAIL.pack(
                acquire.auth_algorithms,
                acquire.cipher_algorithms,
                acquire.compression_algorithms,
                acquire.sequence,
            ),
            encode_policy_attributes(replace(acquire.policy, security_context=None)),
            pack_security_context(acquire.security_context),
            b"" if acquire.cpu is None else pack_u32(Attribute.SA_PCPU, acquire.cpu),
        )
    )


def decode_acquire(body: bytes) -> Acquire:
    """Raises XfrmError."""
    if len(body) < ACQUIRE_SIZE:
        raise malformed("read an ACQUIRE", f"{len(body)} of {ACQUIRE_SIZE} bytes")
    daddr, _spi, protocol = ID.unpack_from(body)
    saddr = body[ID.size : ID.size + 16]
    selector_at = ID.size + 16
    selector = unpack_selector(body, selector_at)
    if selector is None:
        raise malformed("read an ACQUIRE", "its selector has no address family")
    auth, cipher, compression, sequence = ACQUIRE_TAIL.unpack_from(body, ACQUIRE_SIZE - ACQUIRE_TAIL.size)
    found = attributes(body, ACQUIRE_SIZE)
    # The SA's addresses are of the template's family, which in tunnel mode may differ from the packet's.
    family = family_of(selector.version)
    if len(templates := found.get(Attribute.TMPL, b"")) >= USER_TMPL.size:
        family = USER_TMPL.unpack_from(templates)[3] or family
    policy = decode_policy(body, ACQUIRE_SIZE, start=selector_at + SELECTOR.size)
    return Acquire(
        source=unpack_address(saddr, family),
        destination=unpack_address(daddr, family),
        protocol=protocol,
        selector=selector,
        # The context in the attributes is the wanted SA's.
        policy=replace(policy, security_context=None),
        sequence=sequence,
        security_context=(unpack_security_context(found[Attribute.SEC_CTX]) if Attribute.SEC_CTX in found else None),
        auth_algorithms=auth,
        cipher_algorithms=cipher,
        compression_algorithms=compression,
        cpu=unpack_u32(Attribute.SA_PCPU, found[Attribute.SA_PCPU]) if Attribute.SA_PCPU in found else None,
    )
