"""The host's configuration: defaults, and errors that name file, key and what was expected."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shamon_host.daemon.config import MAX_CONFIG_BYTES, MacVmConfig, load_config
from shamon_host.daemon.result_history import Retention
from shamon_host.domain.errors import BadInput
from shamon_host.domain.labels import VmName
from shamon_host.domain.policy import HypervisorKind
from shamon_host.hypervisor.vm_spec import VmSettings
from shamon_host.peer.signed_record import public_text

FULL = """
name = "alpha"
state_dir = "/srv/shamon"
[tls]
key = "/etc/keys/alpha.key"
[tpm]
tcti = "swtpm:host=127.0.0.1,port=2321"
[hypervisor]
uri = "qemu:///session"
type = "qemu"
[images.app]
path = "/images/app.qcow2"
format = "qcow2"
[resources.cache]
path = "/images/cache.raw"
[resources.book]
path = "/images/book.raw"
[results]
days = 7
runs = 50
evidence_mib = 0
[vms.web]
memory_mib = 256
vcpus = 2
kernel = "/boot/vmlinuz"
initrd = "/boot/initrd"
cmdline = "console=ttyS0 quiet"
"""


def load(text: str | bytes, tmp_path: Path) -> BadInput | None:
    path = tmp_path / "host.toml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    try:
        load_config(path)
    except BadInput as error:
        return error
    return None


def test_a_name_is_enough(tmp_path: Path) -> None:
    path = tmp_path / "host.toml"
    path.write_text('name = "alpha"')
    config = load_config(path)
    assert config.name == "alpha"
    assert config.socket == Path("/run/shamon/shamon.sock")
    assert config.database == Path("/var/lib/shamon/shamon.sqlite")
    assert (config.tcti, config.libvirt_uri, config.virt_type) == ("device:/dev/tpmrm0", "qemu:///system", "auto")
    assert config.hypervisor is HypervisorKind.QEMU
    assert not config.images
    assert not config.vms
    assert config.results == Retention(days=90, runs=200, evidence_bytes=8 << 20)


def test_a_host_with_xen(tmp_path: Path) -> None:
    path = tmp_path / "host.toml"
    path.write_text('name = "alpha"\nhypervisor.type = "xen"\nimages.app.path = "/images/app.raw"')
    config = load_config(path)
    assert (config.hypervisor, config.libvirt_uri) == (HypervisorKind.XEN, "xen:///system")


def test_everything(tmp_path: Path) -> None:
    path = tmp_path / "host.toml"
    path.write_text(FULL)
    config = load_config(path)
    assert config.database == Path("/srv/shamon/shamon.sqlite")
    assert config.tls_key == Path("/etc/keys/alpha.key")
    assert config.tls_ca == Path("/etc/shamon/ca.pem")
    assert config.images == {"app": (Path("/images/app.qcow2"), "qcow2")}
    assert config.resources == {"cache": Path("/images/cache.raw"), "book": Path("/images/book.raw")}
    assert config.kept == Path("/var/lib/libvirt/images/shamon-kept")
    assert config.results == Retention(days=7, runs=50, evidence_bytes=0)
    assert config.vms == {
        VmName("web"): VmSettings(
            memory_mib=256, vcpus=2, kernel="/boot/vmlinuz", initrd="/boot/initrd", cmdline="console=ttyS0 quiet"
        )
    }


def test_a_mac_vm(tmp_path: Path) -> None:
    path = tmp_path / "host.toml"
    path.write_text('name = "alpha"\nmac_vm = {bridge = "br0", address = "192.0.2.1/24", gateway = "192.0.2.254"}')
    assert load_config(path).mac_vm == MacVmConfig(bridge="br0", address="192.0.2.1/24", gateway="192.0.2.254")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ('{address = "192.0.2.1/24"}', "mac_vm.bridge"),
        ('{bridge = "shbr1", address = "192.0.2.1/24"}', "mac_vm.bridge"),
        ('{bridge = "a bridge", address = "192.0.2.1/24"}', "mac_vm.bridge"),
        ('{bridge = "br0", address = "192.0.2.1"}', "mac_vm.address"),
        ('{bridge = "br0", address = "192.0.2.1/33"}', "mac_vm.address"),
        ('{bridge = "br0", address = "192.0.2.1/24", gateway = "2001:db8::1"}', "mac_vm.address"),
        ('{bridge = "br0", address = "192.0.2.1/24", more = 1}', "mac_vm.more"),
        ("1", "mac_vm"),
    ],
)
def test_a_mac_vm_that_cannot_be_wired(tmp_path: Path, value: str, words: str) -> None:
    path = tmp_path / "host.toml"
    path.write_text(f'name = "alpha"\nmac_vm = {value}')
    with pytest.raises(BadInput) as raised:
        load_config(path)
    assert words in str(raised.value)


@pytest.mark.parametrize(
    ("old", "new", "key", "expected"),
    [
        ('name = "alpha"', "", "name", "a string"),
        ('name = "alpha"', "name = 7", "name", "a string"),
        ('name = "alpha"', 'name = "Alpha Beta"', "name", "lower case letters"),
        ('name = "alpha"', 'name = "../etc"', "name", "lower case letters"),
        ('name = "alpha"', 'name = "alpha"\nnmae = 1', "nmae", "state_dir"),
        ('"/srv/shamon"', '"srv"', "state_dir", "an absolute path"),
        ('"/srv/shamon"', '"/srv/\\u0000"', "state_dir", "printable"),
        ('"/srv/shamon"', '["/srv"]', "state_dir", "a string"),
        ("[tls]", "[tls]\ncertificat = 1", "tls.certificat", "certificate"),
        ("[tls]\nkey", "tls.ca = false\ntls.key", "tls.ca", "a string"),
        ("[tpm]", "[tpm]\nx = 1", "tpm.x", "tcti"),
        ('"swtpm:host=127.0.0.1,port=2321"', "1", "tpm.tcti", "a string"),
        ('"qemu:///session"', "[]", "hypervisor.uri", "a string"),
        ('type = "qemu"', 'type = "hvm"', "hypervisor.type", "auto, kvm, qemu or xen"),
        ('type = "qemu"', 'type = "xen"', "images.app.format", "raw, as VMs on Xen run on copies"),
        ('[hypervisor]\nuri = "qemu:///session"\ntype = "qemu"', "[[hypervisor]]", "hypervisor", "a table"),
        ("[images.app]", '[images."A B"]', "images.A B", "lower case letters"),
        ('path = "/images/app.qcow2"', "", "images.app.path", "a string"),
        ('format = "qcow2"', 'format = "vmdk"', "images.app.format", "raw or qcow2"),
        ('format = "qcow2"', 'size = "1"', "images.app.size", "path"),
        ("[vms.web]", "[vms]\ndb = 1\n[vms.web]", "vms.db", "a table"),
        ("memory_mib = 256", "memory_mib = 4", "vms.web.memory_mib", "an integer from 16 to"),
        ("memory_mib = 256", "memory_mib = true", "vms.web.memory_mib", "an integer"),
        ("days = 7", "days = 0", "results.days", "an integer from 1 to"),
        ("runs = 50", "runs = 1", "results.runs", "an integer from 2 to"),
        ("evidence_mib = 0", "evidence_mib = 49", "results.evidence_mib", "an integer from 0 to 48"),
        ("runs = 50", "rows = 50", "results.rows", "evidence_mib"),
        ("vcpus = 2", "vcpus = 2.0", "vms.web.vcpus", "an integer from 1 to 255"),
        ("vcpus = 2", "label = 'red'", "vms.web.label", "cmdline"),
        ('"/boot/vmlinuz"', '"vmlinuz"', "vms.web.kernel", "an absolute path"),
        ('"/boot/initrd"', "0", "vms.web.initrd", "a string"),
        ('"console=ttyS0 quiet"', '"console=ttyS0\\u001b[2J"', "vms.web.cmdline", "printable"),
        ('path = "/images/cache.raw"', 'path = "cache.raw"', "resources.cache.path", "an absolute path"),
        ('path = "/images/cache.raw"', 'size = "1G"', "resources.cache.size", "path"),
        ("/images/cache.raw", "/images/book.raw", "resources.book.path", "another file than that of resources.cache"),
        ("/images/cache.raw", "/images/app.qcow2", "resources.cache.path", "another file than that of images.app.path"),
        ("/images/cache.raw", "/boot/initrd", "resources.cache.path", "another file than that of vms.web.initrd"),
    ],
)
def test_bad_values(old: str, new: str, key: str, expected: str, tmp_path: Path) -> None:
    assert old in FULL
    error = load(FULL.replace(old, new, 1), tmp_path)
    assert error is not None
    assert error.where == f"{tmp_path}/host.toml: {key}"
    assert expected in error.expected
    assert error.exit_code == 2


@pytest.mark.parametrize(
    "text", ["name = ", b"\xff\xfe", "a" * (MAX_CONFIG_BYTES + 1), 'name = "alpha"\nname = "beta"', "x = " + "[" * 5000]
)
def test_what_is_no_configuration_at_all(text: str | bytes, tmp_path: Path) -> None:
    error = load(text, tmp_path)
    assert error is not None
    assert "host.toml" in error.where


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot read"):
        load_config(tmp_path / "none.toml")
    with pytest.raises(BadInput, match="cannot read"):
        load_config(tmp_path)


PUBLIC = public_text(Ed25519PrivateKey.generate())


def test_who_signs_reference_values(tmp_path: Path) -> None:
    path = tmp_path / "host.toml"
    path.write_text(f'name = "alpha"\n[reference_signing]\nkeys = ["{PUBLIC}"]')
    signers = load_config(path).reference_signers
    assert signers is not None
    assert signers.keys == {PUBLIC}
    assert signers.threshold == 1
    path.write_text('name = "alpha"')
    assert load_config(path).reference_signers is None


@pytest.mark.parametrize(
    "table",
    [
        "",
        "keys = []",
        'keys = ["x"]',
        "keys = [1]",
        f'keys = "{PUBLIC}"',
        f'keys = ["{PUBLIC}"]\nthreshold = 2',
        f'keys = ["{PUBLIC}"]\nthreshold = 0',
        f'keys = ["{PUBLIC}"]\nother = 1',
        f'keys = ["{PUBLIC}", "{PUBLIC}"]',
    ],
    ids=[
        "nothing",
        "none",
        "no-key",
        "a-number",
        "no-list",
        "too-many-of-them",
        "none-of-them",
        "unknown-key",
        "twice",
    ],
)
def test_signers_that_cannot_be(table: str, tmp_path: Path) -> None:
    error = load(f'name = "alpha"\n[reference_signing]\n{table}', tmp_path)
    assert error is not None
    assert "reference_signing" in error.where
