"""Runs in the MAC VM as its agent: makes a guard, a bridge, a tunnel over a labelled socket, SPD entries and SAs, and
prints what the kernel then holds, as one line of JSON. Ends when the command line says so, else waits.
"""

import errno
import json
import os
import secrets
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

STARTED_S = time.monotonic()

OWN, PEER = "192.0.2.1", "192.0.2.77"
CATEGORY = 7


def main() -> None:
    from shamon_host.domain.labels import HostName, SelinuxContext, TypeName
    from shamon_host.links import model
    from shamon_host.links.desired import BLOCK_ENTRIES, DesiredLink, bridge_name
    from shamon_host.links.linux_kernel import LinuxLinkKernel
    from shamon_host.links.tap_filter import TapFilter

    imported_s = time.monotonic()
    set_address("eth0", OWN)

    def context(kind: str) -> SelinuxContext:
        return SelinuxContext(user="system_u", role="object_r", type=kind, categories=frozenset({CATEGORY}))

    link = DesiredLink(
        peer=HostName("beta"), type=TypeName("acme/red"), local=OWN, remote=PEER, local_port=16400, peer_port=16500,
        bridge=bridge_name(CATEGORY), link_context=context("shamon_link_t"), spd_context=context("shamon_spd_t"),
    )  # fmt: skip
    sas = [
        link.sa(inbound=inbound, spi=0x4711 + inbound, key=secrets.token_bytes(36), lifetime_s=60)
        for inbound in (False, True)
    ]
    operations = [
        model.InstallGuard(),
        *(model.AddSpdEntry(entry=entry) for entry in (*BLOCK_ENTRIES, *link.spd_entries)),
        model.CreateBridge(name=link.bridge),
        model.CreateTunnel(tunnel=link.tunnel),
        *(model.AddSa(sa=sa) for sa in sas),
        model.AttachPort(bridge=link.bridge, interface=link.device, isolated=True),
        model.SetTapFilter(filter=TapFilter(device="shvm7-0", rate_bytes_s=3 << 20)),
        model.OpenGate(address=PEER, seconds=60.0),
    ]
    kernel = LinuxLinkKernel()
    kernel.apply(operations)
    applied_s = time.monotonic()
    state = kernel.read()
    told = {
        "context": Path("/proc/self/attr/current").read_text().rstrip("\0\n"),
        "enforcing": state.selinux_enforcing,
        "missing": state.selinux_missing,
        "sas": len(state.sas),
        "spd": state.spd == {*BLOCK_ENTRIES, *link.spd_entries},
        "tunnel": state.tunnels == {link.tunnel},
        "ports": dict(state.bridges[link.bridge].ports) == {link.device: True},
        "sealed": state.bridges[link.bridge].sealed,
        "gate": list(state.gate),
        "guard": state.guard,
        "filters": list(state.filters),
        "foreign": state.foreign,
        "modules_disabled": Path("/proc/sys/kernel/modules_disabled").read_text().strip(),
        "refused": {name: refusal(attempt) for name, attempt in ATTEMPTS.items()},
        "written": written("/run/shamon-agent"),
        "programs": programs(),
        "memory_kib": memory_kib(),
        "seconds": {
            "started": STARTED_S, "imported": imported_s, "applied": applied_s, "read": time.monotonic(),
        },
    }  # fmt: skip
    print("stand-in:", json.dumps(told), flush=True)
    print("link-agent: ready", flush=True)
    words = Path("/proc/cmdline").read_text().split()
    if "stand-in.end" in words:
        sys.exit(7)
    while True:
        time.sleep(60)


def set_address(name: str, address: str) -> None:
    from pyroute2 import IPRoute

    with IPRoute() as route:
        (index,) = route.link_lookup(ifname=name)
        route.addr("add", index=index, address=address, prefixlen=24)
        route.link("set", index=index, state="up")


def refusal(attempt: Callable[[], Any]) -> str:
    """The name of the error, "" if there was none."""
    try:
        attempt()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return ""


def written(path: str) -> bool:
    Path(path).write_text("here")
    return Path(path).read_text() == "here"


def programs() -> list[str]:
    """The names of everything that runs outside the kernel."""
    found = []
    for process in sorted(Path("/proc").glob("[0-9]*"), key=lambda path: int(path.name)):
        try:
            if os.readlink(process / "exe"):
                found.append((process / "comm").read_text().strip())
        except OSError:
            continue  # a thread of the kernel, or of another domain
    return found


def memory_kib() -> dict[str, int]:
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    wanted = {"MemTotal:", "MemAvailable:", "Slab:", "AnonPages:"}
    return {name.rstrip(":"): int(number) for name, number, *_ in lines if name in wanted}


ATTEMPTS: dict[str, Callable[[], Any]] = {
    "modules allowed again": lambda: Path("/proc/sys/kernel/modules_disabled").write_text("0"),
    "a protocol of a module": lambda: socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM),
    "SELinux switched off": lambda: Path("/sys/fs/selinux/enforce").write_text("0"),
    "a file of the root changed": lambda: Path("/etc/ima/ima-policy").write_text(""),
    "a program from /run": lambda: os.execv("/run/shamon-agent", ["x"]),
    "the kernel's memory": lambda: Path("/dev/mem").read_bytes(),
}

if __name__ == "__main__":
    main()
