"""The lab itself: what every other integration test takes for granted."""

import json
import struct
from collections.abc import Iterator

import pytest

from tests.integration.lab import Lab, LabHost, VmConsole
from tests.integration.lab.frames import Kind
from tests.integration.lab.host import BootImage

_DOMAIN = """
<domain type='kvm'>
  <name>smoke</name><memory unit='MiB'>128</memory><vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>
    <loader readonly='yes' type='rom'>/usr/share/qemu/qboot.rom</loader>
    <kernel>/var/lib/libvirt/images/app/vmlinux</kernel>
    <initrd>/var/lib/libvirt/images/app/initrd</initrd>
    <cmdline>console=ttyS0 quiet app.name=smoke app.ip4=10.9.0.1/24 app.ip6=fd00:9::1/64</cmdline>
  </os>
  <features><acpi/><apic/></features>
  <cpu mode='host-passthrough'/>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2'/><source file='/var/lib/libvirt/images/smoke.qcow2'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <interface type='bridge'><source bridge='smoke0'/><model type='virtio'/><rom enabled='no'/></interface>
    <serial type='pty'/><console type='pty'/>
    <memballoon model='none'/><controller type='usb' model='none'/><video><model type='none'/></video>
  </devices>
  <seclabel type='static' model='selinux' relabel='yes'><label>system_u:system_r:svirt_t:s0:c100,c200</label></seclabel>
</domain>
"""


def _ima_entries(host: LabHost) -> Iterator[tuple[str, str, str]]:
    """(template, digest, name) of each entry of the IMA log."""
    for line in host.get("/sys/kernel/security/ima/ascii_runtime_measurements").decode().splitlines():
        _, _, template, digest, name, *_ = line.split(" ")
        yield template, digest.removeprefix("sha256:"), name


def test_hosts_enforce_selinux(hosts: list[LabHost]) -> None:
    """Both boot as themselves, in full, with nothing permissive but what the product says."""
    for host in hosts:
        assert host.run("hostname").stdout.strip() == host.name
        assert host.run("getenforce").stdout.strip() == "Enforcing"
        assert host.run("systemctl is-system-running", check=False).stdout.strip() == "running"
        assert "confidentiality" in host.run("cat /sys/kernel/security/lockdown").stdout.split("[")[1]


def test_every_measured_file_is_in_the_manifest(alpha: LabHost, lab: Lab) -> None:
    """A runtime policy made of the image covers a whole boot."""
    known = json.loads((lab.images / "manifest.json").read_text())["files"]
    strange = [
        (name, digest)
        for template, digest, name in _ima_entries(alpha)
        if template == "ima-sig" and name != "boot_aggregate" and digest not in known.get(name, [])
    ]
    assert strange == []


def test_ima_measures_policy_and_selinux(alpha: LabHost) -> None:
    """The log names the kernel, early user space, the policy and SELinux's state."""
    names = {name for _, _, name in _ima_entries(alpha)}
    wanted = {
        "boot_aggregate",
        "/usr/lib/systemd/systemd",
        "/etc/ima/ima-policy",
        "selinux-state",
        "selinux-policy-hash",
    }
    assert wanted <= names
    assert any(name.endswith("/libc.so.6") for name in names)


def test_tpm_quotes(alpha: LabHost) -> None:
    """The TPM makes an attestation key and signs the PCRs with it."""
    alpha.run(
        "cd $(mktemp -d) && export TPM2TOOLS_TCTI=device:/dev/tpmrm0"
        " && tpm2_createek -Q -c ek.ctx -G ecc -u ek.pub"
        " && tpm2_createak -Q -C ek.ctx -c ak.ctx -G ecc -g sha256 -s ecdsa -u ak.pub"
        " && tpm2_quote -Q -c ak.ctx -l sha256:0,1,4,10 -q abcdef -m quote -s sig"
        " && tpm2_checkquote -Q -u ak.pub -m quote -s sig -q abcdef"
    )


def test_boot_registers_equal_between_hosts(alpha: LabHost, beta: LabHost) -> None:
    """Hosts with one boot image differ in PCR 10 alone."""
    selection = "sha256:0,1,2,3,4,5,6,7,8,9,11,12,13,14"
    values = [host.run(f"tpm2_pcrread -T device:/dev/tpmrm0 {selection}").stdout for host in (alpha, beta)]
    assert values[0] == values[1]
    assert len(values[0].split("0x")) == 15


def test_wire_carries_and_records(alpha: LabHost, beta: LabHost, lab: Lab) -> None:
    """The hosts reach each other by IPv4 and IPv6, every frame is seen, a cable can be pulled, and a stranger's frame
    arrives.
    """
    mark = lab.wire.mark()
    alpha.run(f"ip neigh flush dev wire0; ping -c 2 -W 5 {beta.ipv4} && ping -c 2 -W 5 {beta.ipv6}")
    kinds = {frame.kind for frame in lab.wire.since(mark)}
    assert {Kind.ARP, Kind.ICMP, Kind.ICMP6} <= kinds
    lab.wire.cut("beta")
    try:
        assert alpha.run(f"ping -c 2 -i 0.3 -W 1 {beta.ipv4}", check=False).status != 0
    finally:
        lab.wire.restore("beta")
    alpha.run(f"ping -c 2 -W 5 {beta.ipv4}")
    before = int(alpha.run("cat /sys/class/net/wire0/statistics/rx_packets").stdout)
    broadcast = b"\xff" * 6 + bytes.fromhex("525400000199") + struct.pack("!H", 0x88B5) + bytes(46)
    lab.wire.inject(broadcast, to="alpha")
    assert int(alpha.run("sleep 0.5; cat /sys/class/net/wire0/statistics/rx_packets").stdout) > before


@pytest.fixture
def smoke_vm(alpha: LabHost) -> Iterator[VmConsole]:
    """An application VM under a static label on a bridge of its own, on alpha."""
    alpha.put("/root/smoke.xml", _DOMAIN)
    disk = "/var/lib/libvirt/images/smoke.qcow2"
    alpha.run(f"qemu-img create -q -f qcow2 -b /var/lib/libvirt/images/app/disk.raw -F raw {disk}")
    alpha.run("ip link add smoke0 type bridge && ip addr add 10.9.0.254/24 dev smoke0 && ip link set smoke0 up")
    try:
        alpha.run("virsh -q create /root/smoke.xml", timeout_s=120)
        yield VmConsole(alpha, "smoke")
    finally:
        alpha.run(f"virsh -q destroy smoke; ip link del smoke0; rm -f {disk} /root/smoke.xml", check=False)


def test_application_vm(alpha: LabHost, smoke_vm: VmConsole) -> None:
    """It runs under its label, answers on its console and its network, and keeps a mark on its disk."""
    smoke_vm.wait_ready()
    running = alpha.run("ps -e -o label=,comm= | grep qemu-system").stdout.split()[0]
    assert running == "system_u:system_r:svirt_t:s0:c100,c200"
    assert smoke_vm.reaches("10.9.0.254")
    assert smoke_vm.sees_by_arp("10.9.0.254")
    assert not smoke_vm.reaches("10.9.0.77")
    assert alpha.run("ping -c 2 -W 5 10.9.0.1", check=False).status == 0
    assert smoke_vm.fetches("10.9.0.1") == "hello from smoke\n"
    assert smoke_vm.marker() is None
    smoke_vm.write_marker("seen once")
    assert smoke_vm.marker() == "seen once"
    assert smoke_vm.run("exit 7").status == 7


def test_program_runs_in_its_domain_and_its_modules_are_measured(alpha: LabHost, lab: Lab) -> None:
    """Started by systemd the program enters its domain, and IMA logs the Python modules that it reads, all of them
    known.
    """
    alpha.run("systemd-run -q --wait -p Type=exec /opt/shamon/bin/shamon --version")
    read = {name: digest for _, digest, name in _ima_entries(alpha) if name.startswith("/opt/shamon/lib/")}
    assert any("/shamon_host/cli/" in name for name in read)
    known = json.loads((lab.images / "manifest.json").read_text())["files"]
    assert {name for name, digest in read.items() if digest not in known.get(name, [])} == set()


@pytest.mark.full
def test_boot_images_and_what_outlives_a_boot(beta: LabHost) -> None:
    """Another command line shows in PCRs 4, 9 and 11; booted as it should be, a host has the old values, its disk and
    its TPM.
    """

    def registers() -> dict[str, str]:
        lines = beta.run(
            "tpm2_pcrread -T device:/dev/tpmrm0 sha256:0,1,2,3,4,5,6,7,8,9,11,12,13,14"
        ).stdout.splitlines()
        return {number.strip(): value.strip() for number, _, value in (line.partition(":") for line in lines) if value}

    def resets() -> int:
        said = beta.run(
            "tpm2_getcap -T device:/dev/tpmrm0 properties-variable; tpm2_readclock -T device:/dev/tpmrm0"
        ).stdout
        return int(said.split("reset_count:")[1].split()[0])

    before, resets_before = registers(), resets()
    beta.put("/root/left", "here")
    beta.reboot(BootImage.OTHER)
    other = registers()
    assert {number for number in before if before[number] != other[number]} == {"4", "9", "11"}
    beta.reboot(clean=False)
    assert registers() == before
    assert resets() == resets_before + 2
    assert beta.get("/root/left") == b"here"
    beta.run("rm /root/left")


def test_no_unexpected_denials(hosts: list[LabHost]) -> None:
    """Nothing that the tests above did was denied."""
    for host in hosts:
        assert host.denials() == []


def test_only_the_daemon_gives_link_contexts_away(alpha: LabHost) -> None:
    """Root's own shell can neither add a labelled SA or SPD entry nor make a link socket; keys cannot be read back."""
    state = "ip xfrm state add src 192.0.2.1 dst 192.0.2.9 proto esp spi 0x77 mode transport aead 'rfc4106(gcm(aes))'"
    key = "0x0102030405060708090a0b0c0d0e0f1011121314 128"
    link, spd = "system_u:object_r:shamon_link_t:s0:c7", "system_u:object_r:shamon_spd_t:s0:c7"
    refused = [
        f"{state} {key} ctx {link}",
        f"ip xfrm policy add dst 192.0.2.9/32 proto udp dport 9 dir out ctx {spd} action block",
        f'python3 -c \'import socket; open("/proc/thread-self/attr/sockcreate", "r+").write("{link}");'
        " socket.socket(socket.AF_INET, socket.SOCK_DGRAM)'",
    ]
    for command in refused:
        result = alpha.run(command, check=False)
        assert result.status != 0
        assert "Permission denied" in result.stderr
    alpha.run(f"{state} {key}")
    try:
        assert "0x0102030405" not in alpha.run("ip xfrm state").stdout
    finally:
        alpha.run("ip xfrm state flush")
