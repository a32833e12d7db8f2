"""Two network namespaces on one wire, and what the tests put into them."""

import asyncio
import errno
import socket
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address, ip_interface

import pytest
from pyroute2 import netns as pyroute2_netns

from shamon_host.pyxfrm import (
    Action,
    Direction,
    Event,
    Lifetime,
    Migrated,
    Policy,
    PortMatch,
    SaFlag,
    SecurityAssociation,
    Selector,
    Template,
    XfrmError,
    aes_gcm,
)
from shamon_host.pyxfrm.client import Xfrm
from shamon_host.pyxfrm.monitor import XfrmMonitor

HERE, THERE = ip_address("192.0.2.1"), ip_address("192.0.2.2")
SPI = 0x1001
PORT = 24576
KEY = bytes(range(36))
OUT = Policy(
    selector=Selector(
        source=ip_interface("192.0.2.1/32"),
        destination=ip_interface("192.0.2.2/32"),
        protocol=17,
        source_port=PortMatch(port=PORT),
        destination_port=PortMatch(port=PORT, mask=0xFC00),
    ),
    direction=Direction.OUT,
    priority=100,
    templates=(Template(source=HERE, destination=THERE, reqid=7),),
)
BLOCK6 = Policy(
    selector=Selector(source=ip_interface("::/0"), destination=ip_interface("2001:db8::1/64"), protocol=17),
    direction=Direction.IN,
    priority=1000,
    action=Action.BLOCK,
)
SA = SecurityAssociation(
    source=HERE,
    destination=THERE,
    spi=SPI,
    reqid=7,
    aead=aes_gcm(KEY),
    flags=SaFlag.ESN,
    replay_window=128,
    lifetime=Lifetime(hard_add_s=600),
)


def ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
    return done.stdout


@dataclass(frozen=True, slots=True, kw_only=True)
class Namespace:
    name: str

    def ip(self, *arguments: str) -> str:
        return ip("-n", self.name, *arguments)

    def udp_socket(self) -> socket.socket:
        opened = pyroute2_netns.create_socket(self.name, socket.AF_INET, socket.SOCK_DGRAM, flags=0)
        assert isinstance(opened, socket.socket)
        return opened


def opened(namespace: Namespace) -> Xfrm:
    try:
        return Xfrm(netns=namespace.name)
    except XfrmError as error:
        if error.errno == errno.EPROTONOSUPPORT:
            pytest.skip("the kernel has no XFRM_USER")
        raise


async def next_event(monitor: XfrmMonitor, wanted: Callable[[Event], bool], limit_s: float = 10) -> Event:
    async with asyncio.timeout(limit_s):
        async for event in monitor:
            if wanted(event):
                return event
    raise AssertionError("the monitor ended")


async def migrated_event(monitor: XfrmMonitor) -> Event:
    """Skips, as the last thing that a test does, where the kernel tells of it in its first namespace alone."""
    try:
        return await next_event(monitor, lambda event: isinstance(event, Migrated), limit_s=3)
    except TimeoutError:
        pytest.skip("this kernel tells of a MIGRATE in the first network namespace alone")
