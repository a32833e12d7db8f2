"""A host as a tree of files, in which everything is as it should be; tests change one thing each."""

import json
import os
import shutil
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

from shamon_host.attestation.ima_log import encode_ima_log, ima_buf_entry, ima_sig_entry
from shamon_host.attestation.reference_values import dump_reference_values
from shamon_host.cli.main import main
from shamon_host.doctor.examination import examine
from shamon_host.doctor.facts import ClockFacts, HostFacts, TpmAnswer
from shamon_host.doctor.findings import Finding, Report, Verdict
from shamon_host.doctor.host_files import HostFiles
from shamon_host.doctor.kernel_checks import MODULES
from shamon_host.doctor.look import NOTHING, Look
from shamon_host.doctor.reading import read_host
from shamon_host.selinux.checking import check_host
from shamon_host.testing.machine import MeasuredMachine, sha256
from shamon_host.testing.memory_world import MEMORY_TIMING
from shamon_host.testing.selinux import MemorySelinuxHost
from shamon_host.testing.story_policy import story_policy
from tests.unit.attestation.measured_world import good_reference

REPOSITORY = Path(__file__).resolve().parents[3]
RECIPE = REPOSITORY / "vm_images/host"
CONFIG = Path("/etc/shamon/host.toml")
RELEASE = "6.1.0-57-amd64"
OPTIONS = {
    **dict.fromkeys(
        [
            "SECURITYFS",
            "SECURITY_SELINUX",
            "SECURITY_NETWORK_XFRM",
            "SECURITY_LOCKDOWN_LSM",
            "AUDIT",
            "IMA",
            "IMA_LSM_RULES",
            "TCG_TPM",
            "TCG_TIS",
            "TCG_CRB",
            "L2TP_V3",
            "NF_TABLES_INET",
            "XFRM_STATISTICS",
        ],
        "y",
    ),
    **dict.fromkeys(
        [
            "XFRM_USER",
            "INET_ESP",
            "INET6_ESP",
            "CRYPTO_GCM",
            "L2TP",
            "L2TP_ETH",
            "BRIDGE",
            "TUN",
            "NF_TABLES",
            "NF_TABLES_BRIDGE",
            "NFT_BRIDGE_META",
            "VHOST_VSOCK",
            "KVM",
        ],
        "m",
    ),
}
"""As Debian 12 has them."""
CAPABILITIES = """<capabilities><host><secmodel><model>selinux</model><doi>0</doi></secmodel>
<secmodel><model>dac</model></secmodel></host><guest><os_type>hvm</os_type><arch name='x86_64'>
<domain type='qemu'/><domain type='kvm'/></arch></guest></capabilities>"""
STATE = b"initialized=1;enforcing=1;checkreqprot=0;"
SOCKETS = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
FIB = """Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
Local:
  +-- 192.0.2.0/24 2 0 2
     |-- 192.0.2.1
        /32 host LOCAL
     |-- 192.0.2.255
        /32 link BROADCAST
"""
SYSCTLS = {
    "ipv4/ip_forward": "0",
    "ipv6/conf/all/forwarding": "0",
    **{
        f"{family}/conf/{interface}/{leaf}": "1" if interface == "lo" else "0"
        for family, leaf in (("ipv4", "disable_policy"), ("ipv4", "disable_xfrm"), ("ipv6", "disable_policy"))
        for interface in ("all", "default", "lo", "wire0")
    },
    "ipv4/ip_local_port_range": "32768\t60999",
    "ipv4/ip_local_reserved_ports": "",
}


def socket_line(port: int, inode: int, *, state: str = "0A") -> str:
    """A line of /proc/net/tcp or udp."""
    rest = f"{state} 00000000:00000000 00:00000000 00000000     0        0 {inode} 1"
    return f"   0: 00000000:{port:04X} 00000000:0000 {rest}\n"


def found_coalition(root: Path) -> None:
    """A coalition of one host, alpha, as its operator makes it: `etc`, and `ca` for who needs the CA's key."""
    etc = root / "etc"
    etc.mkdir(parents=True)
    (etc / "policy.toml").write_text(story_policy(image_sha256="0" * 64, timing=MEMORY_TIMING))
    assert main(["coalition", "init", "lab", "--ca", str(root / "ca")]) == 0
    for host in ("alpha", "beta", "gamma"):
        other = MeasuredMachine()
        other.boot()
        (root / f"{host}.ak").write_bytes(other.tpm.ak_public())
        enrol = ["coalition", "enrol", host, "--ca", str(root / "ca"), "--policy", str(etc / "policy.toml")]
        places = ["--ak", str(root / f"{host}.ak"), "--registry", str(etc / "peers"), "--out", str(root / "tls")]
        assert main([*enrol, *places, "--tpm", "software"]) == 0
    shutil.copy(root / "ca/ca.pem", etc)
    shutil.copy(root / "tls/alpha.pem", etc / "host.pem")
    shutil.copy(root / "tls/alpha.key", etc / "host.key")
    (etc / "host.toml").write_text('name = "alpha"\n[images.app]\npath = "/var/lib/libvirt/images/app/disk.raw"\n')
    (etc / "reference").mkdir()
    for host in ("alpha", "beta", "gamma"):
        dump_reference_values(good_reference(), etc / f"reference/{host}.json")


@dataclass
class HostTree:
    """`printed`: program's words → what it prints, or a Look where it fails; `told`: what is put over what was read."""

    root: Path
    printed: dict[str, str | Look[str]] = field(default_factory=dict)
    selinux: MemorySelinuxHost = field(default_factory=lambda: MemorySelinuxHost().with_module())
    answer: Look[TpmAnswer] = field(default_factory=lambda: Look(TpmAnswer(family="2.0", ek_certificate=True)))
    clock: ClockFacts = field(
        default_factory=lambda: ClockFacts(
            now=datetime.now(UTC), synchronised=Look(True), max_error_s=0.01, boottime_s=100.0, monotonic_s=100.0
        )
    )
    daemon: Look[str] = NOTHING
    disks: dict[str, Look[int]] = field(default_factory=lambda: {"/var/lib/shamon": Look(10 << 30)})

    def put(self, path: str, content: str | bytes) -> Path:
        here = self.root / path.lstrip("/")
        here.parent.mkdir(parents=True, exist_ok=True)
        here.write_bytes(content.encode() if isinstance(content, str) else content)
        return here

    def change(self, path: str, old: str, new: str) -> None:
        text = (self.root / path.lstrip("/")).read_text()
        assert old in text, (path, old)
        self.put(path, text.replace(old, new))

    def take(self, path: str) -> None:
        here = self.root / path.lstrip("/")
        if here.is_dir():
            shutil.rmtree(here)
        else:
            here.unlink()

    def make(self, coalition: Path) -> None:
        """Everything as it should be. `coalition`: what `found_coalition` made."""
        self.put("/proc/sys/kernel/osrelease", f"{RELEASE}\n")
        self.put(f"/boot/config-{RELEASE}", "".join(f"CONFIG_{name}={value}\n" for name, value in OPTIONS.items()))
        self.put("/proc/modules", "".join(f"{name} 16384 0 - Live 0x0\n" for name in MODULES))
        self.put("/etc/modules-load.d/shamon.conf", (RECIPE / "root/etc/modules-load.d/shamon.conf").read_text())
        self.put("/proc/cmdline", (RECIPE / "cmdline").read_text())
        self.put("/sys/kernel/security/lsm", "lockdown,capability,landlock,yama,integrity,selinux,bpf")
        self.put("/sys/kernel/security/lockdown", "none integrity [confidentiality]\n")
        self.put("/sys/fs/selinux/status", struct.pack("=5I", 1, 0, 1, 1, 0))
        for path in ("/etc/selinux/config", "/etc/ima/ima-policy", "/etc/libvirt/qemu.conf"):
            self.put(path, (RECIPE / f"root{path}").read_bytes())
        self.measure(STATE)
        self.put("/sys/class/tpm/tpm0/pcr-sha256/10", f"{'AB' * 32}\n")
        machine = MeasuredMachine()
        machine.boot()
        self.put("/sys/kernel/security/tpm0/binary_bios_measurements", machine.logs.event_log())
        self.put("/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c", b"\6\0\0\0\1")
        self.put("/sys/firmware/efi/efivars/StubInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f", b"stub")
        for unit in ("systemd-pcrphase.service", "systemd-pcrphase-sysinit.service"):
            self.put(f"/usr/lib/systemd/system/{unit}", "[Unit]\n")
            here = self.root / "etc/systemd/system" / unit
            here.parent.mkdir(parents=True, exist_ok=True)
            here.symlink_to("/dev/null")
        self.put(
            "/etc/systemd/system/shamon.service", (resources("shamon_host.systemd") / "shamon.service").read_text()
        )
        for path, value in SYSCTLS.items():
            self.put(f"/proc/sys/net/{path}", f"{value}\n")
        for name in ("tcp", "tcp6", "udp", "udp6"):
            self.put(f"/proc/net/{name}", SOCKETS)
        self.put("/proc/net/fib_trie", FIB)
        self.put("/proc/net/if_inet6", "20010db8000000000000000000000001 02 40 00 80    wire0\n")
        shutil.copytree(coalition / "etc", self.root / "etc/shamon")
        (self.root / "etc/shamon/host.key").chmod(0o600)
        self.put("/var/lib/libvirt/images/app/disk.raw", "disk")
        self.printed |= {
            "capabilities": CAPABILITIES,
            "net-list --name": "\n",
            "net-list --all --autostart --name": "\n",
            "list ruleset": json.dumps({"nftables": [{"metainfo": {"version": "1.0.6"}}]}),
        }

    def measure(self, *states: bytes) -> None:
        """The IMA log of a boot in which the policy file that lies there was loaded."""
        policy = (self.root / "etc/ima/ima-policy").read_bytes()
        entries = [
            ima_sig_entry("boot_aggregate", b"\1" * 32),
            ima_buf_entry("selinux-state", b"initialized=0;enforcing=1;checkreqprot=0;"),
            ima_sig_entry("/etc/ima/ima-policy", sha256(policy)),
            *(ima_buf_entry("selinux-state", state) for state in states),
        ]
        self.put("/sys/kernel/security/ima/binary_runtime_measurements", encode_ima_log(entries))

    def run(self, arguments: Sequence[str]) -> Look[str]:
        words = " ".join(arguments)
        for end, printed in self.printed.items():
            if words.endswith(end):
                return printed if isinstance(printed, Look) else Look(printed)
        raise AssertionError(f"nobody should run {words}")

    def facts(self) -> HostFacts:
        found = self.read()
        key = found.coalition.key
        if key.value is not None and os.geteuid() == key.value.owner:  # tests need not be root
            key = Look(replace(key.value, owner=0))
        asked = Look(check_host(self.selinux.kernel, self.selinux.labels))
        return replace(
            found,
            tpm=replace(found.tpm, answer=self.answer),
            mac=replace(found.mac, asked=asked),
            coalition=replace(found.coalition, key=key),
            program=replace(found.program, disks=self.disks),
        )

    def read(self) -> HostFacts:
        """As it is read, without what a tree cannot have: a TPM, and a kernel's answers."""
        return read_host(
            HostFiles(self.root), self.run, lambda _: self.daemon, config_path=CONFIG, clock=lambda: self.clock
        )

    def report(self) -> Report:
        return examine(self.facts())

    def finding(self, name: str) -> Finding:
        (found,) = examine(self.facts(), [name]).findings
        return found

    def not_ok(self) -> dict[str, Verdict]:
        return {
            finding.name: finding.verdict for finding in self.report().findings if finding.verdict is not Verdict.OK
        }


def nft(*items: Any) -> str:
    """What nft prints of these."""
    return json.dumps({"nftables": list(items)})
