"""What pyxfrm sends, byte for byte what iproute2 sends for the same request."""

from ipaddress import ip_address, ip_interface

import pytest

from shamon_host.pyxfrm import (
    Action,
    Algorithm,
    Direction,
    Lifetime,
    Mark,
    Mode,
    Policy,
    PolicyFlag,
    PolicyId,
    PortMatch,
    SaFlag,
    SaId,
    SecurityAssociation,
    Selector,
    Template,
    XfrmError,
    aes_gcm,
)
from shamon_host.pyxfrm.policy_codec import encode_policy, encode_policy_id
from shamon_host.pyxfrm.sa_encode import encode_alloc_spi, encode_flush, encode_sa, encode_sa_id
from shamon_host.pyxfrm.structs import LIFETIME_CFG, USERSA_LIFETIME_OFFSET
from tests.unit.pyxfrm.iproute2_recorded import RECORDED

ONE, TWO = ip_address("192.0.2.1"), ip_address("192.0.2.2")
LABELLED = Policy(
    selector=Selector(
        source=ip_interface("192.0.2.1/32"),
        destination=ip_interface("192.0.2.2/32"),
        protocol=17,
        source_port=PortMatch(port=24576),
        destination_port=PortMatch(port=24577),
    ),
    direction=Direction.OUT,
    priority=100,
    security_context="system_u:object_r:shamon_spd_t:s0:c10",
    templates=(Template(source=ONE, destination=TWO, reqid=7),),
)
POLICIES = {
    "policy_out": LABELLED,
    "policy_block6": Policy(
        selector=Selector(source=ip_interface("::/0"), destination=ip_interface("2001:db8::1/128"), protocol=17),
        direction=Direction.IN,
        priority=1000,
        action=Action.BLOCK,
    ),
    "policy_update": Policy(
        selector=Selector(source=ip_interface("10.1.2.3/8"), destination=ip_interface("0.0.0.0/0")),
        direction=Direction.FWD,
        mark=Mark(value=5, mask=255),
        lifetime=Lifetime(hard_bytes=4096, soft_add_s=30),
        templates=(Template(optional=True),),
    ),
}
SAS = {
    "sa_add": SecurityAssociation(
        source=ONE,
        destination=TWO,
        spi=0x1001,
        reqid=7,
        aead=aes_gcm(bytes(range(1, 21))),
        flags=SaFlag.ESN,
        replay_window=64,
        lifetime=Lifetime(hard_add_s=15),
        security_context="system_u:object_r:shamon_link_t:s0:c10",
    ),
    "sa_update6": SecurityAssociation(
        source=ip_address("2001:db8::1"),
        destination=ip_address("2001:db8::2"),
        spi=0x1002,
        reqid=8,
        mode=Mode.TUNNEL,
        replay_window=32,
        extra_flags=2,
        auth=Algorithm(name="hmac(sha256)", key=bytes.fromhex("00112233445566778899aabbccddeeff" * 2), icv_bits=128),
        cipher=Algorithm(name="cbc(aes)", key=bytes.fromhex("00112233445566778899aabbccddeeff")),
        selector=Selector(
            source=ip_interface("2001:db8:1::/48"),
            destination=ip_interface("2001:db8:2::/48"),
            protocol=6,
            destination_port=PortMatch(port=443),
        ),
    ),
}


@pytest.mark.parametrize("name", POLICIES)
def test_policy(name: str) -> None:
    assert encode_policy(POLICIES[name]).hex() == RECORDED[name][1].hex()


@pytest.mark.parametrize("name", SAS)
def test_sa(name: str) -> None:
    assert encode_sa(SAS[name]).hex() == RECORDED[name][1].hex()


def test_policy_named_by_selector_and_context() -> None:
    assert encode_policy_id(LABELLED.id).hex() == RECORDED["policy_delete"][1].hex()


def test_sa_named_by_address_spi_and_protocol() -> None:
    # iproute2 adds an empty XFRMA_SRCADDR, which the kernel reads for protocols without SPI only.
    recorded = RECORDED["sa_delete"][1]
    assert recorded.startswith(encode_sa_id(SaId(destination=TWO, spi=0x1001)))
    marked = encode_sa_id(SaId(destination=TWO, spi=0x1001, mark=Mark(value=1, mask=3)))
    assert RECORDED["sa_get_mark"][1].endswith(marked[-12:])


def test_allocation_of_an_spi_but_for_the_limits() -> None:
    body = encode_alloc_spi(source=TWO, destination=ONE, protocol=50, mode=Mode.TRANSPORT, reqid=7, first=256, last=511)
    recorded = bytearray(RECORDED["alloc_spi"][1])
    limits = slice(USERSA_LIFETIME_OFFSET, USERSA_LIFETIME_OFFSET + LIFETIME_CFG.size)
    recorded[limits] = body[limits]  # a larval SA has those of the kernel
    assert body.hex() == recorded.hex()


def test_flush_names_all_protocols_by_a_padded_zero() -> None:
    assert encode_flush() == bytes(4)


def test_a_policy_is_named_by_selector_or_else_by_index() -> None:
    by_index = PolicyId(direction=Direction.OUT, index=9)
    assert encode_policy_id(by_index)[56:] == bytes.fromhex("0900000001000000")
    with pytest.raises(XfrmError, match="EINVAL"):
        PolicyId(direction=Direction.OUT)
    with pytest.raises(XfrmError, match="EINVAL"):
        PolicyId(direction=Direction.OUT, index=9, selector=LABELLED.selector)


def test_flags_of_a_policy() -> None:
    policy = Policy(selector=Selector.any(4), direction=Direction.IN, flags=PolicyFlag.ICMP)
    assert encode_policy(policy)[152 + 10] == PolicyFlag.ICMP
