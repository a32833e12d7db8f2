"""Policies of single sockets: what is handed to setsockopt, and what no socket takes."""

import errno
import socket
from dataclasses import replace
from ipaddress import ip_address
from typing import cast

import pytest

from shamon_host.pyxfrm import (
    Direction,
    Mark,
    Policy,
    PolicyType,
    Selector,
    Template,
    XfrmError,
    clear_socket_policies,
    set_socket_policy,
)
from shamon_host.pyxfrm.policy_codec import encode_policy

POLICY = Policy(
    selector=Selector.any(4),
    direction=Direction.OUT,
    templates=(Template(source=ip_address("192.0.2.1"), destination=ip_address("192.0.2.2"), reqid=7),),
)


class FakeSocket:
    def __init__(self, family: int, code: int = 0) -> None:
        self.family, self.code = family, code
        self.set: list[tuple[object, ...]] = []

    def setsockopt(self, *arguments: object) -> None:
        if self.code:
            raise OSError(self.code, "Operation not permitted")
        self.set.append(arguments)


def _socket(fake: FakeSocket) -> socket.socket:
    return cast(socket.socket, fake)


def test_the_policy_is_followed_by_its_templates() -> None:
    fake = FakeSocket(socket.AF_INET)
    set_socket_policy(_socket(fake), POLICY)
    whole = encode_policy(POLICY)
    assert fake.set == [(socket.IPPROTO_IP, 17, whole[:168] + whole[172:])]  # no attribute header between
    clear_socket_policies(_socket(fake))
    assert fake.set[1] == (socket.IPPROTO_IP, 17, None, 0)


def test_ipv6_has_an_option_of_its_own() -> None:
    fake = FakeSocket(socket.AF_INET6)
    set_socket_policy(_socket(fake), replace(POLICY, selector=Selector.any(6)))
    assert fake.set[0][:2] == (socket.IPPROTO_IPV6, 35)


@pytest.mark.parametrize(
    "wrong",
    [
        {"direction": Direction.FWD},
        {"security_context": "system_u:object_r:shamon_spd_t:s0"},
        {"mark": Mark(value=1)},
        {"interface_id": 1},
        {"type": PolicyType.SUB},
    ],
)
def test_what_no_socket_can_have_is_refused(wrong: dict[str, object]) -> None:
    fake = FakeSocket(socket.AF_INET)
    with pytest.raises(XfrmError, match="EINVAL"):
        set_socket_policy(_socket(fake), replace(POLICY, **wrong))  # type: ignore[arg-type]  # each of its own type
    assert fake.set == []


def test_refusals_are_told() -> None:
    with pytest.raises(XfrmError, match="EPERM"):
        set_socket_policy(_socket(FakeSocket(socket.AF_INET, errno.EPERM)), POLICY)
    with pytest.raises(XfrmError, match="no socket of IPv4 or IPv6"):
        clear_socket_policies(_socket(FakeSocket(socket.AF_UNIX)))
