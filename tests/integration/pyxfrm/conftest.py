"""Namespaces and clients for the tests; what a kernel lacks skips those that need it, with the reason."""

import errno
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace

import pytest

from shamon_host.pyxfrm import Group, XfrmError
from shamon_host.pyxfrm.client import Xfrm
from shamon_host.pyxfrm.monitor import XfrmMonitor
from tests.integration.pyxfrm.namespaces import HERE, SA, THERE, Namespace, ip, opened


@pytest.fixture(scope="module")
def namespaces() -> Iterator[tuple[Namespace, Namespace]]:
    """Two namespaces on one wire, 192.0.2.1 and 192.0.2.2."""
    if os.geteuid() != 0:
        pytest.skip("needs root, for network namespaces and XFRM netlink")
    if shutil.which("ip") is None:
        pytest.skip("needs ip (Debian: iproute2)")
    tag = secrets.token_hex(3)
    here, there = Namespace(name=f"xfrm-{tag}-a"), Namespace(name=f"xfrm-{tag}-b")
    made = []
    try:
        for namespace in (here, there):
            try:
                ip("netns", "add", namespace.name)
            except subprocess.CalledProcessError as error:
                pytest.skip(f"no network namespaces here: {error.stderr.strip()}")
            made.append(namespace)
        here.ip("link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", there.name)
        for namespace, address in ((here, HERE), (there, THERE)):
            namespace.ip("address", "add", f"{address}/24", "dev", "wire")
            namespace.ip("link", "set", "wire", "up")
        yield here, there
    finally:
        for namespace in made:
            ip("netns", "delete", namespace.name)


@pytest.fixture
def here(namespaces: tuple[Namespace, Namespace]) -> Namespace:
    return namespaces[0]


@pytest.fixture
def there(namespaces: tuple[Namespace, Namespace]) -> Namespace:
    return namespaces[1]


@pytest.fixture
def xfrm(here: Namespace) -> Iterator[Xfrm]:
    with opened(here) as xfrm:
        yield xfrm
        xfrm.flush_policies()
        xfrm.flush_sas()


@pytest.fixture
def peer(there: Namespace) -> Iterator[Xfrm]:
    with opened(there) as xfrm:
        yield xfrm
        xfrm.flush_policies()
        xfrm.flush_sas()


@pytest.fixture
def monitor(here: Namespace, xfrm: Xfrm) -> Iterator[XfrmMonitor]:
    with XfrmMonitor(list(Group), netns=here.name) as monitor:
        yield monitor


@pytest.fixture
def esp(xfrm: Xfrm) -> None:
    """Skips where the kernel has no ESP."""
    probe = replace(SA, spi=0xFFF0)
    try:
        xfrm.add_sa(probe)
    except XfrmError as error:
        if error.errno in (errno.ENOSYS, errno.EPROTONOSUPPORT, errno.EINVAL):
            pytest.skip(f"needs ESP and rfc4106(gcm(aes)) in the kernel: {error}")
        raise
    xfrm.delete_sa(probe.id)
