"""Links' SAs and SPD entries as pyxfrm's values and back: what is ours comes back as it went, nothing else passes."""

from dataclasses import replace
from ipaddress import ip_address, ip_interface

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shamon_host import pyxfrm
from shamon_host.domain.labels import HostName, SelinuxContext, TypeName
from shamon_host.links.desired import BLOCK_ENTRIES, DesiredLink
from shamon_host.links.linux_spd import (
    entry_from_policy,
    entry_to_policy,
    is_links_sa,
    policy_key,
    sa_from_kernel,
    sa_id_to_kernel,
    sa_out_of_reach,
    sa_to_kernel,
    socket_policy_in_words,
)
from shamon_host.links.model import GUARD_PRIORITY, SpdEntry

KEY = bytes(range(36))


def _context(kind: str, category: int = 7) -> SelinuxContext:
    return SelinuxContext(user="system_u", role="object_r", type=kind, categories=frozenset({category}))


def _link(*, ipv6: bool = False) -> DesiredLink:
    return DesiredLink(
        peer=HostName("beta"),
        type=TypeName("acme/red"),
        local="2001:db8::1" if ipv6 else "192.0.2.1",
        remote="2001:db8::2" if ipv6 else "192.0.2.2",
        local_port=0x6001,
        peer_port=0x6002,
        bridge="shbr7",
        link_context=_context("shamon_link_t"),
        spd_context=_context("shamon_spd_t"),
    )


def _read_back(entry: SpdEntry, **changes: object) -> pyxfrm.Policy:
    return replace(entry_to_policy(entry), index=42, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("ipv6", [False, True])
def test_own_entries_come_back(ipv6: bool) -> None:
    for entry in (*BLOCK_ENTRIES, *_link(ipv6=ipv6).spd_entries):
        assert entry_from_policy(_read_back(entry)) == entry


def test_own_entry_is_exact() -> None:
    """Addresses, ports, protocol, label, template: all of it is in the policy."""
    policy = entry_to_policy(_link().spd_entries[1])
    assert policy.direction is pyxfrm.Direction.OUT
    assert str(policy.selector) == "192.0.2.1/32 port 0x6001/0xffff to 192.0.2.2/32 port 0x6002/0xffff proto 17"
    assert policy.security_context == "system_u:object_r:shamon_spd_t:s0:c7"
    assert [(item.reqid, item.optional, item.mode) for item in policy.templates] == [
        (0x6001, False, pyxfrm.Mode.TRANSPORT)
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"templates": ()},
        {"templates": (pyxfrm.Template(reqid=0x6001, optional=True),)},
        {"action": pyxfrm.Action.BLOCK},
        {"security_context": None},
        {"security_context": "system_u:object_r:shamon_spd_t:s0:c1,c2,c3"},
        {"security_context": "no context"},
        {"mark": pyxfrm.Mark(value=1)},
        {"interface_id": 9},
        {"flags": pyxfrm.PolicyFlag(1)},
        {"unmodelled": frozenset({99})},
        {"lifetime": pyxfrm.Lifetime(hard_add_s=60)},
    ],
    ids=str,
)
def test_anything_else_in_the_place_is_foreign(changes: dict[str, object]) -> None:
    entry = entry_from_policy(_read_back(_link().spd_entries[1], **changes))
    assert entry is not None
    assert "index 42" in entry.foreign
    assert entry not in _link().spd_entries


def test_foreign_entries_are_told_apart_by_their_number() -> None:
    policy = pyxfrm.Policy(selector=pyxfrm.Selector.any(4), direction=pyxfrm.Direction.OUT)
    first, second = (entry_from_policy(replace(policy, index=index)) for index in (8, 16))
    assert first is not None
    assert first != second
    assert (first.source, first.source_port_mask, first.block) == ("", 0, False)


def _udp(source_port: pyxfrm.PortMatch | None, destination_port: pyxfrm.PortMatch | None) -> pyxfrm.Selector:
    return pyxfrm.Selector(
        source=ip_interface("192.0.2.1/32"),
        destination=ip_interface("192.0.2.0/24"),
        protocol=17,
        source_port=source_port,
        destination_port=destination_port,
    )


@pytest.mark.parametrize(
    ("selector", "priority", "concerns"),
    [
        (pyxfrm.Selector.any(6), 0, True),
        (pyxfrm.Selector.any(4), GUARD_PRIORITY, True),
        (pyxfrm.Selector.any(4), GUARD_PRIORITY + 1, False),
        (replace(pyxfrm.Selector.any(4), protocol=6), 0, False),
        (_udp(None, pyxfrm.PortMatch(port=0x4000)), 0, True),
        (_udp(None, pyxfrm.PortMatch(port=0x7FFF)), 0, True),
        (_udp(None, pyxfrm.PortMatch(port=0x3FFF)), 0, False),
        (_udp(None, pyxfrm.PortMatch(port=0x8000)), 0, False),
        (_udp(None, pyxfrm.PortMatch(port=4500)), 0, False),
        (_udp(pyxfrm.PortMatch(port=0, mask=0x8000), None), 0, True),
        (_udp(pyxfrm.PortMatch(port=0x6000), pyxfrm.PortMatch(port=0x8400)), 0, False),
    ],
)
def test_what_is_in_the_way(selector: pyxfrm.Selector, priority: int, concerns: bool) -> None:
    """It can match a packet between two ports of the block, and is asked before the guard's entries or beside them."""
    policy = pyxfrm.Policy(selector=selector, direction=pyxfrm.Direction.IN, priority=priority)
    assert (entry_from_policy(policy) is not None) is concerns


def test_forwarding_and_sockets_have_no_entries() -> None:
    policy = pyxfrm.Policy(selector=pyxfrm.Selector.any(4), direction=pyxfrm.Direction.FWD)
    assert entry_from_policy(policy) is None
    assert socket_policy_in_words(policy) == ""
    of_socket = replace(policy, direction=pyxfrm.Direction.SOCKET_OUT, index=3)
    assert entry_from_policy(of_socket) is None
    assert "index 3" in socket_policy_in_words(of_socket)


@pytest.mark.parametrize("ipv6", [False, True])
@pytest.mark.parametrize("inbound", [False, True])
def test_own_sas_come_back_without_the_key(ipv6: bool, inbound: bool) -> None:
    sa = _link(ipv6=ipv6).sa(inbound=inbound, spi=0x1234, key=KEY, lifetime_s=60)
    kernel = replace(sa_to_kernel(sa), usage=pyxfrm.Usage(packets=5))
    assert is_links_sa(kernel)
    found = sa_from_kernel(kernel)
    assert (found, found.key, found.packets) == (sa, None, 5)
    assert sa_id_to_kernel(found.id) == kernel.id


@pytest.mark.parametrize(
    "changes",
    [
        {"mode": pyxfrm.Mode.TUNNEL},
        {"flags": pyxfrm.SaFlag.NONE},
        {"aead": pyxfrm.aes_gcm(bytes(20))},
        {"replay_window": 0},
        {"lifetime": pyxfrm.Lifetime()},
        {"lifetime": pyxfrm.Lifetime(hard_add_s=60, soft_add_s=9)},
        {"security_context": None},
        {"selector": pyxfrm.Selector.any(4)},
        {"unmodelled": frozenset({4})},
    ],
    ids=str,
)
def test_sa_of_another_make_has_no_context(changes: dict[str, object]) -> None:
    sa = _link().sa(inbound=True, spi=0x1234, key=KEY, lifetime_s=60)
    kernel = replace(sa_to_kernel(sa), **changes)  # type: ignore[arg-type]
    assert is_links_sa(kernel)
    found = sa_from_kernel(kernel)
    assert found.context is None
    assert found.id == sa.id


def test_which_sas_are_of_links() -> None:
    kernel = sa_to_kernel(_link().sa(inbound=True, spi=0x1234, key=KEY, lifetime_s=60))
    assert is_links_sa(replace(kernel, reqid=1))
    assert is_links_sa(replace(kernel, security_context=None))
    assert not is_links_sa(replace(kernel, security_context=None, reqid=1))
    assert not is_links_sa(replace(kernel, aead=None))
    assert sa_out_of_reach(kernel) == ""
    assert "mark" in sa_out_of_reach(replace(kernel, mark=pyxfrm.Mark(value=1)))
    assert sa_out_of_reach(replace(kernel, protocol=pyxfrm.PROTO_AH)) != ""


def test_no_key_shows() -> None:
    assert KEY.hex() not in repr(sa_to_kernel(_link().sa(inbound=True, spi=0x1234, key=KEY, lifetime_s=60)))


_prefixes = st.tuples(st.ip_addresses(v=4), st.integers(0, 32)).map(ip_interface)
_ports = st.none() | st.builds(pyxfrm.PortMatch, port=st.integers(0, 0xFFFF), mask=st.integers(1, 0xFFFF))
_policies = st.builds(
    pyxfrm.Policy,
    selector=st.builds(
        pyxfrm.Selector,
        source=_prefixes,
        destination=_prefixes,
        protocol=st.sampled_from([0, 6, 17]),
        source_port=_ports,
        destination_port=_ports,
    ),
    direction=st.sampled_from(list(pyxfrm.Direction)),
    action=st.sampled_from(list(pyxfrm.Action)),
    priority=st.integers(0, 2000),
    templates=st.lists(st.builds(pyxfrm.Template, reqid=st.integers(0, 0x7000)), max_size=2).map(tuple),
    security_context=st.none() | st.text(st.characters(exclude_characters="\0"), min_size=1, max_size=20),
    index=st.integers(1, 1000),
)


@given(_policies)
def test_every_policy_is_understood_or_foreign(policy: pyxfrm.Policy) -> None:
    """Nothing raises, and what is not foreign translates into exactly what was read."""
    entry = entry_from_policy(policy)
    if entry is not None and not entry.foreign:
        assert entry_to_policy(entry) == policy
    assert policy_key(policy) == policy_key(replace(policy, security_context=None))
    assert isinstance(socket_policy_in_words(policy), str)


def test_addresses_are_the_kernels() -> None:
    sa = sa_to_kernel(_link(ipv6=True).sa(inbound=True, spi=0x1234, key=KEY, lifetime_s=60))
    assert sa.destination == ip_address("2001:db8::1")
