"""Founding a coalition on lab hosts as an operator would: with the `shamon` command, files carried by hand.

The CA and the policy are made on this machine; each host's AK comes from the host; Reference Values are recorded on a
known-good boot of the first host of each platform and hold for all of it, as they boot the same image.
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shamon_host.domain.policy import HypervisorKind
from shamon_host.testing.story_policy import HOST_ADDRESSES, VM_ADDRESSES, MacVmPins, mac_vm_of, story_policy
from shamon_host.testing.world import Timing
from tests.integration.lab.errors import LabError
from tests.integration.lab.host import BootImage, LabHost
from tests.integration.lab.lab import Lab
from tests.integration.lab.operator import Operator, ek_of, join
from vm_images.manifest import sha256

SHAMON = "/opt/shamon/bin/shamon"
_APP = "/var/lib/libvirt/images/app"
DISKS = "/var/lib/libvirt/images/disks"
"""Where the files of the disks `cache` and `book` are to lie, for tests whose policy knows them."""
_HOST_CONFIG = """\
name = "{name}"

[tpm]
tcti = "device:/dev/tpmrm0"

[hypervisor]
type = "{hypervisor}"

[images.app]
path = "{app}/disk.raw"
format = "raw"

[resources.cache]
path = "{disks}/cache.raw"

[resources.book]
path = "{disks}/book.raw"
"""
_VM_CONFIG = """
[vms.{vm}]
memory_mib = 128
kernel = "{app}/vmlinux"
initrd = "{app}/initrd"
cmdline = "console={console} quiet app.name={vm} app.ip4={ip4}/24 app.ip6={ip6}/64"
"""
_MAC = "/var/lib/libvirt/images/mac"
_MAC_VM_CONFIG = """
[mac_vm]
bridge = "wirebr"
address = "{address}/24"

[images.mac-vm]
path = "{mac}/root.img"
format = "raw"

[vms.{vm}]
memory_mib = 160
kernel = "{mac}/vmlinuz"
initrd = "{mac}/initrd"
cmdline = {cmdline}
"""
_HYPERVISORS = {HypervisorKind.QEMU: ("auto", "ttyS0"), HypervisorKind.XEN: ("xen", "hvc0")}
"""HypervisorKind → its word in the host's configuration, and the console of a guest."""


class Coalition:
    """The coalition of one lab. `found` boots its hosts and configures them; the daemons are not started."""

    def __init__(
        self,
        lab: Lab,
        *,
        timing: Timing,
        hosts: tuple[str, ...] = tuple(HOST_ADDRESSES),
        changes: Sequence[tuple[str, str]] = (),
        config_changes: Sequence[tuple[str, str]] = (),
        policies: Mapping[str, bytes] | None = None,
        programs: Mapping[str, bytes] | None = None,
        mac_vms: bool = False,
    ) -> None:
        """`changes`: texts of the story's policy, and what they become; `config_changes`: of hosts' configurations.
        `policies`: what hosts are set up with that
        have another policy than that, TOML or an envelope. `programs`: path → content of what tests will run in the
        daemon's domain, good by the Reference Values."""
        self._lab = lab
        self._names = hosts
        self._directory = lab.directory / "coalition"
        self._images: dict[str, BootImage] = {}
        self._config_changes = tuple(config_changes)
        self._policies, self._programs = dict(policies or {}), dict(programs or {})
        self.image_sha256 = sha256(lab.images / "app" / "disk.raw")
        self.policy = story_policy(
            image_sha256=self.image_sha256,
            timing=timing,
            hypervisors={name: lab.host(name).platform for name in hosts},
            mac_vm=mac_vm_pins(lab.images / "mac") if mac_vms else None,
        )
        self._mac_vm_cmdline = mac_vm_pins(lab.images / "mac").cmdline if mac_vms else ""
        for old, new in changes:
            if old not in self.policy:
                raise LabError(f"the story's policy does not say {old!r}")
            self.policy = self.policy.replace(old, new)

    def running_image(self, host: str) -> BootImage | None:
        """What `found` booted the host with."""
        return self._images.get(host)

    def found(self, images: Mapping[str, BootImage] | None = None) -> Mapping[str, Any]:
        """Boot the hosts (`images`: those that boot another image than the right one), enrol them, record."""
        self._directory.mkdir()
        policy = self._directory / "policy.toml"
        policy.write_text(self.policy)
        hosts = self._boot(images or {})
        self._enrol(hosts, policy)
        for host in hosts:
            self._configure(host)
        references = self._record_each_platform()
        for host in hosts:
            for name in self._names:
                host.put(f"/etc/shamon/reference/{name}.json", references[self._lab.host(name).platform])
        return {
            "hosts": list(self._names),
            "platforms": [host.platform.value for host in hosts],
            "reference_bytes": sum(map(len, references.values())),
            "accelerator": self._lab.accelerator,
        }

    def _enrol(self, hosts: Sequence[LabHost], policy: Path) -> None:
        """By hand: keys and records are made here, and carried to every host."""
        self._shamon("coalition", "init", "lab", "--ca", str(self._directory / "ca"))
        for host in hosts:
            ak = self._directory / f"{host.name}.ak"
            host.run(f"{SHAMON} coalition ak --out /run/ak.public", timeout_s=120)
            ak.write_bytes(host.get("/run/ak.public"))
            self._shamon(
                "coalition",
                "enrol",
                host.name,
                "--ca",
                str(self._directory / "ca"),
                "--policy",
                str(policy),
                "--ak",
                str(ak),
                "--tpm",
                "software",
                "--registry",
                str(self._directory / "peers"),
                "--out",
                str(self._directory / "tls"),
            )
        for host in hosts:
            host.put("/etc/shamon/ca.pem", self._directory / "ca" / "ca.pem")
            host.put("/etc/shamon/host.pem", self._directory / "tls" / f"{host.name}.pem")
            host.put("/etc/shamon/host.key", self._directory / "tls" / f"{host.name}.key", mode="0600")
            for entry in sorted((self._directory / "peers").glob("*.record")):
                host.put(f"/etc/shamon/peers/{entry.name}", entry)

    def _boot(self, images: Mapping[str, BootImage]) -> list[LabHost]:
        hosts = [self._lab.host(name) for name in self._names]
        for host in hosts:
            image = images.get(host.name, BootImage.RIGHT)
            host.start(image)
            self._images[host.name] = image
        for host in hosts:
            host.wait_ready()
            if self._mac_vm_cmdline:
                host.mac_vm = True
                host.run("touch /etc/lab-mac-vm; ip address flush dev wire0; systemctl restart lab-identity.service")
        return hosts

    def _configure(self, host: LabHost) -> None:
        host.put("/etc/shamon/host.toml", self._host_config(host.name, host))
        host.put("/etc/shamon/policy.toml", self._policies.get(host.name, self.policy.encode()))

    def _record_each_platform(self) -> Mapping[HypervisorKind, bytes]:
        """Of one host of each, the first that runs the right image; the first of the coalition stands for its own."""
        found: dict[HypervisorKind, bytes] = {}
        for name in self._names:
            host = self._lab.host(name)
            if host.platform not in found and self._images[name] is BootImage.RIGHT:
                found[host.platform] = self._record(host)
        return found

    def _record(self, host: LabHost) -> bytes:
        """Reference Values of a known-good boot of this host, with the image's manifest."""
        host.put("/run/manifest.json", host.images / "manifest.json")
        host.put("/run/host.efi", host.images / BootImage.RIGHT.value)
        # Each host's configuration is measured when its daemon reads it, and differs by the host's name.
        for name in self._names:
            host.put(f"/run/{name}.toml", self._host_config(name, host))
        files = " ".join(f"--file /etc/shamon/host.toml=/run/{name}.toml" for name in self._names)
        for number, (path, content) in enumerate(self._programs.items()):
            host.put(f"/run/program-{number}", content)
            files += f" --file {path}=/run/program-{number}"
        host.run(
            f"{SHAMON} reference record {files} --host {host.name} --manifest /run/manifest.json --uki /run/host.efi "
            "--out /run/reference.json",
            timeout_s=300,
        )
        return host.get("/run/reference.json")

    def _host_config(self, name: str, like: LabHost) -> str:
        """Of the host with this name, on the platform of another."""
        config = host_config(name, like.platform)
        for old, new in self._config_changes:
            if old not in config:
                raise LabError(f"the configuration does not say {old!r}")
            config = config.replace(old, new)
        if not self._mac_vm_cmdline:
            return config
        address = HOST_ADDRESSES[name]
        return config + _MAC_VM_CONFIG.format(
            vm=mac_vm_of(name), address=address, mac=_MAC, cmdline=json.dumps(self._mac_vm_cmdline)
        )

    def _shamon(self, *arguments: str) -> None:
        """Run `shamon` on this machine."""
        done = subprocess.run(
            [sys.executable, "-m", "shamon_host.cli.main", *arguments],
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )
        if done.returncode != 0:
            raise LabError(
                f"shamon {' '.join(arguments[:3])} exited with {done.returncode}\n{done.stdout}{done.stderr}"
            )


class JoinedCoalition(Coalition):
    """One whose hosts joined by their TPMs, one after the other, with the first of them as the operator's machine."""

    def _enrol(self, hosts: Sequence[LabHost], policy: Path) -> None:
        operator = Operator(hosts[0], policy.read_text())
        for host in hosts:
            join(host, operator.invite(host.name, ek_of(host)), "/etc/shamon")
            code, said = operator.outcome()
            if code != 0:
                raise LabError(f"{host.name} was not enrolled: {said}")
            host.run("restorecon -RF /etc/shamon")


def mac_vm_pins(image: Path) -> MacVmPins:
    """Of the image in this directory, as `vm_images.mac_vm` describes it."""
    told = json.loads((image / "mac-vm.json").read_text())
    return MacVmPins(
        image_sha256=told["root"],
        kernel_sha256=told["vmlinuz"],
        initrd_sha256=told["initrd"],
        cmdline=told["cmdline"],
    )


def host_config(name: str, platform: HypervisorKind) -> str:
    """`/etc/shamon/host.toml` of a lab host."""
    hypervisor, console = _HYPERVISORS[platform]
    vms = "".join(
        _VM_CONFIG.format(vm=vm, app=_APP, console=console, ip4=ip4, ip6=ip6)
        for vm, (ip4, ip6) in sorted(VM_ADDRESSES.items())
    )
    return _HOST_CONFIG.format(name=name, hypervisor=hypervisor, app=_APP, disks=DISKS) + vms
