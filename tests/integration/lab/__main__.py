"""``python -m tests.integration.lab up|push|ssh|status``: a lab that keeps running, for developing.

``up`` boots hosts and holds them until it is interrupted, leaving a note of where they are in the cache, which the
other commands read:
``push`` puts the checkout's code into the running hosts, ``ssh HOST [COMMAND]`` logs in.
"""

import argparse
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
from pathlib import Path
from typing import Any

from tests.integration.lab.errors import LabError
from tests.integration.lab.host import BootImage, Platform
from tests.integration.lab.images import host_images
from tests.integration.lab.lab import Lab
from vm_images.cache import cache_root, source_files

_REPOSITORY = Path(__file__).parents[3]
_PACKAGES = "/opt/shamon/lib/python3.11/site-packages"


def _note() -> Path:
    return cache_root() / "running-lab.json"


def _running() -> dict[str, Any]:
    try:
        return dict(json.loads(_note().read_text()))
    except FileNotFoundError as error:
        raise LabError("no lab is running: start one with `python -m tests.integration.lab up`") from error


def _up(chosen: argparse.Namespace) -> int:
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    xen = {"xen_images": host_images(Platform.XEN), "xen": chosen.xen} if chosen.xen else {}
    with Lab(host_images(), **xen) as lab:
        for name in chosen.hosts:
            lab.host(name).start(BootImage.OTHER if name in chosen.other else BootImage.RIGHT)
        for name in chosen.hosts:
            lab.host(name).wait_ready()
        hosts = {
            h.name: {"ssh_port": h.ssh_port, "qemu_pid": h.pid, "serial_log": str(h.serial_log)} for h in lab.hosts
        }
        key = lab.images / "ssh_key"
        note = {
            "pid": os.getpid(),
            "directory": str(lab.directory),
            "images": str(lab.images),
            "key": str(key),
            "hosts": hosts,
        }
        _note().write_text(json.dumps(note, indent=2) + "\n")
        for name, facts in hosts.items():
            print(f"{name}: {' '.join(_ssh_command(key, lab.host(name).ssh_port))}")
            print(f"    QEMU {facts['qemu_pid']}, console {facts['serial_log']}")
        print(f"wire: {lab.directory}/wire.pcap; end with Ctrl-C or kill {os.getpid()}", flush=True)
        stop.wait()
        if _note().exists() and _running()["pid"] == os.getpid():
            _note().unlink()
    return 0


def _push(chosen: argparse.Namespace) -> int:
    running = _running()
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for path in source_files(_REPOSITORY / "shamon_host"):
            archive.add(path, arcname=str(path.relative_to(_REPOSITORY)))
    unpack = f"rm -rf {_PACKAGES}/shamon_host && tar -C {_PACKAGES} -xf - && restorecon -R {_PACKAGES}/shamon_host"
    script = f"{unpack} && /opt/shamon/bin/python -m compileall -q {_PACKAGES}/shamon_host"
    for name in chosen.hosts or running["hosts"]:
        command = _ssh_command(Path(running["key"]), running["hosts"][name]["ssh_port"])
        subprocess.run([*command, script], input=packed.getvalue(), check=True)
        print(f"{name}: {len(packed.getvalue()) >> 10} KiB of shamon_host")
    return 0


def _ssh(chosen: argparse.Namespace) -> int:
    running = _running()
    command = _ssh_command(Path(running["key"]), running["hosts"][chosen.host]["ssh_port"])
    return subprocess.run([*command, *chosen.command], check=False).returncode


def _status(_: argparse.Namespace) -> int:
    print(_note().read_text() if _note().exists() else "no lab is running")
    return 0


def _ssh_command(key: Path, port: int) -> list[str]:
    options = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR"]
    command = ["ssh", "-i", str(key), "-p", str(port)]
    for option in options:
        command += ["-o", option]
    return [*command, "root@127.0.0.1"]


def main() -> int:
    """Command line entry; exit status 0 done, 1 the lab failed, 2 usage."""
    parser = argparse.ArgumentParser(prog="python -m tests.integration.lab", description=__doc__)
    commands = parser.add_subparsers(required=True)
    up = commands.add_parser("up", help="boot hosts and keep them running")
    up.add_argument("hosts", nargs="*", default=["alpha", "beta"])
    up.add_argument(
        "--other", action="append", default=[], metavar="HOST", help="boot this host with the other command line"
    )
    up.add_argument("--xen", action="append", default=[], metavar="HOST", help="this host runs Xen")
    up.set_defaults(run=_up)
    push = commands.add_parser("push", help="put the checkout's shamon_host into the running hosts")
    push.add_argument("hosts", nargs="*")
    push.set_defaults(run=_push)
    ssh = commands.add_parser("ssh", help="run a command on a running host, or log in")
    ssh.add_argument("host")
    ssh.add_argument("command", nargs=argparse.REMAINDER)
    ssh.set_defaults(run=_ssh)
    commands.add_parser("status", help="where the running lab is").set_defaults(run=_status)
    chosen = parser.parse_args()
    try:
        return int(chosen.run(chosen))
    except LabError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
