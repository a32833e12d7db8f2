"""What pyxfrm sends, byte for byte what iproute2 sends for the same request (record_iproute2.py has the commands)."""

from dataclasses import replace
from ipaddress import ip_address, ip_interface

import pytest

from shamon_host.pyxfrm import (
    PROTO_AH,
    PROTO_COMP,
    PROTO_DSTOPTS,
    PROTO_ESP,
    Action,
    AddressFilter,
    Algorithm,
    DefaultAction,
    DefaultPolicy,
    Direction,
    Encapsulation,
    EncapsulationType,
    ExtraFlag,
    HashThreshold,
    Lifetime,
    Mark,
    Mode,
    Offload,
    OffloadFlag,
    Policy,
    PolicyFlag,
    PolicyId,
    PolicyType,
    PortMatch,
    Replay,
    SaFlag,
    SaId,
    SecurityAssociation,
    Selector,
    Template,
    XfrmError,
    aes_gcm,
    requests,
)
from shamon_host.pyxfrm.policy_codec import decode_policy, encode_policy, encode_policy_id
from shamon_host.pyxfrm.requests import Request
from shamon_host.pyxfrm.sa_decode import decode_sa, decode_sa_id
from shamon_host.pyxfrm.sa_encode import encode_sa, encode_sa_id
from shamon_host.pyxfrm.structs import LIFETIME_CFG, USERSA_LIFETIME_OFFSET
from tests.unit.pyxfrm.iproute2_recorded import RECORDED
from tests.unit.pyxfrm.record_iproute2 import COMMANDS

ONE, TWO = ip_address("192.0.2.1"), ip_address("192.0.2.2")
ONE6, TWO6 = ip_address("2001:db8::1"), ip_address("2001:db8::2")
IPROUTE2_SEQ_17 = 17 << 24
"""iproute2 turns a sequence number round, on the way in and out; to the kernel it is a number."""
HOSTS = Selector(source=ip_interface("192.0.2.1/32"), destination=ip_interface("192.0.2.2/32"))
EVERY_LIMIT = Lifetime(
    soft_bytes=1,
    hard_bytes=2,
    soft_packets=3,
    hard_packets=4,
    soft_add_s=5,
    hard_add_s=6,
    soft_use_s=7,
    hard_use_s=8,
)
LABELLED = Policy(
    selector=replace(HOSTS, protocol=17, source_port=PortMatch(port=24576), destination_port=PortMatch(port=24577)),
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
    "policy_everything": Policy(
        # Type and code of ICMP stand where ports do, under a full mask.
        selector=replace(
            HOSTS,
            protocol=1,
            interface_index=1,
            source_port=PortMatch(port=8),
            destination_port=PortMatch(port=0),
        ),
        direction=Direction.IN,
        index=808,
        type=PolicyType.SUB,
        priority=7,
        flags=PolicyFlag.LOCALOK | PolicyFlag.ICMP,
        interface_id=9,
        lifetime=EVERY_LIMIT,
        templates=(
            Template(source=ONE, destination=TWO, protocol=PROTO_AH, mode=Mode.TUNNEL, reqid=3),
            Template(source=ONE6, destination=TWO6, protocol=PROTO_COMP, mode=Mode.BEET, optional=True),
        ),
    ),
}
GCM = SecurityAssociation(source=ONE, destination=TWO, spi=0x1001, aead=aes_gcm(bytes(range(1, 21))))
SAS = {
    "sa_add": replace(
        GCM,
        reqid=7,
        flags=SaFlag.ESN,
        replay_window=64,
        lifetime=Lifetime(hard_add_s=15),
        security_context="system_u:object_r:shamon_link_t:s0:c10",
    ),
    "sa_update6": SecurityAssociation(
        source=ONE6,
        destination=TWO6,
        spi=0x1002,
        reqid=8,
        mode=Mode.TUNNEL,
        replay_window=32,
        extra_flags=ExtraFlag.OSEQ_MAY_WRAP,
        auth=Algorithm(name="hmac(sha256)", key=bytes.fromhex("00112233445566778899aabbccddeeff" * 2), icv_bits=128),
        cipher=Algorithm(name="cbc(aes)", key=bytes.fromhex("00112233445566778899aabbccddeeff")),
        selector=Selector(
            source=ip_interface("2001:db8:1::/48"),
            destination=ip_interface("2001:db8:2::/48"),
            protocol=6,
            destination_port=PortMatch(port=443),
        ),
    ),
    "sa_auth": SecurityAssociation(
        source=ONE,
        destination=TWO,
        spi=0x1001,
        protocol=PROTO_AH,
        auth=Algorithm(name="hmac(sha1)", key=bytes(range(1, 21))),
        lifetime=EVERY_LIMIT,
    ),
    "sa_comp": SecurityAssociation(
        source=ONE,
        destination=TWO,
        spi=0x1001,
        protocol=PROTO_COMP,
        mode=Mode.TUNNEL,
        compression=Algorithm(name="deflate"),
        flags=SaFlag.NOECN | SaFlag.DECAP_DSCP | SaFlag.NOPMTUDISC,
    ),
    "sa_encap": replace(
        GCM,
        encapsulation=Encapsulation(
            source_port=4500, destination_port=4501, original_address=ip_address("198.51.100.7")
        ),
    ),
    "sa_encap_tcp": replace(
        GCM,
        encapsulation=Encapsulation(type=EncapsulationType.ESPINTCP, source_port=4500, destination_port=4501),
    ),
    "sa_marks": replace(
        GCM,
        mode=Mode.TUNNEL,
        sequence=IPROUTE2_SEQ_17,
        extra_flags=ExtraFlag.DONT_ENCAP_DSCP | ExtraFlag.OSEQ_MAY_WRAP,
        mark=Mark(value=5, mask=0xFF),
        output_mark=Mark(value=7, mask=0xF0),
        interface_id=9,
    ),
    "sa_output_mark": replace(GCM, mode=Mode.TUNNEL, output_mark=Mark(value=7)),
    "sa_tfc": replace(GCM, mode=Mode.TUNNEL, tfc_padding=1400),
    "sa_offload": replace(GCM, offload=Offload(interface_index=1, flags=OffloadFlag.INBOUND)),
    "sa_replay": replace(GCM, replay_window=32, replay=Replay(received=5, sent=6)),
    "sa_replay_esn": replace(
        GCM, flags=SaFlag.ESN, replay_window=128, replay=Replay(received=1 << 32 | 5, sent=2 << 32 | 6)
    ),
    "sa_care_of": SecurityAssociation(
        source=ONE6,
        destination=TWO6,
        spi=0,
        protocol=PROTO_DSTOPTS,
        mode=Mode.ROUTEOPTIMIZATION,
        care_of_address=ip_address("2001:db8::9"),
    ),
}
REQUESTS: dict[str, Request[object]] = {
    "policy_delete": requests.delete_policy(LABELLED.id),
    "policy_get": requests.get_policy(PolicyId(direction=Direction.IN, selector=HOSTS)),
    "policy_flush": requests.flush_policies(PolicyType.MAIN),
    "policy_flush_sub": requests.flush_policies(PolicyType.SUB),
    "policy_count": requests.spd_info(),
    "policy_thresholds": requests.set_hash_thresholds(
        HashThreshold(local=24, remote=16), HashThreshold(local=64, remote=48)
    ),
    "policy_list": requests.dump_policies(),
    "sa_list_filter": requests.dump_sas(
        addresses=AddressFilter(source=ip_interface("192.0.2.0/24"), destination=ip_interface("198.51.100.0/25"))
    ),
    "sa_count": requests.sad_info(),
}
DEFAULT = DefaultPolicy(incoming=DefaultAction.BLOCK, forwarded=DefaultAction.ACCEPT, outgoing=DefaultAction.UNSPEC)
UNPADDED: dict[str, Request[object]] = {
    "policy_set_default": requests.set_default_policy(DEFAULT),
    "policy_get_default": requests.default_policy(),
    "sa_flush": requests.flush_sas(0),
    "sa_flush_ah": requests.flush_sas(PROTO_AH),
}


def test_every_command_is_recorded() -> None:
    assert COMMANDS.keys() == RECORDED.keys()


@pytest.mark.parametrize("name", POLICIES)
def test_policy(name: str) -> None:
    assert encode_policy(POLICIES[name]).hex() == RECORDED[name][2].hex()
    assert decode_policy(RECORDED[name][2]) == POLICIES[name]


@pytest.mark.parametrize("name", SAS)
def test_sa(name: str) -> None:
    assert encode_sa(SAS[name]).hex() == RECORDED[name][2].hex()
    decoded = decode_sa(RECORDED[name][2])
    assert decoded == SAS[name]
    assert decoded.replay == SAS[name].replay or name == "sa_replay" or SAS[name].replay is None


@pytest.mark.parametrize("name", REQUESTS)
def test_request(name: str) -> None:
    kind, _flags, body = RECORDED[name]
    assert (REQUESTS[name].kind, REQUESTS[name].body.hex()) == (kind, body.hex())


@pytest.mark.parametrize("name", UNPADDED)
def test_request_whose_fixed_part_is_padded_here(name: str) -> None:
    # iproute2 leaves the padding to the end of the message, where no attribute follows.
    kind, _flags, body = RECORDED[name]
    assert (UNPADDED[name].kind, UNPADDED[name].body.hex()) == (kind, body.ljust(4, b"\0").hex())


def test_policy_named_by_index() -> None:
    # iproute2 sends the selector's family too, which the kernel does not look at.
    policy_id = PolicyId(
        direction=Direction.OUT, index=9, mark=Mark(value=5, mask=255), type=PolicyType.SUB, interface_id=6
    )
    recorded = RECORDED["policy_delete_index"][2]
    assert encode_policy_id(policy_id)[56:].hex() == recorded[56:].hex()


def test_sa_named_by_address_spi_and_protocol() -> None:
    # iproute2 adds an empty XFRMA_SRCADDR, which the kernel reads for protocols without SPI only.
    recorded = RECORDED["sa_delete"][2]
    assert recorded.startswith(encode_sa_id(SaId(destination=TWO, spi=0x1001)))
    marked = encode_sa_id(SaId(destination=TWO, spi=0x1001, mark=Mark(value=1, mask=3)))
    assert RECORDED["sa_get_mark"][2].endswith(marked[-12:])


def test_sa_named_by_both_addresses() -> None:
    name = SaId(source=ONE6, destination=TWO6, spi=0, protocol=PROTO_DSTOPTS)
    assert encode_sa_id(name).hex() == RECORDED["sa_delete_hao"][2].hex()
    assert decode_sa_id(RECORDED["sa_delete_hao"][2]) == name
    assert SAS["sa_care_of"].id == name


def test_dump_of_one_protocol() -> None:
    # iproute2 adds a filter for all addresses.
    kind, _flags, body = RECORDED["sa_list_esp"]
    request = requests.dump_sas(PROTO_ESP)
    assert request.kind == kind
    assert request.body in body


@pytest.mark.parametrize(
    ("name", "mode", "sequence", "mark"),
    [
        ("alloc_spi", Mode.TRANSPORT, 0, None),
        ("alloc_spi_answer", Mode.TUNNEL, IPROUTE2_SEQ_17, Mark(value=5, mask=255)),
    ],
)
def test_allocation_of_an_spi_but_for_the_limits(name: str, mode: Mode, sequence: int, mark: Mark | None) -> None:
    request = requests.allocate_spi(
        source=TWO,
        destination=ONE,
        protocol=PROTO_ESP,
        mode=mode,
        reqid=7,
        first=256,
        last=511,
        sequence=sequence,
        mark=mark,
        interface_id=0,
        direction=None,
        cpu=None,
    )
    recorded = bytearray(RECORDED[name][2])
    limits = slice(USERSA_LIFETIME_OFFSET, USERSA_LIFETIME_OFFSET + LIFETIME_CFG.size)
    recorded[limits] = request.body[limits]  # a larval SA has those of the kernel
    assert request.body.hex() == recorded.hex()


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
