"""Policies to and from the bytes of NEWPOLICY, UPDPOLICY, GETPOLICY, DELPOLICY (net/xfrm/xfrm_user.c).

A body is everything after the netlink header.
"""

from .attributes import (
    attributes,
    fixed,
    pack_attribute,
    pack_interface_id,
    pack_mark,
    pack_offload,
    pack_policy_type,
    pack_security_context,
    unpack_mark,
    unpack_offload,
    unpack_policy_type,
    unpack_security_context,
    unpack_u32,
)
from .constants import Action, Attribute, Direction, Mode, PolicyFlag
from .errors import invalid, malformed
from .policy import Policy, PolicyId, Template
from .structs import (
    HARD,
    LIFETIME_CFG,
    LIFETIME_CUR,
    SELECTOR,
    U64,
    USER_TMPL,
    USERPOLICY_ID_SIZE,
    USERPOLICY_ID_TAIL,
    USERPOLICY_INFO,
    USERPOLICY_INFO_SIZE,
    USERPOLICY_TAIL,
    family_of,
    pack_address,
    pack_lifetime,
    pack_selector,
    pack_spi,
    unpack_address_or_any,
    unpack_lifetime,
    unpack_selector,
    unpack_usage,
)

_MODELLED = frozenset(
    {
        Attribute.TMPL,
        Attribute.SEC_CTX,
        Attribute.POLICY_TYPE,
        Attribute.MARK,
        Attribute.IF_ID,
        Attribute.OFFLOAD_DEV,
        Attribute.LASTUSED,
        Attribute.PAD,
        # Around a policy in notifications.
        Attribute.POLICY,
        Attribute.SA_PCPU,
    }
)


def encode_template(template: Template, family: int) -> bytes:
    """One struct xfrm_user_tmpl; `family` is the selector's, for a template without addresses."""
    address = template.destination or template.source
    return USER_TMPL.pack(
        pack_address(template.destination),
        pack_spi(template.spi),
        template.protocol,
        family if address is None else family_of(address.version),
        pack_address(template.source),
        template.reqid,
        template.mode,
        template.share,
        template.optional,
        template.auth_algorithms,
        template.cipher_algorithms,
        template.compression_algorithms,
    )


def decode_templates(payload: bytes) -> tuple[Template, ...]:
    """All templates of an XFRMA_TMPL."""
    if len(payload) % USER_TMPL.size:
        raise malformed("read templates", f"{len(payload)} bytes are no multiple of {USER_TMPL.size}")
    templates = []
    for (
        daddr,
        spi,
        protocol,
        family,
        saddr,
        reqid,
        mode,
        share,
        optional,
        auth,
        cipher,
        compression,
    ) in USER_TMPL.iter_unpack(payload):
        templates.append(
            Template(
                source=unpack_address_or_any(saddr, family),
                destination=unpack_address_or_any(daddr, family),
                spi=int.from_bytes(spi, "big"),
                protocol=protocol,
                mode=Mode(mode),
                reqid=reqid,
                optional=bool(optional),
                share=share,
                auth_algorithms=auth,
                cipher_algorithms=cipher,
                compression_algorithms=compression,
            )
        )
    return tuple(templates)


def encode_policy_info(policy: Policy) -> bytes:
    """struct xfrm_userpolicy_info."""
    return USERPOLICY_INFO.pack(
        pack_selector(policy.selector),
        pack_lifetime(policy.lifetime),
        policy.priority,
        policy.index,
        policy.direction,
        policy.action,
        policy.flags,
        policy.share,
    )


def encode_templates(policy: Policy) -> bytes:
    """Each struct xfrm_user_tmpl."""
    family = family_of(policy.selector.version)
    return b"".join(encode_template(template, family) for template in policy.templates)


def encode_policy(policy: Policy) -> bytes:
    """Body of NEWPOLICY or UPDPOLICY."""
    if policy.unmodelled:
        raise invalid(f"install policy {policy.id}", "it was read with attributes that are not modelled here")
    return encode_policy_info(policy) + encode_policy_attributes(policy)


def encode_policy_attributes(policy: Policy) -> bytes:
    """All that stands after the fixed part."""
    return b"".join(
        (
            pack_policy_type(policy.type),
            pack_attribute(Attribute.TMPL, encode_templates(policy)) if policy.templates else b"",
            pack_security_context(policy.security_context),
            pack_mark(policy.mark),
            pack_interface_id(policy.interface_id),
            pack_offload(policy.offload),
        )
    )


def encode_policy_id(policy_id: PolicyId) -> bytes:
    """Body of DELPOLICY or GETPOLICY."""
    head = pack_selector(policy_id.selector) + USERPOLICY_ID_TAIL.pack(policy_id.index, policy_id.direction)
    return head + _name_attributes(policy_id)


def encode_policy_expiry(policy_id: PolicyId, *, hard: bool) -> bytes:
    """Body of POLEXPIRE, with which a program ends a policy, or tells others that it will."""
    info = USERPOLICY_INFO.pack(
        pack_selector(policy_id.selector),
        bytes(LIFETIME_CFG.size),
        0,
        policy_id.index,
        policy_id.direction,
        0,
        0,
        0,
    )
    return info + HARD.pack(hard) + _name_attributes(policy_id)


def _name_attributes(policy_id: PolicyId) -> bytes:
    return b"".join(
        (
            pack_policy_type(policy_id.type),
            pack_security_context(policy_id.security_context),
            pack_mark(policy_id.mark),
            pack_interface_id(policy_id.interface_id),
        )
    )


def decode_policy(body: bytes, attribute_offset: int = USERPOLICY_INFO_SIZE, *, start: int = 0) -> Policy:
    """A policy from the body of NEWPOLICY, UPDPOLICY, POLEXPIRE or, at `start`, of ACQUIRE.

    Raises XfrmError if it cannot be understood whole.
    """
    if len(body) < max(start + USERPOLICY_INFO_SIZE, attribute_offset):
        raise malformed("read a policy", f"{len(body)} of {attribute_offset} bytes")
    selector = unpack_selector(body, start)
    if selector is None:
        raise malformed("read a policy", "its selector has no address family")
    lifetime_at = start + SELECTOR.size
    usage_at = lifetime_at + LIFETIME_CFG.size
    priority, index, direction, action, flags, share = USERPOLICY_TAIL.unpack_from(body, usage_at + LIFETIME_CUR.size)
    found = attributes(body, attribute_offset)
    last_used = found.get(Attribute.LASTUSED)
    try:
        return Policy(
            selector=selector,
            direction=Direction(direction),
            action=Action(action),
            priority=priority,
            templates=decode_templates(found.get(Attribute.TMPL, b"")),
            security_context=(
                unpack_security_context(found[Attribute.SEC_CTX]) if Attribute.SEC_CTX in found else None
            ),
            lifetime=unpack_lifetime(body, lifetime_at),
            flags=PolicyFlag(flags),
            share=share,
            type=unpack_policy_type(found),
            mark=unpack_mark(found[Attribute.MARK]) if Attribute.MARK in found else None,
            interface_id=unpack_u32(Attribute.IF_ID, found[Attribute.IF_ID]) if Attribute.IF_ID in found else 0,
            offload=unpack_offload(found),
            unmodelled=frozenset(found.keys() - _MODELLED),
            index=index,
            last_used=0 if last_used is None else fixed(U64, Attribute.LASTUSED, last_used)[0],
            usage=unpack_usage(body, usage_at),
        )
    except ValueError as error:
        raise malformed("read a policy", str(error)) from None


def decode_policy_id(body: bytes) -> PolicyId:
    """From the body of a DELPOLICY or MIGRATE notification."""
    if len(body) < USERPOLICY_ID_SIZE:
        raise malformed("read a policy id", f"{len(body)} of {USERPOLICY_ID_SIZE} bytes")
    index, direction = USERPOLICY_ID_TAIL.unpack_from(body, SELECTOR.size)
    selector = None if index else unpack_selector(body, 0)
    found = attributes(body, USERPOLICY_ID_SIZE)
    try:
        return PolicyId(
            direction=Direction(direction),
            selector=selector,
            index=index,
            type=unpack_policy_type(found),
            mark=unpack_mark(found[Attribute.MARK]) if Attribute.MARK in found else None,
            interface_id=unpack_u32(Attribute.IF_ID, found[Attribute.IF_ID]) if Attribute.IF_ID in found else 0,
        )
    except ValueError as error:
        raise malformed("read a policy id", str(error)) from None
