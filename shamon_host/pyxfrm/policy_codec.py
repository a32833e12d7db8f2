"""Policies to and from the bytes of NEWPOLICY, UPDPOLICY, GETPOLICY, DELPOLICY (net/xfrm/xfrm_user.c).

A body is everything after the netlink header.
"""

from .attributes import (
    attributes,
    fixed,
    pack_attribute,
    pack_interface_id,
    pack_mark,
    pack_policy_type,
    pack_security_context,
    unpack_mark,
    unpack_security_context,
    unpack_u32,
)
from .constants import Action, Attribute, Direction, Mode, PolicyFlag, PolicyType
from .errors import invalid, malformed
from .policy import Policy, PolicyId, Template
from .structs import (
    LIFETIME_CFG,
    LIFETIME_CUR,
    POLICY_TYPE,
    SELECTOR,
    USER_TMPL,
    USERPOLICY_ID_SIZE,
    USERPOLICY_ID_TAIL,
    USERPOLICY_INFO_SIZE,
    USERPOLICY_TAIL,
    family_of,
    pack_address,
    pack_lifetime,
    pack_selector,
    pack_spi,
    pack_usage,
    unpack_address,
    unpack_lifetime,
    unpack_selector,
    unpack_usage,
)
from .values import Address

_MODELLED = frozenset(
    {
        Attribute.TMPL,
        Attribute.SEC_CTX,
        Attribute.POLICY_TYPE,
        Attribute.MARK,
        Attribute.IF_ID,
        Attribute.LASTUSED,
        Attribute.PAD,
        # Around a policy in notifications.
        Attribute.POLICY,
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
                source=_address_or_any(saddr, family),
                destination=_address_or_any(daddr, family),
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


def _address_or_any(packed: bytes, family: int) -> Address | None:
    return unpack_address(packed, family) if any(packed) else None


def encode_policy(policy: Policy) -> bytes:
    """Body of NEWPOLICY or UPDPOLICY."""
    if policy.unmodelled:
        raise invalid(f"install policy {policy.id}", "it was read with attributes that are not modelled here")
    family = family_of(policy.selector.version)
    templates = b"".join(encode_template(template, family) for template in policy.templates)
    return b"".join(
        (
            pack_selector(policy.selector),
            pack_lifetime(policy.lifetime),
            pack_usage(policy.usage),
            USERPOLICY_TAIL.pack(
                policy.priority, policy.index, policy.direction, policy.action, policy.flags, policy.share
            ),
            pack_policy_type(policy.type),
            pack_attribute(Attribute.TMPL, templates) if templates else b"",
            pack_security_context(policy.security_context),
            pack_mark(policy.mark),
            pack_interface_id(policy.interface_id),
        )
    )


def encode_policy_id(policy_id: PolicyId) -> bytes:
    """Body of DELPOLICY or GETPOLICY."""
    return b"".join(
        (
            pack_selector(policy_id.selector),
            USERPOLICY_ID_TAIL.pack(policy_id.index, policy_id.direction),
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
    kind = 0
    if (payload := found.get(Attribute.POLICY_TYPE)) is not None:
        kind = fixed(POLICY_TYPE, Attribute.POLICY_TYPE, payload)[0]
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
            type=PolicyType(kind),
            mark=unpack_mark(found[Attribute.MARK]) if Attribute.MARK in found else None,
            interface_id=unpack_u32(Attribute.IF_ID, found[Attribute.IF_ID]) if Attribute.IF_ID in found else 0,
            unmodelled=frozenset(found.keys() - _MODELLED),
            index=index,
            usage=unpack_usage(body, usage_at),
        )
    except ValueError as error:
        raise malformed("read a policy", str(error)) from None


def decode_policy_id(body: bytes) -> PolicyId:
    """From the body of a DELPOLICY notification."""
    if len(body) < USERPOLICY_ID_SIZE:
        raise malformed("read a policy id", f"{len(body)} of {USERPOLICY_ID_SIZE} bytes")
    index, direction = USERPOLICY_ID_TAIL.unpack_from(body, SELECTOR.size)
    selector = None if index else unpack_selector(body, 0)
    try:
        return PolicyId(direction=Direction(direction), selector=selector, index=index)
    except ValueError as error:
        raise malformed("read a policy id", str(error)) from None
