"""`shamon doctor` on a good host, on a plain Debian, and with each fault put in: exactly that is found."""

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from shamon_host import __version__
from shamon_host.attestation.event_log import parse_event_log
from shamon_host.attestation.ima_log import encode_ima_log, ima_buf_entry, ima_sig_entry
from shamon_host.attestation.pcr import Bank
from shamon_host.doctor.bounded import no_program
from shamon_host.doctor.examination import ASK_PROGRAMS, CHECKS, NAMES, examine
from shamon_host.doctor.facts import HostFacts, TpmAnswer
from shamon_host.doctor.findings import Subject, Verdict
from shamon_host.doctor.host_files import HostFiles
from shamon_host.doctor.kernel_checks import MODULES
from shamon_host.doctor.look import PERMISSION, Look, not_installed
from shamon_host.doctor.mac_reading import summarise
from shamon_host.doctor.reading import read_host
from shamon_host.doctor.tpm_reading import UNITS
from shamon_host.domain.labels import HostName
from shamon_host.peer.coalition_ca import issue_host_certificate, key_pem
from shamon_host.peer.sealed_key import sealed_key
from shamon_host.testing.selinux import MemorySelinuxHost
from tests.unit.doctor.host_tree import CONFIG, RECIPE, RELEASE, SOCKETS, STATE, HostTree, nft, socket_line

WRONG, WARNING, UNKNOWN = Verdict.WRONG, Verdict.WARNING, Verdict.UNKNOWN
ROOT = Path(__file__).resolve().parents[3]
_STATUS = struct.pack("=5I", 1, 0, 0, 1, 0)
_PERMISSIVE = b"initialized=1;enforcing=0;checkreqprot=0;"
_INPUT = {"chain": {"family": "inet", "table": "filter", "name": "in", "hook": "input", "prio": 0, "policy": "drop"}}
_PERMIT_ESP = {"match": {"op": "==", "left": {"meta": {"key": "l4proto"}}, "right": "esp"}}


def rule(*statements: object, chain: str = "in") -> dict[str, object]:
    return {"rule": {"family": "inet", "table": "filter", "chain": chain, "expr": list(statements)}}


def test_nothing_is_found_on_a_good_host(host: HostTree) -> None:
    report = host.report()
    assert host.not_ok() == {}
    assert report.fit
    of_no_account = set(NAMES) - {finding.name for finding in report.findings}
    assert of_no_account == {"xen", "daemon"}


def test_every_name_is_its_own_and_subjects_stand_together() -> None:
    assert len(set(NAMES)) == len(NAMES)
    order = list(Subject)
    assert [order.index(check.subject) for check in CHECKS] == sorted(order.index(check.subject) for check in CHECKS)


def test_a_plain_debian_has_not_joined_and_is_told_all_it_lacks(tmp_path: Path) -> None:
    """A kernel with modules and AppArmor, no TPM, no libvirt, nothing of Shamon."""
    plain = HostTree(tmp_path)
    plain.put("/proc/sys/kernel/osrelease", RELEASE)
    plain.put("/proc/modules", "ext4 1 0 - Live 0\n")
    plain.put("/proc/cmdline", "BOOT_IMAGE=/boot/vmlinuz root=/dev/sda1 ro quiet")
    plain.put("/sys/kernel/security/lsm", "lockdown,capability,landlock,yama,apparmor,tomoyo,bpf,integrity")
    plain.put("/sys/kernel/security/lockdown", "[none] integrity confidentiality")
    report = examine(plain_facts(plain))
    found = {finding.name: finding.verdict for finding in report.findings}
    for name in ("modules", "command-line", "lsm-order", "lockdown", "selinux-mode", "selinux-policy", "tpm", "uefi"):
        assert found[name] is WRONG, name
    for name in ("configuration", "policy", "ca", "certificate", "host-key", "registry", "unit"):
        assert found[name] is WARNING, name
    for name in ("kernel-options", "libvirt", "acceleration", "link-ports"):
        assert found[name] is UNKNOWN, name
    assert not report.fit
    assert all(finding.remedy for finding in report.findings if finding.verdict is not Verdict.OK)


def plain_facts(host: HostTree) -> HostFacts:
    return read_host(HostFiles(host.root), no_program, lambda _: Look(), config_path=CONFIG, clock=lambda: host.clock)


def test_whatever_is_not_ok_says_what_to_do_and_where_to_read(host: HostTree) -> None:
    for finding in examine(plain_facts(HostTree(host.root / "nothing"))).findings:
        assert finding.found, finding
        if finding.verdict is not Verdict.OK:
            assert finding.remedy, finding
        if finding.verdict in (WRONG, WARNING):
            assert finding.expected, finding


def _unmask(host: HostTree) -> None:
    host.take("/etc/systemd/system/systemd-pcrphase.service")


def _used(name: str, port: int, owner: str = "") -> Callable[[HostTree], object]:
    """A socket at this port, held by a process of this name, by nobody that can be seen if there is none."""

    def put(host: HostTree) -> None:
        host.put(f"/proc/net/{name}", SOCKETS + socket_line(port, 4711))
        if owner:
            host.put("/proc/333/comm", f"{owner}\n")
            (host.root / "proc/333/fd").mkdir()
            (host.root / "proc/333/fd/3").symlink_to("socket:[4711]")

    return put


def _other_key(host: HostTree) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    host.put("/etc/shamon/host.key", key_pem(key))
    (host.root / "etc/shamon/host.key").chmod(0o600)


def _late(**later: float) -> Callable[[HostTree], object]:
    def change(host: HostTree) -> None:
        host.clock = replace(host.clock, now=host.clock.now + timedelta(**later))

    return change


def _module_gone(host: HostTree) -> None:
    host.selinux = MemorySelinuxHost()


def _prints(words: str, text: str | Look[str]) -> Callable[[HostTree], object]:
    return lambda host: host.printed.__setitem__(words, text)


def _set(name: str, value: object) -> Callable[[HostTree], object]:
    return lambda host: setattr(host, name, value)


def _file(path: str, text: str | bytes) -> Callable[[HostTree], object]:
    return lambda host: host.put(path, text)


def _changed(path: str, old: str, new: str) -> Callable[[HostTree], object]:
    return lambda host: host.change(path, old, new)


def _gone(path: str) -> Callable[[HostTree], object]:
    return lambda host: host.take(path)


_CONFIG = f"/boot/config-{RELEASE}"
_SYS = "/proc/sys/net"
_STUB = "/sys/firmware/efi/efivars/StubInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
_FAULTS: list[tuple[str, Callable[[HostTree], object], str, Verdict, str]] = [
    ("an old kernel", _file("/proc/sys/kernel/osrelease", "5.10.0-1"), "kernel-version kernel-options", WARNING, "5"),
    ("without IMA", _changed(_CONFIG, "CONFIG_IMA=y\n", ""), "kernel-options", WRONG, "built without IMA"),
    ("without TIS and CRB", _changed(_CONFIG, "CONFIG_TCG_TIS=y\nCONFIG_TCG_CRB=y\n", ""), "kernel-options", WRONG, ""),
    ("without vsock", _changed(_CONFIG, "CONFIG_VHOST_VSOCK=m\n", ""), "kernel-options", WARNING, "attested"),
    ("no options", _gone(_CONFIG), "kernel-options", UNKNOWN, "neither"),
    ("L2TP not loaded", _changed("/proc/modules", "l2tp_eth", "other"), "modules", WARNING, "asked for at boot"),
    ("permissive line", _changed("/proc/cmdline", "enforcing=1", "enforcing=0"), "command-line", WRONG, "enforcing=1"),
    ("SHA-1 line", _changed("/proc/cmdline", "quiet", "ima_hash=sha1"), "command-line", WRONG, "must go: ima_hash"),
    ("AppArmor", _file("/sys/kernel/security/lsm", "lockdown,apparmor"), "lsm-order", WRONG, "apparmor"),
    ("no lockdown", _file("/sys/kernel/security/lockdown", "[none] integrity"), "lockdown", WRONG, "none"),
    ("permissive", _file("/sys/fs/selinux/status", _STATUS), "selinux-mode", WRONG, "permissive"),
    ("was permissive", lambda host: host.measure(STATE, _PERMISSIVE, STATE), "selinux-mode", WRONG, "at some time"),
    ("not in the log", lambda host: host.measure(), "selinux-mode", WRONG, "does not say so"),
    ("config", _changed("/etc/selinux/config", "=enforcing", "=permissive"), "selinux-config", WRONG, "permissive"),
    ("module gone", _module_gone, "selinux-policy", WRONG, "answers"),
    ("other IMA policy", _changed("/etc/ima/ima-policy", "# Not files", "# No files"), "ima-policy", WRONG, "loaded"),
    ("no such TPM", _set("answer", Look(bad="it is not the TPM's device")), "tpm", WRONG, "not the TPM's device"),
    ("TPM 1.2", _set("answer", Look(TpmAnswer(family="1.2", ek_certificate=True))), "tpm", WRONG, "1.2"),
    ("no EK", _set("answer", Look(TpmAnswer(family="2.0", ek_certificate=False))), "ek-certificate", WARNING, "no"),
    ("no bank", _gone("/sys/class/tpm/tpm0/pcr-sha256"), "tpm-bank", WRONG, "no SHA-256"),
    ("PCR 10", _file("/sys/class/tpm/tpm0/pcr-sha256/10", "0" * 64), "tpm-bank", WRONG, "zero"),
    ("no stub", _gone(_STUB), "uefi", WARNING, "Boot on"),
    ("no UEFI", _gone("/sys/firmware/efi"), "uefi", WRONG, "not by UEFI"),
    ("no log", _gone("/sys/kernel/security/tpm0/binary_bios_measurements"), "event-log", WRONG, "none"),
    ("bad log", _file("/sys/kernel/security/tpm0/binary_bios_measurements", b"\1"), "event-log", WRONG, ""),
    ("pcrphase", _unmask, "pcr-extenders", WRONG, "systemd-pcrphase.service"),
    ("other driver", _prints("capabilities", "<c><host/><guest><arch><domain type='kvm'/></arch></guest></c>"),
     "security-driver", WRONG, "none"),
    ("no KVM", _prints("capabilities", "<c><host><secmodel><model>selinux</model></secmodel></host>"
                       "<guest><arch><domain type='qemu'/></arch></guest></c>"), "acceleration", WARNING, "emulated"),
    ("qemu.conf", _file("/etc/libvirt/qemu.conf", 'security_driver = "selinux"\n'), "qemu-conf", WARNING, "namespaces"),
    ("fallback", _file("/etc/libvirt/qemu.conf", 'security_driver = "none"\n'), "qemu-conf", WRONG, "none"),
    ("default is on", _prints("net-list --name", "default\n"), "default-network", WRONG, "is on"),
    ("default comes", _prints("net-list --all --autostart --name", "default\n"), "default-network", WRONG, "starts"),
    ("another net", _prints("net-list --name", "lab\n"), "default-network", WARNING, "lab"),
    ("forwarding", _file(f"{_SYS}/ipv4/ip_forward", "1"), "sysctls", WRONG, "net.ipv4.ip_forward is 1"),
    ("xfrm off", _file(f"{_SYS}/ipv4/conf/wire0/disable_xfrm", "1"), "sysctls", WRONG, "1 at wire0"),
    ("bridge-nf", _file(f"{_SYS}/bridge/bridge-nf-call-iptables", "1"), "sysctls", WRONG, "iptables is 1"),
    ("7443 taken", _used("tcp", 7443, "nginx"), "peer-port", WRONG, "7443 is used by process 333 (nginx)"),
    ("7443 by whom", _used("tcp6", 7443), "peer-port", UNKNOWN, "cannot be seen"),
    ("block used", _used("udp", 20000, "dns"), "link-ports", WRONG, "20000 is used by process 333 (dns)"),
    ("local ports", _file(f"{_SYS}/ipv4/ip_local_port_range", "1024\t60999"), "local-ports", WRONG, "1024-60999"),
    ("odd range", _file(f"{_SYS}/ipv4/ip_local_port_range", "many"), "local-ports", UNKNOWN, "many"),
    ("closed", _prints("list ruleset", nft(_INPUT)), "packet-filter", WRONG, "drops everything"),
    ("filter", _prints("list ruleset", nft(_INPUT, rule(_PERMIT_ESP, {"accept": None}))), "packet-filter", WARNING,
     "names ESP"),
    ("no nft", _prints("list ruleset", Look(unread=not_installed("nft"))), "packet-filter", UNKNOWN, "nft"),
    ("nft for root", _prints("list ruleset", Look(unread=PERMISSION)), "packet-filter", UNKNOWN, PERMISSION),
    ("address", _changed("/proc/net/fib_trie", "192.0.2.1\n", "192.0.2.9\n"), "address", WRONG, "no interface has"),
    ("config is no TOML", _file(str(CONFIG), "name = "), "configuration", WRONG, "TOML"),
    ("unknown host", _changed(str(CONFIG), '"alpha"', '"delta"'), "policy certificate registry", WRONG, "delta"),
    ("no such policy", _file("/etc/shamon/policy.toml", "nonsense"), "policy", WRONG, "policy.toml"),
    ("bad CA", _file("/etc/shamon/ca.pem", "nonsense"), "ca", WRONG, "certificate"),
    ("no certificate", _gone("/etc/shamon/host.pem"), "certificate", WRONG, "not there"),
    ("bad certificate", _file("/etc/shamon/host.pem", "nonsense"), "certificate", WRONG, "certificate"),
    ("open key", lambda host: (host.root / "etc/shamon/host.key").chmod(0o644), "host-key", WRONG, "0644"),
    ("other key", _other_key, "host-key", WRONG, "not the key of host.pem"),
    ("no records", _gone("/etc/shamon/peers"), "registry", WRONG, "not there"),
    ("a bad record", _file("/etc/shamon/peers/beta.record", "x"), "registry", WRONG, "beta.record"),
    ("one record less", _gone("/etc/shamon/peers/beta.record"), "registry", WARNING, "beta"),
    ("no values", _gone("/etc/shamon/reference/beta.json"), "reference-values", WARNING, "beta"),
    ("bad values", _file("/etc/shamon/reference/beta.json", "{}"), "reference-values", WRONG, "beta"),
    ("no image", _gone("/var/lib/libvirt/images/app/disk.raw"), "images", WRONG, "app: not there"),
    ("little room", _set("disks", {"/": Look(1 << 30)}), "disk-space", WARNING, "1024 MiB"),
    ("no room", _set("disks", {"/": Look(1 << 20)}), "disk-space", WRONG, "1 MiB"),
    ("another unit", _file("/etc/systemd/system/shamon.service", "[Unit]"), "unit", WARNING, "not the one"),
    ("no unit", _gone("/etc/systemd/system/shamon.service"), "unit", WARNING, "not installed"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("put_in", "names", "verdict", "words"), [row[1:] for row in _FAULTS], ids=[f[0] for f in _FAULTS]
)
def test_one_fault_is_one_finding(
    host: HostTree, put_in: Callable[[HostTree], object], names: str, verdict: Verdict, words: str
) -> None:
    """What follows from it and can be looked at no more is unknown; nothing else is found."""
    put_in(host)
    found = host.finding(names.split(maxsplit=1)[0])
    assert found.verdict is verdict, found
    assert words in found.found, found
    others = {name: other for name, other in host.not_ok().items() if name not in names.split()}
    assert set(others.values()) <= {UNKNOWN}, others


def test_what_rests_on_something_unknown_is_unknown(host: HostTree) -> None:
    host.printed = {
        "capabilities": Look(unread="virsh: error: Failed to connect socket"),
        "list ruleset": host.printed["list ruleset"],
    }
    assert host.not_ok() == {
        "libvirt": WRONG,
        "security-driver": UNKNOWN,
        "acceleration": UNKNOWN,
        "default-network": UNKNOWN,
    }


def test_without_virsh_libvirt_is_unknown_with_a_remedy(host: HostTree) -> None:
    host.printed["capabilities"] = Look(unread=not_installed("virsh"))
    found = host.finding("libvirt")
    assert (found.verdict, found.found) == (UNKNOWN, "the program virsh is not installed")
    assert "libvirt-clients" in found.remedy
    host.printed["capabilities"] = Look(unread=PERMISSION)
    assert host.finding("libvirt").remedy == "Run `shamon doctor` as root."


def test_without_a_tpm_its_parts_are_not_told_one_by_one(host: HostTree) -> None:
    host.answer = Look()
    host.take("/sys/class/tpm/tpm0/pcr-sha256")
    assert host.not_ok() == {"tpm": WRONG}


def test_no_log_at_all(host: HostTree) -> None:
    host.put("/sys/kernel/security/ima/binary_runtime_measurements", b"")
    assert host.finding("ima-log").verdict is WRONG
    host.take("/sys/kernel/security/ima")
    assert host.finding("ima-log").verdict is WRONG
    assert host.finding("ima-policy").verdict is WRONG
    assert host.finding("selinux-mode").verdict is UNKNOWN


def test_without_securityfs_what_it_would_show_is_unknown(host: HostTree) -> None:
    host.take("/sys/kernel/security")
    names = {"lsm-order", "lockdown", "selinux-mode", "ima-log", "ima-policy", "event-log"}
    assert host.not_ok() == dict.fromkeys(names, UNKNOWN)


def test_logs_of_a_real_boot(vectors: Path) -> None:
    """Of a Debian 12 with SELinux, IMA and an swtpm."""
    ima = summarise((vectors / "debian12-selinux.ima").read_bytes()).value
    assert ima is not None
    assert ima.entries > 100
    assert ima.algorithms == {"sha256"}
    assert all("enforcing=1" in state or "initialized=0" in state for state in ima.states)
    log = parse_event_log((vectors / "debian12-selinux.tcg").read_bytes())
    assert Bank.SHA256 in log.banks


def test_rules_that_are_missing_or_come_too_late(host: HostTree) -> None:
    text = (host.root / "etc/ima/ima-policy").read_text()
    host.put("/etc/ima/ima-policy", text.replace("measure func=MODULE_CHECK\n", ""))
    assert "measure func=MODULE_CHECK" in host.finding("ima-rules").found
    host.put("/etc/ima/ima-policy", "dont_measure fsmagic=0x9fa0\n" + text)
    assert "stands before" in host.finding("ima-rules").found
    host.take("/etc/ima/ima-policy")
    assert host.finding("ima-rules").verdict is WRONG


def test_the_policy_was_not_loaded_or_not_this_time(host: HostTree) -> None:
    host.put("/sys/kernel/security/ima/binary_runtime_measurements", encode_ima_log([ima_buf_entry("x", STATE)]))
    found = host.finding("ima-policy")
    assert (found.verdict, found.expected) == (WRONG, "loaded by systemd at boot")


def test_a_log_whose_hashes_are_not_those_of_its_entries(host: HostTree) -> None:
    log = host.root / "sys/kernel/security/ima/binary_runtime_measurements"
    log.write_bytes(log.read_bytes().replace(b"/etc/ima/ima-policy", b"/etc/ima/ima-polici"))
    assert host.finding("ima-log").verdict is WRONG
    assert host.finding("ima-policy").verdict is WRONG


def test_digests_of_files_by_sha1(host: HostTree) -> None:
    entry = ima_sig_entry("/usr/bin/x", b"\1" * 20, algorithm="sha1")
    host.put("/sys/kernel/security/ima/binary_runtime_measurements", encode_ima_log([entry]))
    assert "sha1" in host.finding("ima-log").found


def test_times_of_certificates_and_policy(host: HostTree) -> None:
    now = host.clock.now
    host.clock = replace(host.clock, now=now - timedelta(days=2))
    assert host.not_ok() == {"ca": WRONG, "certificate": WRONG}
    assert "not valid before" in host.finding("certificate").found
    host.clock = replace(host.clock, now=now + timedelta(days=365 * 40))
    assert "expired at" in host.finding("certificate").found
    host.clock = replace(host.clock, now=now)
    host.change("/etc/shamon/policy.toml", "version = 1\n", "version = 1\nexpires = 2025-06-01T00:00:00Z\n")
    assert host.not_ok() == {"policy": WRONG}


def test_a_certificate_that_is_about_to_expire(host: HostTree) -> None:
    (own,) = host.facts().coalition.certificate.value or ()
    host.clock = replace(host.clock, now=own.not_valid_after_utc - timedelta(days=3))
    assert host.finding("certificate").verdict is WARNING


def test_another_certificate_than_the_enrolled_one(host: HostTree, coalition: Path) -> None:
    issued = issue_host_certificate(coalition / "ca", HostName("alpha"), host.root)
    host.put("/etc/shamon/host.pem", issued.certificate.read_bytes())
    host.put("/etc/shamon/host.key", issued.key.read_bytes())
    assert host.not_ok() == {"certificate": WRONG}
    assert "another certificate is enrolled" in host.finding("certificate").found


def test_a_sealed_key_is_private_and_not_opened(host: HostTree) -> None:
    key = sealed_key(ec.generate_private_key(ec.SECP256R1()), lambda secret: secret[::-1])
    host.put("/etc/shamon/host.key", key)
    assert "sealed by the TPM" in host.finding("host-key").found


def test_sockets_of_the_daemon_are_its_own(host: HostTree) -> None:
    _used("tcp", 7443, "shamon")(host)
    host.put("/proc/net/udp", SOCKETS + socket_line(20000, 4712, state="07"))
    (host.root / "proc/1/fd").mkdir(parents=True)
    (host.root / "proc/1/fd/9").symlink_to("socket:[4712]")
    host.put("/sys/fs/cgroup/system.slice/shamon.service/cgroup.procs", "333\n")
    host.daemon = Look(__version__)
    assert host.not_ok() == {}
    assert host.finding("peer-port").found == "TCP 7443: the daemon's"


def test_a_connection_from_that_port_is_no_listener(host: HostTree) -> None:
    host.put("/proc/net/tcp", SOCKETS + socket_line(7443, 4711, state="01"))
    assert host.finding("peer-port").verdict is Verdict.OK


def test_a_daemon_of_another_version(host: HostTree) -> None:
    host.put("/run/shamon/shamon.sock", "")
    host.daemon = Look("0.0.0")
    assert host.not_ok() == {"daemon": WRONG}
    host.daemon = Look(__version__)
    assert host.not_ok() == {}


def test_a_reserved_block_may_lie_in_the_range(host: HostTree) -> None:
    host.put("/proc/sys/net/ipv4/ip_local_port_range", "1024\t60999")
    host.put("/proc/sys/net/ipv4/ip_local_reserved_ports", "8080,16384-32767")
    assert host.finding("local-ports").verdict is Verdict.OK
    host.put("/proc/sys/net/ipv4/ip_local_reserved_ports", "8080,16384-32766")
    assert host.finding("local-ports").verdict is WRONG


def test_rules_that_a_chain_jumps_to_count(host: HostTree) -> None:
    open_chain = {"chain": {**_INPUT["chain"], "policy": "accept"}}
    host.printed["list ruleset"] = nft(open_chain, rule({"jump": {"target": "more"}}))
    assert host.finding("packet-filter").verdict is Verdict.OK
    host.printed["list ruleset"] = nft(
        open_chain, rule({"jump": {"target": "more"}}), rule({"drop": None}, chain="more")
    )
    assert host.finding("packet-filter").verdict is WARNING


def test_chains_that_call_each_other_end(host: HostTree) -> None:
    host.printed["list ruleset"] = nft(
        _INPUT, *(rule({"jump": {"target": "in"}}, {"goto": {"target": "in"}}) for _ in range(40))
    )
    assert host.finding("packet-filter").verdict is not Verdict.OK


def test_our_own_tables_are_not_in_the_way(host: HostTree) -> None:
    own = {"chain": {**_INPUT["chain"], "table": "shamon"}}
    host.printed["list ruleset"] = nft(own)
    assert host.finding("packet-filter").verdict is Verdict.OK


def test_nft_is_not_asked_where_that_would_load_it(host: HostTree) -> None:
    host.change("/proc/modules", "nf_tables", "other")
    del host.printed["list ruleset"]
    assert host.finding("packet-filter").verdict is Verdict.OK


def test_a_host_with_xen(host: HostTree) -> None:
    host.put("/sys/hypervisor/type", "xen\n")
    host.take("/sys/kernel/security/tpm0/binary_bios_measurements")
    host.take("/sys/firmware/efi")
    host.printed["capabilities"] = (
        "<c><host><secmodel><model>flask</model></secmodel></host><guest><arch><domain type='xen'/></arch></guest></c>"
    )
    host.printed["getenforce"] = "Enforcing\n"
    assert host.not_ok() == {"xen": WRONG}  # host.toml says otherwise
    host.change(str(CONFIG), "[images.app]", '[hypervisor]\ntype = "xen"\n[images.app]')
    host.change("/etc/shamon/policy.toml", 'address = "192.0.2.1"', 'address = "192.0.2.1"\nhypervisor = "xen"')
    assert host.not_ok() == {}
    host.printed["getenforce"] = "Permissive\n"
    assert host.not_ok() == {"xen": WRONG}
    host.printed["getenforce"] = Look(unread="xl: cannot open libxc handle")
    assert host.not_ok() == {"xen": UNKNOWN}


def test_a_clock_that_nothing_keeps_or_that_is_nonsense(host: HostTree) -> None:
    host.clock = replace(host.clock, synchronised=Look(False))
    assert host.not_ok() == {"clock-synchronised": WARNING}
    host.clock = replace(host.clock, synchronised=Look(True), monotonic_s=500.0)
    assert host.not_ok() == {"clock-sane": WRONG}
    host.clock = replace(host.clock, monotonic_s=100.0, now=host.clock.now.replace(year=1970))
    assert host.not_ok()["clock-sane"] is WRONG


def test_what_a_file_says_cannot_move_a_terminal_nor_fill_it(host: HostTree) -> None:
    host.put("/sys/kernel/security/lsm", "\x1b[2J" + "x" * 5000)
    found = host.finding("lsm-order")
    assert found.found.isprintable()
    assert len(found.found) <= 600


def test_only_what_was_asked_for(host: HostTree) -> None:
    report = examine(host.facts(), ["tpm", "uefi"])
    assert [finding.name for finding in report.findings] == ["tpm", "uefi"]
    assert json.loads(json.dumps(report.to_document()))["counts"] == {"ok": 2, "warning": 0, "wrong": 0, "unknown": 0}


def test_nothing_looked_at_is_not_fit(host: HostTree) -> None:
    assert not examine(host.facts(), ["xen"]).fit


def test_each_check_has_its_section() -> None:
    text = (ROOT / "docs/doctor.md").read_text()
    headings = [line.removeprefix("### ") for line in text.splitlines() if line.startswith("### ")]
    assert headings == list(NAMES)


def test_what_is_looked_for_is_what_the_recipe_has() -> None:
    """The modules that the lab's host loads, but for a processor's own and one that newer kernels have built in."""
    recipe = (RECIPE / "root/etc/modules-load.d/shamon.conf").read_text().split()
    assert set(recipe) - set(MODULES) == {"kvm_amd", "nft_objref"}
    assert set(MODULES) <= set(recipe)
    text = (ROOT / "docs/operating.md").read_text()
    assert [unit for unit in UNITS if unit not in text] == []


def test_who_asks_programs_is_unknown_without_them(host: HostTree) -> None:
    whole = set(NAMES) - {"xen"}
    host.printed = dict.fromkeys(host.printed, no_program(["virsh"]))
    assert set(host.not_ok()) == ASK_PROGRAMS & whole
    assert set(host.not_ok().values()) == {UNKNOWN}
