"""The MAC VM's image as it boots in QEMU, with an agent that stands in for the real one: `mac_vm_stand_in`."""

import base64
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from shamon_host.attestation.guest_appraisal import appraise_guest
from shamon_host.attestation.guest_messages import EvidenceRequest, read_answer
from shamon_host.attestation.guest_record import OF_MAC_VM, record_guest
from shamon_host.attestation.guest_reference import GuestBoot
from shamon_host.attestation.reference_record import not_in_manifest
from shamon_host.domain.flask_labels import flask_context
from shamon_host.domain.labels import VmName
from shamon_host.domain.policy import HypervisorKind
from shamon_host.domain.results import ClaimName
from shamon_host.hypervisor.libvirt_domain import xen_domain_xml
from shamon_host.hypervisor.ports import VmInterface, VmSpec
from tests.integration.lab import Lab
from tests.integration.lab.accelerator import accelerator
from tests.integration.lab.errors import LabError
from tests.integration.lab.images import host_images
from tests.integration.lab.tpm import SoftwareTpm
from tests.integration.lab.waiting import wait_until
from tests.integration.mac_vm_stand_in.__main__ import ATTEMPTS, NONCE, PEER, STATUS, VM
from vm_images.app import build_app
from vm_images.cache import in_use
from vm_images.mac_vm import build_mac_vm

STAND_IN = Path(__file__).with_name("mac_vm_stand_in")
READY = "link-agent: ready"
MEMORY_MIB = 128
MAX_IMAGE_BYTES = 80_000_000
LIMIT_S = 180.0
MADE = ("sas", "spd", "tunnel", "ports", "sealed", "guard", "filters")
"""What the stand-in read back as it was made."""
_DENIALS = "loglevel=6 sysctl.kernel.printk_ratelimit=0"
"""On the console too, all of them."""
_QEMU = "qemu-system-x86_64 -machine pc -cpu max -smp 1 -nodefaults -no-user-config -display none -no-reboot"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the lab's images are built by root")


def say(words: str) -> None:
    print(words, file=sys.stderr)


@pytest.fixture(scope="module")
def image() -> Iterator[Path]:
    directory = build_mac_vm(say, STAND_IN)
    with in_use(directory):
        yield directory


@pytest.fixture(scope="module")
def accelerated() -> str:
    return accelerator(build_app(say))


@dataclass(frozen=True, slots=True, kw_only=True)
class Boot:
    """One machine's console, and how it ended: QEMU's exit status once it has."""

    console: Path
    process: subprocess.Popen[bytes]

    @property
    def said(self) -> str:
        return self.console.read_text(errors="replace").replace("\r", "")

    def told(self) -> list[dict[str, Any]]:
        """The lines of the stand-in that are there whole."""
        return [json.loads(line) for line in re.findall(r"^stand-in: (.*)\n", self.said, re.MULTILINE)]

    def until_said(self, words: str) -> None:
        wait_until(lambda: words in self.said or self.ended, timeout_s=LIMIT_S, what=words)
        assert words in self.said, self.said[-2000:]

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def until_off(self) -> None:
        try:
            self.process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            raise LabError(f"still running; it said: {self.said[-2000:]}") from None


@contextmanager
def booted(
    image: Path, accelerated: str, directory: Path, *, words: str = "", root: Path | None = None, tpm: str = "",
    cmdline: str = "",
) -> Iterator[Boot]:  # fmt: skip
    """`words` are added to the image's command line, `cmdline` replaces it; `root` stands in the place of its root."""
    line = cmdline or json.loads((image / "mac-vm.json").read_text())["cmdline"]
    console, disk = directory / "console", root or image / "root.img"
    command = [*_QEMU.split(), "-accel", accelerated, "-m", str(MEMORY_MIB), "-serial", f"file:{console}"]
    command += ["-bios", "/usr/share/qemu/qboot.rom"]
    command += ["-kernel", str(image / "vmlinuz"), "-initrd", str(image / "initrd"), "-append", f"{line} {words}"]
    command += ["-drive", f"file={disk},if=none,id=root,format=raw,readonly=on", "-device", "virtio-blk-pci,drive=root"]
    command += ["-netdev", "user,id=wire,restrict=on", "-device", "virtio-net-pci,netdev=wire,romfile="]
    command += ["-device", "virtio-rng-pci"]
    if tpm:
        command += ["-chardev", f"socket,id=tpm,path={tpm}", "-tpmdev", "emulator,id=tpm0,chardev=tpm"]
        command += ["-device", "tpm-crb,tpmdev=tpm0"]
    console.touch()
    with (directory / "qemu").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield Boot(console=console, process=process)
    finally:
        process.kill()
        process.wait()


Start = Callable[..., AbstractContextManager[Boot]]


@pytest.fixture
def start(image: Path, accelerated: str, tmp_path: Path) -> Start:
    """`booted` in a directory of the test's own."""
    return partial(booted, image, accelerated, tmp_path)


@pytest.fixture(scope="module")
def running(image: Path, accelerated: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Boot]:
    """A machine with a TPM, whose agent is ready and has tried what it may not."""
    directory = tmp_path_factory.mktemp("mac-vm")
    tpm = SoftwareTpm(directory / "tpm")
    tpm.start()
    words = f"{_DENIALS} stand-in.try"
    try:
        with booted(image, accelerated, directory, words=words, tpm=str(tpm.socket)) as boot:
            boot.until_said(READY)
            wait_until(lambda: len(boot.told()) == 3 or boot.ended, timeout_s=LIMIT_S, what="the attempts")
            yield boot
    finally:
        tpm.stop()


def test_it_enforces_and_the_agent_is_in_its_domain(running: Boot) -> None:
    told = running.told()[0]
    print("seconds, KiB:", told["seconds"], told["memory_kib"])
    assert told["context"] == "system_u:system_r:shamon_t:s0-s0:c0.c1023"
    assert told["enforcing"]
    assert told["missing"] == []
    assert "[confidentiality]" in told["lockdown"]


def test_a_whole_link_can_be_made(running: Boot) -> None:
    """All that the kernel needs for one was loaded before it forbade modules."""
    told = running.told()[0]
    assert [name for name in MADE if told[name] is not True] == []
    assert told["gate"] == [PEER]
    assert told["foreign"] == []


def test_nothing_that_it_does_is_denied(running: Boot) -> None:
    before, _, attempts = running.said.partition(READY)
    assert [line for line in before.splitlines() if "avc:" in line] == []
    assert "avc:" in attempts, "denials are seen on the console"


def test_what_the_agent_must_not_do_is_refused(running: Boot) -> None:
    refused = running.told()[1]
    assert set(refused) == set(ATTEMPTS)
    assert [name for name, error in refused.items() if error not in ("EACCES", "EPERM", "EROFS", "ENOTSUP")] == []


def test_modules_cannot_be_loaded(running: Boot) -> None:
    assert running.told()[0]["modules_disabled"] == "1"
    assert running.told()[1]["use a module that is not there"] == "ENOTSUP"


def test_it_is_measured_into_its_own_tpm(running: Boot) -> None:
    told = running.told()[0]
    names = ("/usr/sbin/init", "/opt/shamon/bin/link-agent", "/etc/ima/ima-policy", "/usr/bin/python3.11")
    assert {*names, "selinux-state", "selinux-policy-hash"} <= set(told["measured"])
    assert re.fullmatch("[0-9A-F]{64}", told["pcr10"])
    assert told["pcr10"] != "0" * 64


def test_what_it_answers_its_host_meets_every_claim(running: Boot, image: Path) -> None:
    """By the key that it shows, over a log in which everything stands where it is to stand."""
    answer = read_answer(base64.b64decode(running.told()[2]["answer"]))
    quote, log = answer.evidence.quote, answer.evidence.ima_log
    files = {name: json.loads((image / "mac-vm.json").read_text())[name] for name in ("vmlinuz", "initrd", "cmdline")}
    boot = GuestBoot(kernel=files["vmlinuz"], initrd=files["initrd"], cmdline=files["cmdline"])
    manifest = json.loads((image / "mac-manifest.json").read_text())["files"]
    reference = record_guest(pcrs=quote.pcr_values, ima_log=log, boot=boot, manifest=manifest, demanded=OF_MAC_VM)
    print("in no manifest:", sorted(not_in_manifest(reference.values, manifest)), "log bytes:", len(log))
    result, _ = appraise_guest(
        answer,
        request=EvidenceRequest(vm=VmName(VM), nonce=NONCE),
        ak_public=answer.ak_public,
        boot=boot,
        reference=reference,
        state=None,
    )
    assert result.trusted, result.failures
    assert {claim.name for claim in result.claims} >= {ClaimName.IMA_POLICY, ClaimName.SELINUX, ClaimName.SHAMON_CODE}
    assert set(not_in_manifest(reference.values, manifest)) == set()


def test_it_is_no_bigger_than_it_may_be(image: Path) -> None:
    assert sum((image / name).stat().st_size for name in ("vmlinuz", "initrd", "root.img")) < MAX_IMAGE_BYTES


def test_when_the_agent_ends_the_machine_is_off(start: Start) -> None:
    with start(words="stand-in.end") as boot:
        boot.until_off()
        assert f"the link agent ended with status {STATUS}: the machine is switched off" in boot.said
        assert boot.process.returncode == 0
        (told,) = boot.told()
        assert told["pcr10"] == "", "without a TPM it says so"


@pytest.mark.parametrize("place", [0.0, 0.5, 0.97, 1.0], ids=["first block", "middle", "last data", "hash tree"])
def test_with_one_byte_changed_it_does_not_come_up(image: Path, start: Start, tmp_path: Path, place: float) -> None:
    """Wherever the byte is, also where nothing would ever have read it."""
    content = bytearray((image / "root.img").read_bytes())
    content[round(place * (len(content) - 1))] ^= 1
    root = tmp_path / "root.img"
    root.write_bytes(content)
    with start(root=root) as boot:
        boot.until_off()
        assert "dm-verity device corrupted" in boot.said
        assert READY not in boot.said


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (r"hash=([0-9a-f]{63}).", r"hash=\g<1>g", "not a SHA-256 digest: shamon.root.hash"),
        (r"hash=[0-9a-f]{64}", "hash=" + "0" * 64, "dm-verity device corrupted"),
        (r"shamon.root.hash=[0-9a-f]{64}", "", "the command line lacks, or has too long, shamon.root.hash="),
        (r"blocks=\d+", "blocks=99999999999999999999", "not a number of blocks"),
        ("lockdown=confidentiality", "", "the kernel is not locked down"),
        ("enforcing=1", "enforcing=0", "SELinux does not enforce"),
        ("security=selinux", "security=none lsm=lockdown", "cannot mount /root/sys/fs/selinux"),
    ],
    ids=["no digest", "another digest", "none", "blocks", "lockdown", "permissive", "no SELinux"],
)
def test_with_another_command_line_it_does_not_come_up(
    image: Path, start: Start, old: str, new: str, says: str
) -> None:
    line, changed = re.subn(old, new, json.loads((image / "mac-vm.json").read_text())["cmdline"])
    assert changed == 1
    with start(cmdline=line) as boot:
        boot.until_off()
        assert says in boot.said
        assert READY not in boot.said


@pytest.mark.full
def test_it_boots_as_a_guest_of_xen(image: Path) -> None:
    """The same files, paravirtualised."""
    home, bridge = "/var/lib/libvirt/images/app", "mactest0"
    files = {name: f"{home}/mac-{name}" for name in ("vmlinuz", "initrd", "root.img")}
    spec = VmSpec(
        name=VmName("macvm"),
        uuid="00000000-0000-4000-8000-0000000000ac",
        context=flask_context("red"),
        disk=files["root.img"],
        interfaces=(VmInterface(device="shvm1-0", bridge=bridge, mac="52:54:00:00:02:01"),),
        kernel=files["vmlinuz"],
        initrd=files["initrd"],
        cmdline=f"{json.loads((image / 'mac-vm.json').read_text())['cmdline']} {_DENIALS}",
        memory_mib=MEMORY_MIB,
    )
    with Lab(host_images(), xen_images=host_images(HypervisorKind.XEN), xen=["alpha"]) as lab:
        (alpha,) = lab.boot("alpha")
        alpha.run(f"ip link add {bridge} type bridge && ip link set {bridge} up")
        for name, place in files.items():
            alpha.put(place, image / name)
        alpha.put("/root/macvm.xml", xen_domain_xml(spec))
        started = alpha.run("virsh -q -c xen:///system create /root/macvm.xml && date +%s.%N", timeout_s=120)
        console = "$(virsh -q -c xen:///system ttyconsole macvm)"
        read = f"timeout 120 sed -u '/{READY}/q' {console}; date +%s.%N"
        said = alpha.run(read, check=False, timeout_s=180).stdout.replace("\r", "")
    print(f"seconds to ready: {float(said.split()[-1]) - float(started.stdout.split()[-1]):.1f}")
    (told,) = [json.loads(line) for line in re.findall(r"^stand-in: (.*)$", said, re.MULTILINE)]
    assert READY in said
    assert "avc:" not in said
    assert [name for name in MADE if told[name] is not True] == []
    assert told["modules_disabled"] == "1"
    assert told["pcr10"] == ""
