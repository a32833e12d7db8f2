"""The configuration of one host, `/etc/shamon/host.toml`: where things are. What is allowed is in the policy."""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_interface
from pathlib import Path
from typing import Any

from shamon_host.daemon.files import read_limited
from shamon_host.daemon.result_history import Retention
from shamon_host.domain.errors import BadInput
from shamon_host.domain.labels import HostName, VmName, plain_name
from shamon_host.domain.policy import HypervisorKind
from shamon_host.hypervisor.vm_spec import VmSettings
from shamon_host.peer.reference_envelope import ReferenceSigners, checked_signers

MAX_CONFIG_BYTES = 1 << 20
_MAX_SIGNERS = 65
_BRIDGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,14}", re.ASCII)
_STRINGS = {
    "state_dir": "/var/lib/shamon",
    "runtime_dir": "/run/shamon",
    "policy": "/etc/shamon/policy.toml",
    "peers": "/etc/shamon/peers",
    "reference": "/etc/shamon/reference",
    "guest_reference": "/etc/shamon/reference/guests",
    "kept": "/var/lib/libvirt/images/shamon-kept",
}
_TLS = {"ca": "/etc/shamon/ca.pem", "certificate": "/etc/shamon/host.pem", "key": "/etc/shamon/host.key"}


@dataclass(frozen=True, slots=True, kw_only=True)
class MacVmConfig:
    """How the MAC VM is wired to the network. `bridge`: on this host, with the network's card as a port. `address`: of
    the host in the policy, with its prefix length; `gateway` may be empty."""

    bridge: str
    address: str
    gateway: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostConfig:
    """Paths are absolute. `images`: name → (clean image, its format)."""

    name: HostName
    state_dir: Path
    runtime_dir: Path
    policy: Path
    peers: Path
    """Directory of the peer registry: HOST.record for each host of the coalition, this one included."""
    reference: Path
    """Directory of Reference Values: NAME.json for each host."""
    guest_reference: Path
    """Directory of Reference Values of VMs: NAME.json for each demand of the policy."""
    kept: Path
    """Directory for what is kept of VMs in quarantine: memory and disks."""
    reference_signers: ReferenceSigners | None
    """Who must sign them; None where nobody has to."""
    tls_ca: Path
    tls_certificate: Path
    tls_key: Path
    tcti: str
    libvirt_uri: str
    virt_type: str
    """`auto`, `kvm` or `qemu`; of no account on Xen."""
    images: Mapping[str, tuple[Path, str]]
    resources: Mapping[str, Path]
    """Disk beside VMs' own → its file, a raw image."""
    vms: Mapping[VmName, VmSettings]
    hypervisor: HypervisorKind = HypervisorKind.QEMU
    mac_vm: MacVmConfig | None = None
    """None: the host itself holds its links."""
    results: Retention = field(default_factory=Retention)
    """How much is kept of the history of Attestation Results."""

    @property
    def socket(self) -> Path:
        return self.runtime_dir / "shamon.sock"

    @property
    def database(self) -> Path:
        return self.state_dir / "shamon.sqlite"


def load_config(path: Path) -> HostConfig:
    """Read and check the file. Raises BadInput that names file and key."""
    return parse_config_file(read_limited(path, MAX_CONFIG_BYTES, "host's configuration"), source=str(path))


def parse_config_file(data: bytes, *, source: str) -> HostConfig:
    """As `load_config`, from what such a file holds."""
    try:
        fields = tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput("the host's configuration is not TOML", where=source, found=str(error)) from error
    return parse_config(fields, source=source)


def parse_config(fields: Mapping[str, Any], *, source: str) -> HostConfig:
    """Check the fields of a configuration. Raises BadInput."""
    reader = _Reader(source)
    tables = {"tls", "tpm", "hypervisor", "images", "resources", "vms", "results", "reference_signing", "mac_vm"}
    reader.only(fields, "", {"name", *tables, *_STRINGS})
    paths = {key: reader.path(fields, "", key, default) for key, default in _STRINGS.items()}
    tls, tpm, hypervisor = (reader.table(fields, key) for key in ("tls", "tpm", "hypervisor"))
    reader.only(tls, "tls.", set(_TLS))
    reader.only(tpm, "tpm.", {"tcti"})
    reader.only(hypervisor, "hypervisor.", {"uri", "type"})
    tls_paths = {key: reader.path(tls, "tls.", key, default) for key, default in _TLS.items()}
    virt_type = reader.string(hypervisor, "hypervisor.", "type", "auto")
    if virt_type not in ("auto", "kvm", "qemu", "xen"):
        raise reader.error("hypervisor.type", "auto, kvm, qemu or xen", virt_type)
    kind = HypervisorKind.XEN if virt_type == "xen" else HypervisorKind.QEMU
    images = {}
    for name, table in reader.tables(fields, "images"):
        prefix = f"images.{name}."
        reader.only(table, prefix, {"path", "format"})
        image_format = reader.string(table, prefix, "format", "raw")
        if image_format not in ("raw", "qcow2"):
            raise reader.error(f"{prefix}format", "raw or qcow2", image_format)
        if kind is HypervisorKind.XEN and image_format != "raw":
            raise reader.error(f"{prefix}format", "raw, as VMs on Xen run on copies of it", image_format)
        images[name] = (reader.path(table, prefix, "path", None), image_format)
    resources = {}
    for name, table in reader.tables(fields, "resources"):
        reader.only(table, f"resources.{name}.", {"path"})
        resources[name] = reader.path(table, f"resources.{name}.", "path", None)
    vms = {VmName(name): _vm_settings(reader, name, table) for name, table in reader.tables(fields, "vms")}
    _require_own_files(reader, images, resources, vms)
    return HostConfig(
        name=HostName(reader.name(reader.string(fields, "", "name", None), "name")),
        **paths,
        reference_signers=_reference_signers(reader, fields),
        tls_ca=tls_paths["ca"],
        tls_certificate=tls_paths["certificate"],
        tls_key=tls_paths["key"],
        tcti=reader.string(tpm, "tpm.", "tcti", "device:/dev/tpmrm0"),
        libvirt_uri=reader.string(hypervisor, "hypervisor.", "uri", f"{kind}:///system"),
        virt_type=virt_type,
        hypervisor=kind,
        images=images,
        resources=resources,
        vms=vms,
        mac_vm=_mac_vm(reader, fields),
        results=_retention(reader, reader.table(fields, "results")),
    )


def _require_own_files(
    reader: "_Reader",
    images: Mapping[str, tuple[Path, str]],
    resources: Mapping[str, Path],
    vms: Mapping[VmName, VmSettings],
) -> None:
    """The file of a disk is nothing else: what it is labelled as, nobody else may need. Raises BadInput."""
    taken = {path: f"images.{name}.path" for name, (path, _) in images.items()}
    for name, settings in vms.items():
        taken |= {Path(settings.kernel): f"vms.{name}.kernel", Path(settings.initrd): f"vms.{name}.initrd"}
    for disk, path in resources.items():
        if path in taken:
            raise reader.error(f"resources.{disk}.path", f"another file than that of {taken[path]}", str(path))
        taken[path] = f"resources.{disk}.path"


def _retention(reader: "_Reader", table: Mapping[str, Any]) -> Retention:
    default = Retention()
    reader.only(table, "results.", {"days", "runs", "evidence_mib"})
    mebibytes = default.evidence_bytes >> 20
    return Retention(
        days=reader.integer(table, "results.", "days", default.days, range(1, 36_501)),
        runs=reader.integer(table, "results.", "runs", default.runs, range(2, 100_001)),
        evidence_bytes=reader.integer(table, "results.", "evidence_mib", mebibytes, range(49)) << 20,
    )


def _reference_signers(reader: "_Reader", fields: Mapping[str, Any]) -> ReferenceSigners | None:
    if "reference_signing" not in fields:
        return None
    table = reader.table(fields, "reference_signing")
    prefix = "reference_signing."
    reader.only(table, prefix, {"keys", "threshold"})
    keys = table.get("keys")
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise reader.error(f"{prefix}keys", "a list of public keys, as `shamon policy keygen` prints them", keys)
    threshold = reader.integer(table, prefix, "threshold", 1, range(1, _MAX_SIGNERS))
    try:
        return checked_signers(keys, threshold)
    except BadInput as error:
        raise reader.error("reference_signing", error.expected, error.found) from error


def _mac_vm(reader: "_Reader", fields: Mapping[str, Any]) -> MacVmConfig | None:
    if "mac_vm" not in fields:
        return None
    table, prefix = reader.table(fields, "mac_vm"), "mac_vm."
    reader.only(table, prefix, {"bridge", "address", "gateway"})
    bridge = reader.string(table, prefix, "bridge", None)
    if not _BRIDGE.fullmatch(bridge) or bridge.startswith("sh"):
        raise reader.error(
            f"{prefix}bridge", "the name of a bridge of the operator's, none that begins with sh", bridge
        )
    address = reader.string(table, prefix, "address", None)
    gateway = reader.string(table, prefix, "gateway", "")
    try:
        interface = ip_interface(address)
        if "/" not in address or (gateway and ip_address(gateway).version != interface.version):
            raise ValueError
    except ValueError:
        expected = "ADDRESS/LENGTH, with a gateway of the same family if there is one"
        raise reader.error(f"{prefix}address", expected, f"{address} {gateway}") from None
    return MacVmConfig(bridge=bridge, address=address, gateway=gateway)


def _vm_settings(reader: "_Reader", name: str, table: Mapping[str, Any]) -> VmSettings:
    prefix = f"vms.{name}."
    reader.only(table, prefix, {"memory_mib", "vcpus", "kernel", "initrd", "cmdline"})
    return VmSettings(
        memory_mib=reader.integer(table, prefix, "memory_mib", 128, range(16, 1 << 20)),
        vcpus=reader.integer(table, prefix, "vcpus", 1, range(1, 256)),
        kernel=reader.path_or_nothing(table, prefix, "kernel"),
        initrd=reader.path_or_nothing(table, prefix, "initrd"),
        cmdline=reader.string(table, prefix, "cmdline", ""),
    )


@dataclass(frozen=True, slots=True)
class _Reader:
    """Takes values out of tables, with errors that name file and key."""

    source: str

    def error(self, key: str, expected: str, found: object) -> BadInput:
        return BadInput(
            "bad value in the host's configuration",
            where=f"{self.source}: {key}",
            expected=expected,
            found=repr(found)[:120],
        )

    def only(self, table: Mapping[str, Any], prefix: str, allowed: set[str]) -> None:
        for key in table:
            if key not in allowed:
                raise BadInput(
                    "unknown key in the host's configuration",
                    where=f"{self.source}: {prefix}{key}",
                    expected=", ".join(sorted(allowed)),
                )

    def table(self, fields: Mapping[str, Any], key: str) -> Mapping[str, Any]:
        value = fields.get(key, {})
        if not isinstance(value, dict):
            raise self.error(key, "a table", value)
        return value

    def tables(self, fields: Mapping[str, Any], key: str) -> list[tuple[str, Mapping[str, Any]]]:
        outer = self.table(fields, key)
        return [(self.name(name, f"{key}.{name}"), self._inner(outer, key, name)) for name in outer]

    def _inner(self, outer: Mapping[str, Any], key: str, name: str) -> Mapping[str, Any]:
        value = outer[name]
        if not isinstance(value, dict):
            raise self.error(f"{key}.{name}", "a table", value)
        return value

    def name(self, text: str, key: str) -> str:
        try:
            return plain_name(text, key)
        except BadInput as error:
            raise self.error(key, error.expected, text) from error

    def string(self, table: Mapping[str, Any], prefix: str, key: str, default: str | None) -> str:
        value = table.get(key, default)
        if not isinstance(value, str) or not value.isprintable():
            raise self.error(prefix + key, "a string of printable characters", value)
        return value

    def path_or_nothing(self, table: Mapping[str, Any], prefix: str, key: str) -> str:
        return str(self.path(table, prefix, key, None)) if table.get(key, "") != "" else ""

    def path(self, table: Mapping[str, Any], prefix: str, key: str, default: str | None) -> Path:
        value = Path(self.string(table, prefix, key, default))
        if not value.is_absolute():
            raise self.error(prefix + key, "an absolute path", str(value))
        return value

    def integer(self, table: Mapping[str, Any], prefix: str, key: str, default: int, allowed: range) -> int:
        value = table.get(key, default)
        if type(value) is not int or value not in allowed:
            raise self.error(prefix + key, f"an integer from {allowed.start} to {allowed.stop - 1}", value)
        return value
