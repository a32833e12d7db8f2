"""Runs in the MAC VM as its agent: makes a whole link there, prints as one line of JSON what the kernel then holds and
how long that took, and is ready.

Words of the command line: `stand-in.try`: then try what the agent must not be able to do, and print how each was
refused, and what it answers to its host; `stand-in.end`: end.
"""

import base64
import errno
import json
import os
import secrets
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

OWN, PEER = "192.0.2.1", "192.0.2.77"
VM, NONCE = "alpha-mac", bytes(range(32))
CATEGORY = 7
STATUS = 7


def main() -> None:
    words = Path("/proc/cmdline").read_text().split()
    print("stand-in:", json.dumps(facts()), flush=True)
    print("link-agent: ready", flush=True)
    if "stand-in.try" in words:
        refused = {name: refusal(attempt) for name, attempt in ATTEMPTS.items()}
        print("stand-in:", json.dumps(refused), flush=True)
        print("stand-in:", json.dumps({"answer": base64.b64encode(answer()).decode()}), flush=True)
    if "stand-in.end" in words:
        sys.exit(STATUS)
    while True:
        time.sleep(60)


def facts() -> dict[str, Any]:
    """Imports here, so that they can be timed."""
    started_s = time.monotonic()
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
    spd = {*BLOCK_ENTRIES, *link.spd_entries}
    tap_filter = TapFilter(device="shvm7-0", rate_bytes_s=3 << 20)
    kernel = LinuxLinkKernel()
    kernel.apply(
        [
            model.InstallGuard(),
            *(model.AddSpdEntry(entry=entry) for entry in spd),
            model.CreateBridge(name=link.bridge),
            model.CreateTunnel(tunnel=link.tunnel),
            *(model.AddSa(sa=sa) for sa in sas),
            model.AttachPort(bridge=link.bridge, interface=link.device, isolated=True),
            model.SetTapFilter(filter=tap_filter),
            model.OpenGate(address=PEER, seconds=60.0),
        ]
    )
    state = kernel.read()
    read_s = time.monotonic()
    return {
        "context": Path("/proc/self/attr/current").read_text().rstrip("\0\n"),
        "enforcing": state.selinux_enforcing,
        "missing": state.selinux_missing,
        "sas": state.sas == set(sas),
        "spd": state.spd == spd,
        "tunnel": state.tunnels == {link.tunnel},
        "ports": state.bridges[link.bridge].ports == {link.device: True},
        "sealed": state.bridges[link.bridge].sealed,
        "gate": sorted(state.gate),
        "guard": state.guard,
        "filters": state.filters == {tap_filter.device: tap_filter},
        "foreign": state.foreign,
        "modules_disabled": Path("/proc/sys/kernel/modules_disabled").read_text().strip(),
        "lockdown": Path("/sys/kernel/security/lockdown").read_text().strip(),
        "measured": measured(),
        "pcr10": pcr10(),
        "seconds": {"started": started_s, "imported": imported_s, "linked": read_s},
        "memory_kib": memory_kib(),
    }


def answer() -> bytes:
    """What the real agent would answer to the host that asks for Evidence, over vsock."""
    from shamon_host.attestation.guest_messages import GUEST_PORT, EvidenceRequest
    from shamon_host.attestation.linux_logs import LinuxMeasurementLogs
    from shamon_host.attestation.tpm_bare import open_bare_tpm
    from shamon_host.domain.labels import VmName
    from shamon_host.guest_agent.answering import Answering
    from shamon_host.guest_agent.vsock import listen

    with listen(GUEST_PORT), open_bare_tpm() as tpm:
        request = EvidenceRequest(vm=VmName(VM), nonce=NONCE)
        return Answering(tpm=tpm, logs=LinuxMeasurementLogs()).answer(request.encode())


def set_address(name: str, address: str) -> None:
    from pyroute2 import IPRoute

    with IPRoute() as route:
        (index,) = route.link_lookup(ifname=name)
        route.addr("add", index=index, address=address, prefixlen=24)
        route.link("set", index=index, state="up")


def measured() -> list[str]:
    """What the kernel's log names, cut: the console is slow."""
    log = Path("/sys/kernel/security/ima/ascii_runtime_measurements").read_text().splitlines()
    names = [line.split()[4] for line in log]
    wanted = ("init", "link-agent", "ima-policy", "python3.11", "selinux-state", "selinux-policy-hash")
    return sorted({name for name in names if name.endswith(wanted)})


def pcr10() -> str:
    """ "" without a TPM."""
    path = Path("/sys/class/tpm/tpm0/pcr-sha256/10")
    return path.read_text().strip() if path.exists() else ""


def memory_kib() -> dict[str, int]:
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    wanted = {"MemTotal:", "MemAvailable:", "AnonPages:", "Slab:"}
    return {name.rstrip(":"): int(number) for name, number, *_ in lines if name in wanted}


def refusal(attempt: Callable[[], Any]) -> str:
    """The name of the error, "" if there was none."""
    try:
        attempt()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return ""


def run_own_program() -> None:
    program = Path("/run/program")
    program.write_bytes(Path("/usr/sbin/nft").read_bytes())
    program.chmod(0o755)
    os.execv(program, ["program"])


def new_device() -> None:
    """Its kind is a module's, which the kernel would look for."""
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    with IPRoute() as route:
        try:
            route.link("add", ifname="new0", kind="dummy")
        except NetlinkError as error:
            raise OSError(error.code, "") from None


ATTEMPTS: dict[str, Callable[[], Any]] = {
    "let modules be loaded again": lambda: Path("/proc/sys/kernel/modules_disabled").write_text("0"),
    "use a module that is not there": new_device,
    "switch SELinux off": lambda: Path("/sys/fs/selinux/enforce").write_text("0"),
    "load a policy": lambda: Path("/sys/fs/selinux/load").write_bytes(b"policy"),
    "change the root": lambda: Path("/etc/ima/ima-policy").write_text(""),
    "write to the disk": lambda: os.close(os.open("/dev/vda", os.O_WRONLY)),
    "run a program of its own": run_own_program,
    "read the kernel's memory": lambda: Path("/dev/mem").read_bytes(),
}

if __name__ == "__main__":
    main()
