"""`shamon reference from-image`, `from-packages`, `from-host`, `from-key`, `merge`, `sign`, `verify` and `diff`."""

import base64
import hashlib
import io
import json
import sys
import tarfile
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from shamon_host.attestation.evidence import Evidence
from shamon_host.attestation.evidence_file import encode_file
from shamon_host.attestation.ports import Quote
from shamon_host.attestation.reference_model import ReferencePart, ReferenceValues
from shamon_host.attestation.reference_values import dump_part, dump_reference_values, load_any, load_reference_values
from shamon_host.cli.dpkg_files import package_files
from shamon_host.cli.image_files import image_files
from shamon_host.cli.main import main
from shamon_host.cli.rooted import real_path
from shamon_host.domain.errors import BadInput, NotTrusted
from shamon_host.testing.machine import MeasuredMachine
from shamon_host.testing.memory_world import MEMORY_TIMING
from shamon_host.testing.story_policy import story_policy
from tests.examples import examples
from tests.unit.attestation.appraised_world import Attested
from tests.unit.attestation.measured_world import good_boot, good_reference, hexdigest
from tests.unit.attestation.result_records import kept

Shamon = Callable[..., int]
Printed = pytest.CaptureFixture[str]


@pytest.fixture
def machine() -> MeasuredMachine:
    machine = MeasuredMachine()
    machine.boot()
    return machine


@pytest.fixture
def shamon(machine: MeasuredMachine, monkeypatch: pytest.MonkeyPatch) -> Shamon:
    """Runs `shamon` on that machine."""
    backends = ModuleType("shamon_host.daemon.composition")
    vars(backends).update(open_tpm=lambda tcti: machine.tpm, open_logs=lambda: machine.logs)
    monkeypatch.setitem(sys.modules, backends.__name__, backends)
    return lambda *arguments: main([str(argument) for argument in arguments])


@pytest.fixture
def values(tmp_path: Path) -> Path:
    path = tmp_path / "alpha.json"
    dump_reference_values(good_reference(), path)
    return path


def put(root: Path, path: str, content: bytes = b"") -> None:
    file = root / path.lstrip("/")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


class TestImages:
    def test_a_directory(self, tmp_path: Path, shamon: Shamon, capsys: Printed) -> None:
        root, out = tmp_path / "root", tmp_path / "image.json"
        put(root, "/usr/bin/ls", b"ls")
        put(root, "/boot/vmlinuz", b"kernel")
        (root / "bin").symlink_to("usr/bin")
        (root / "usr/bin/dir").symlink_to("ls")
        with (root / "usr/lastlog").open("wb") as file:
            file.truncate(1 << 40)  # nothing but a hole
        assert shamon("reference", "from-image", root, "--out", out) == 0
        assert load_any(out) == ReferencePart(files={"/usr/bin/ls": frozenset({hexdigest(b"ls")})})
        assert "a part, 1 files" in capsys.readouterr().out

    @pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
    def test_an_archive(self, tmp_path: Path, mode: Any) -> None:
        path = tmp_path / "root.tar"
        with tarfile.open(path, mode) as archive:
            for name, content in (
                ("./usr/bin/ls", b"old"),
                ("usr/bin/ls", b"ls"),
                ("/usr/bin/cat", b"cat"),
                ("boot/x", b"kernel"),
            ):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
            for name, kind, target in (
                ("usr/bin/hard", tarfile.LNKTYPE, "usr/bin/ls"),
                ("usr/bin/soft", tarfile.SYMTYPE, "ls"),
            ):
                member = tarfile.TarInfo(name)
                member.type, member.linkname = kind, target
                archive.addfile(member)
        assert image_files(path).files == {
            "/usr/bin/cat": {hexdigest(b"cat")},
            "/usr/bin/hard": {hexdigest(b"ls")},
            "/usr/bin/ls": {hexdigest(b"ls")},
        }

    @pytest.mark.parametrize(
        ("head", "kind"),
        [
            (b"QFI\xfb" + bytes(100), "qcow2"),
            (bytes(0x438) + b"\x53\xef" + bytes(100), "ext"),
            (bytes(0x1FE) + b"\x55\xaa" + bytes(5000), "raw disk image"),
        ],
    )
    def test_a_disk_image_is_not_mounted(self, tmp_path: Path, head: bytes, kind: str) -> None:
        path = tmp_path / "disk"
        path.write_bytes(head)
        with pytest.raises(BadInput) as caught:
            image_files(path)
        assert kind in caught.value.found
        assert "virt-tar-out" in caught.value.remedy

    @pytest.mark.parametrize("data", [b"", b"x", b"x" * 2000, bytes(1024)])
    def test_what_is_no_image(self, tmp_path: Path, data: bytes) -> None:
        path = tmp_path / "disk"
        path.write_bytes(data)
        for image in (path, tmp_path / "nowhere"):
            with pytest.raises(BadInput):
                image_files(image)

    @settings(max_examples=examples(300), deadline=None)
    @given(data=st.data())
    def test_an_archive_that_was_damaged(self, data: st.DataObject) -> None:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=data.draw(st.sampled_from((0, 1, 2)))) as archive:
            for name in ("usr/bin/ls", "usr/" + "y" * 60 + "/" + "x" * 90):
                member = tarfile.TarInfo(name)
                member.size = 3
                archive.addfile(member, io.BytesIO(b"abc"))
        damaged = bytearray(buffer.getvalue())
        for at, value in data.draw(st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=6)):
            damaged[at % len(damaged)] = value
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory, "root.tar")
            path.write_bytes(bytes(damaged[: data.draw(st.integers(0, len(damaged)))]))
            with suppress(BadInput):
                assert image_files(path).files

    def test_a_sparse_file_of_any_size_is_not_read(self, tmp_path: Path) -> None:
        header = bytearray(tarfile.TarInfo("usr/bin/big").tobuf(tarfile.GNU_FORMAT))
        header[156:157] = tarfile.GNUTYPE_SPARSE
        header[483:495] = b"77777777777\0"
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        path = tmp_path / "root.tar"
        path.write_bytes(bytes(header) + bytes(1024))
        with pytest.raises(BadInput) as caught:
            image_files(path)
        assert "sparse" in caught.value.found

    def test_a_member_that_leaves_the_root(self, tmp_path: Path) -> None:
        path = tmp_path / "root.tar"
        with tarfile.open(path, "w") as archive:
            archive.addfile(tarfile.TarInfo("usr/../../etc/passwd"))
        with pytest.raises(BadInput, match="archive"):
            image_files(path)


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def debian(root: Path) -> Path:
    """A host with two packages, one of them of two architectures."""
    status = f"""Package: app
Status: install ok installed
Version: 1.0-1
Architecture: amd64
Conffiles:
 /etc/app.conf {md5(b"as shipped")}
 /etc/other.conf {md5(b"as shipped")}

Package: libx
Status: install ok installed
Version: 2:2.0
Architecture: amd64
Multi-Arch: same

Package: libx
Status: install ok installed
Version: 2:2.0
Architecture: i386
Multi-Arch: same

Package: gone
Status: deinstall ok config-files
Version: 1
Architecture: all
"""
    put(root, "/var/lib/dpkg/status", status.encode())
    info = "/var/lib/dpkg/info/"
    listed = (
        "/. /bin /bin/app /usr/share/doc/app/copyright /etc/app.conf /etc/other.conf /usr/bin/missing /usr/bin/bare"
    )
    put(root, f"{info}app.list", listed.replace(" ", "\n").encode())
    put(root, f"{info}app.md5sums", f"{md5(b'app')}  bin/app\n{md5(b'c')}  usr/share/doc/app/copyright\n".encode())
    for architecture in ("amd64", "i386"):
        library = f"/usr/lib/{architecture}/libx.so"
        put(root, f"{info}libx:{architecture}.list", library.encode() + b"\n")
        put(root, f"{info}libx:{architecture}.md5sums", f"{md5(b'x')}  {library[1:]}\n".encode())
        put(root, library, b"x")
    put(root, "/usr/bin/app", b"app")
    put(root, "/usr/bin/bare", b"bare")
    put(root, "/usr/share/doc/app/copyright", b"c")
    put(root, "/etc/app.conf", b"as shipped")
    put(root, "/etc/other.conf", b"changed")
    (root / "bin").symlink_to("usr/bin")
    return root


class TestPackages:
    def test_by_package_under_the_paths_of_the_kernel(self, tmp_path: Path) -> None:
        found = package_files(debian(tmp_path))
        assert found.packages == {
            "app 1.0-1": {"/usr/bin/app": {hexdigest(b"app")}, "/etc/app.conf": {hexdigest(b"as shipped")}},
            "libx:amd64 2:2.0": {"/usr/lib/amd64/libx.so": {hexdigest(b"x")}},
            "libx:i386 2:2.0": {"/usr/lib/i386/libx.so": {hexdigest(b"x")}},
        }
        assert (found.changed, found.configured) == ([], ["/etc/other.conf"])
        assert (found.unchecked, found.missing) == (["/usr/bin/bare"], 1)

    def test_a_file_that_was_changed_is_refused_or_left_out(
        self, tmp_path: Path, shamon: Shamon, capsys: Printed
    ) -> None:
        root, out = debian(tmp_path / "root"), tmp_path / "packages.json"
        put(root, "/usr/lib/i386/libx.so", b"backdoor")
        arguments = ("reference", "from-packages", "--root", root, "--out", out)
        assert shamon(*arguments) == NotTrusted.exit_code
        assert "/usr/lib/i386/libx.so" in capsys.readouterr().err
        assert not out.exists()
        assert shamon(*arguments, "--leave-out-changed", "--json") == 0
        told = json.loads(capsys.readouterr().out)
        assert told["left_out"]["changed"] == ["/usr/lib/i386/libx.so"]
        assert set(load_any(out).packages) == {"app 1.0-1", "libx:amd64 2:2.0"}

    def test_a_diverted_file(self, tmp_path: Path) -> None:
        root = debian(tmp_path)
        put(root, "/var/lib/dpkg/diversions", b"/bin/app\n/bin/app.real\nother\n")
        put(root, "/usr/bin/app.real", b"app")
        put(root, "/usr/bin/app", b"of another package")
        assert "/usr/bin/app.real" in package_files(root).packages["app 1.0-1"]
        put(root, "/var/lib/dpkg/diversions", b"/bin/app\n/bin/app.real\n")
        with pytest.raises(BadInput, match="diversions"):
            package_files(root)

    def test_a_host_without_packages(self, tmp_path: Path, shamon: Shamon) -> None:
        out = tmp_path / "out"
        assert shamon("reference", "from-packages", "--root", tmp_path, "--out", out) == BadInput.exit_code
        put(tmp_path, "/var/lib/dpkg/status", b"Package: -\nStatus: install ok installed\n")
        assert shamon("reference", "from-packages", "--root", tmp_path, "--out", out) == BadInput.exit_code
        assert not out.exists()

    def test_links_never_lead_out_of_the_root(self, tmp_path: Path) -> None:
        put(tmp_path, "/a/b/file")
        (tmp_path / "abs").symlink_to("/a")
        (tmp_path / "up").symlink_to("../../../../a/b")
        (tmp_path / "loop").symlink_to("loop")
        assert real_path(tmp_path, "/abs/b/file") == "/a/b/file"
        assert real_path(tmp_path, "/up/file") == "/a/b/file"
        assert real_path(tmp_path, "/a/../a/./b/file") == "/a/b/file"
        assert real_path(tmp_path, "/up") == "/up"
        for nothing in ("/loop/x", "/nowhere", "/a/b/file/x"):
            assert real_path(tmp_path, nothing) is None


class TestHost:
    def test_what_this_boot_measured(self, shamon: Shamon, machine: MeasuredMachine, tmp_path: Path) -> None:
        machine.run_program("/usr/bin/new", b"new")
        out = tmp_path / "host.json"
        assert shamon("reference", "from-host", "--out", out) == 0
        part = load_any(out)
        assert part.files["/usr/bin/new"] == {hexdigest(b"new")}
        assert part.selinux == good_reference().selinux
        assert part.buffers == good_reference().buffers
        assert not part.pcrs

    def test_a_log_that_the_quote_does_not_vouch_for(
        self, shamon: Shamon, machine: MeasuredMachine, tmp_path: Path
    ) -> None:
        machine.logs.entries.pop()
        assert shamon("reference", "from-host", "--out", tmp_path / "x") == NotTrusted.exit_code
        assert not list(tmp_path.iterdir())


class TestMerge:
    def test_values_and_parts(self, shamon: Shamon, tmp_path: Path, values: Path, capsys: Printed) -> None:
        one, two = tmp_path / "one.json", tmp_path / "two.json"
        dump_part(ReferencePart(packages={"app 1": {"/a": frozenset({hexdigest(b"1")})}}), one)
        dump_part(ReferencePart(patterns=("/var/lib/app/*",), violations=("/var/log/app/*",)), two)
        assert shamon("reference", "merge", values, one, two, "--out", values) == 0
        told = capsys.readouterr().out
        merged = load_reference_values(values)
        assert (merged.version, merged.parent) == (2, good_reference().digest)
        assert set(merged.packages) == {"app 1"}
        assert "ANY content is accepted under /var/lib/app/*" in told
        assert "violations of /var/log/app/* are tolerated" in told
        assert merged.digest in told

    def test_an_upgrade(self, shamon: Shamon, tmp_path: Path) -> None:
        files = {"/a": frozenset({hexdigest(b"1")})}
        for version in "12":
            dump_part(ReferencePart(packages={f"app {version}": files}), tmp_path / version)
        out = tmp_path / "out"
        for more, expected in (((), {"app 1", "app 2"}), (("--replace-packages",), {"app 2"})):
            assert shamon("reference", "merge", tmp_path / "1", tmp_path / "2", "--out", out, *more) == 0
            assert set(load_any(out).packages) == expected

    def test_nothing_else_is_overwritten(self, shamon: Shamon, tmp_path: Path, values: Path, capsys: Printed) -> None:
        other = tmp_path / "other"
        other.write_text("precious")
        assert shamon("reference", "merge", values, values, "--out", other) == BadInput.exit_code
        assert other.read_text() == "precious"
        assert capsys.readouterr().err.startswith(f"shamon: {other}: another file is there, and is not replaced\n")

    def test_what_the_daemon_would_refuse_is_not_written(self, shamon: Shamon, tmp_path: Path, values: Path) -> None:
        part = tmp_path / "part"
        dump_part(ReferencePart(patterns=("/etc/ima/*",)), part)
        before = values.read_bytes()
        assert shamon("reference", "merge", values, part, "--out", values) == BadInput.exit_code
        assert values.read_bytes() == before


def test_a_part_is_shown(shamon: Shamon, tmp_path: Path, capsys: Printed) -> None:
    part = tmp_path / "part"
    dump_part(ReferencePart(patterns=("/var/lib/app/*",), digests=frozenset({hexdigest(b"x")})), part)
    assert shamon("reference", "show", part) == 0
    told = capsys.readouterr().out
    assert "ANY content, also programs, under: /var/lib/app/*" in told
    assert "contents under any path: 1" in told
    assert "it demands nothing" in told
    assert shamon("reference", "show", part, "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["values"] == json.loads(part.read_text())
    assert "digest" not in shown


class TestKeys:
    @pytest.mark.parametrize("encoding", [Encoding.PEM, Encoding.DER])
    def test_a_rule_for_a_key(self, shamon: Shamon, tmp_path: Path, encoding: Encoding, capsys: Printed) -> None:
        public = generate_private_key(SECP256R1()).public_key()
        key, out = tmp_path / "key", tmp_path / "out"
        key.write_bytes(public.public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo))
        assert shamon("reference", "from-key", key, "--prefix", "/usr/", "--out", out) == 0
        (rule,) = load_any(out).signed
        assert base64.b64decode(rule.key) == public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        assert rule.prefix == "/usr/"
        fingerprint = hashlib.sha256(base64.b64decode(rule.key)).hexdigest()
        signer = f"a key (SHA-256 of the key {fingerprint})"
        assert f"every file below /usr/ that {signer} signed is accepted, old versions too\n" in capsys.readouterr().out
        assert shamon("reference", "show", out) == 0
        assert f"signed files below: /usr/ by {signer}\n" in capsys.readouterr().out

    @pytest.mark.parametrize(("data", "prefix"), [(b"no key", "/"), (None, "usr/"), (None, "/usr")])
    def test_what_is_none(
        self, shamon: Shamon, tmp_path: Path, data: bytes | None, prefix: str, capsys: Printed
    ) -> None:
        public = generate_private_key(SECP256R1()).public_key()
        key, out = tmp_path / "key", tmp_path / "out"
        key.write_bytes(data or public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
        assert shamon("reference", "from-key", key, "--prefix", prefix, "--out", out) == BadInput.exit_code
        assert capsys.readouterr().err.startswith(f"shamon: {key if data else '--prefix'}: ")
        assert not out.exists()


class TestSigning:
    def test_signed_verified_and_merged_again(
        self, shamon: Shamon, tmp_path: Path, values: Path, capsys: Printed
    ) -> None:
        key, config, signed = tmp_path / "key.pem", tmp_path / "host.toml", tmp_path / "signed.json"
        assert shamon("policy", "keygen", "anna", "--out", key, "--json") == 0
        public = json.loads(capsys.readouterr().out)["public"]
        config.write_text(f'name = "alpha"\n[reference_signing]\nkeys = ["{public}"]\n')
        assert shamon("reference", "verify", values, "--config", config) == NotTrusted.exit_code
        assert shamon("reference", "sign", values, "--key", key, "--out", signed) == 0
        assert shamon("reference", "verify", signed, "--config", config) == 0
        assert good_reference().digest in capsys.readouterr().out
        assert shamon("reference", "show", signed, "--json") == 0
        assert json.loads(capsys.readouterr().out)["digest"] == good_reference().digest
        merged = tmp_path / "merged.json"
        assert shamon("reference", "merge", signed, values, "--out", merged) == 0
        assert load_reference_values(merged).version == 2
        assert shamon("reference", "verify", merged, "--config", config) == NotTrusted.exit_code

    def test_a_host_that_demands_none(self, shamon: Shamon, tmp_path: Path, values: Path) -> None:
        config = tmp_path / "host.toml"
        config.write_text('name = "alpha"')
        assert shamon("reference", "verify", values, "--config", config) == BadInput.exit_code

    def test_a_part_is_not_signed(self, shamon: Shamon, tmp_path: Path, capsys: Printed) -> None:
        key, part = tmp_path / "key.pem", tmp_path / "part"
        dump_part(ReferencePart(digests=frozenset({hexdigest(b"")})), part)
        assert shamon("policy", "keygen", "anna", "--out", key) == 0
        assert shamon("reference", "sign", part, "--key", key, "--out", tmp_path / "x") == BadInput.exit_code
        assert "reference merge" in capsys.readouterr().err


class TestDiff:
    def test_nothing(self, shamon: Shamon, values: Path, capsys: Printed) -> None:
        assert shamon("reference", "diff", "--reference", values) == 0
        assert "nothing" in capsys.readouterr().out

    def test_the_part_can_be_merged_as_it_is(
        self, shamon: Shamon, machine: MeasuredMachine, tmp_path: Path, values: Path, capsys: Printed
    ) -> None:
        machine.run_program("/usr/bin/new", b"new")
        log, part = tmp_path / "log", tmp_path / "part.json"
        log.write_bytes(machine.logs.ima_log(0))
        arguments = ("reference", "diff", "--reference", values, "--log", log)
        assert shamon(*arguments, "--out", part) == NotTrusted.exit_code
        told = capsys.readouterr().out
        assert "IMA entry 13, /usr/bin/new: an unknown program or file was measured" in told
        assert f"found: sha256:{hexdigest(b'new')}" in told
        assert json.loads(told[told.index("\n{") :]) == json.loads(part.read_text())
        assert shamon(*arguments, "--json") == NotTrusted.exit_code
        found = json.loads(capsys.readouterr().out)
        assert [(each["entry"], each["path"], each["content"]) for each in found["differences"]] == [
            (13, "/usr/bin/new", hexdigest(b"new"))
        ]
        assert found["part"] == json.loads(part.read_text())
        assert shamon("reference", "merge", values, part, "--out", values) == 0
        assert shamon(*arguments) == 0

    def test_what_nothing_allows_has_no_part(
        self, shamon: Shamon, machine: MeasuredMachine, tmp_path: Path, values: Path, capsys: Printed
    ) -> None:
        machine.setenforce(enforcing=False)
        part = tmp_path / "part.json"
        assert shamon("reference", "diff", "--reference", values, "--json", "--out", part) == NotTrusted.exit_code
        assert json.loads(capsys.readouterr().out)["part"] is None
        assert not part.exists()

    def evidence(self, machine: MeasuredMachine, *, offset: int = 0) -> bytes:
        quote = machine.tpm.quote(bytes(32))
        evidence = Evidence(
            quote=Quote(attest=quote.attest, signature=quote.signature, pcr_values=quote.pcr_values),
            merkle_index=0,
            merkle_path=(),
            event_log=machine.logs.event_log(),
            ima_offset=offset,
            ima_log=machine.logs.ima_log(offset),
            hypervisor_report=b"",
            network_state=b"",
            audit_head=bytes(32),
        )
        return encode_file(replace(kept(Attested()), evidence=evidence))

    def test_evidence(
        self, shamon: Shamon, machine: MeasuredMachine, tmp_path: Path, values: Path, capsys: Printed
    ) -> None:
        path = tmp_path / "evidence"
        arguments = ("reference", "diff", "--reference", values, "--evidence", path)
        path.write_bytes(self.evidence(machine))
        assert shamon(*arguments) == 0
        machine.tpm.extend(8, bytes(32))
        path.write_bytes(self.evidence(machine))
        capsys.readouterr()
        assert shamon(*arguments, "--json") == NotTrusted.exit_code
        found = json.loads(capsys.readouterr().out)
        assert found["differences"][0]["claim"] == "boot-chain"
        assert list(found["part"]["pcrs"]) == ["8"]
        policy = tmp_path / "policy.toml"
        policy.write_text(story_policy(image_sha256="ab" * 32, timing=MEMORY_TIMING))
        machine.boot()
        machine.tpm.extend(12, bytes(32))
        path.write_bytes(self.evidence(machine))
        assert shamon(*arguments, "--policy", policy, "--json") == NotTrusted.exit_code
        found = json.loads(capsys.readouterr().out)
        assert "empty" in found["differences"][0]["missing"]
        assert found["part"] is None
        path.write_bytes(self.evidence(machine, offset=1))
        assert shamon(*arguments) == BadInput.exit_code
        path.write_bytes(b"{")
        assert shamon(*arguments) == BadInput.exit_code

    def test_a_file_that_is_no_log(self, shamon: Shamon, tmp_path: Path, values: Path, capsys: Printed) -> None:
        log = tmp_path / "log"
        log.write_bytes(b"no log")
        assert shamon("reference", "diff", "--reference", values, "--log", log) == BadInput.exit_code
        assert capsys.readouterr().err.startswith(f"shamon: {log}: this is no IMA log\n")


def test_what_a_package_has_is_recorded_as_its_file(shamon: Shamon, tmp_path: Path, capsys: Printed) -> None:
    """So that its upgrade takes its place, and what no part explains is shown."""
    libvirtd = "/usr/sbin/libvirtd"
    part, newer, out = tmp_path / "part", tmp_path / "newer", tmp_path / "alpha.json"
    dump_part(ReferencePart(packages={"libvirt 9": {libvirtd: good_reference().files[libvirtd]}}), part)
    dump_part(ReferencePart(packages={"libvirt 10": {libvirtd: frozenset({hexdigest(b"10")})}}), newer)
    assert shamon("reference", "record", "--host", "alpha", "--out", out, "--part", part, "--json") == 0
    boot_alone = json.loads(capsys.readouterr().out)["boot_alone"]
    assert libvirtd not in boot_alone
    assert "/usr/lib/systemd/systemd" in boot_alone
    assert libvirtd not in load_reference_values(out).files
    assert shamon("reference", "merge", out, newer, "--replace-packages", "--out", out) == 0
    assert load_reference_values(out).lookup.digests(libvirtd) == {hexdigest(b"10")}


def test_record_makes_the_next_version_with_its_parts(shamon: Shamon, tmp_path: Path, values: Path) -> None:
    part = tmp_path / "part"
    dump_part(ReferencePart(digests=frozenset({hexdigest(b"x")})), part)
    assert shamon("reference", "record", "--host", "alpha", "--out", values, "--part", part) == 0
    recorded: ReferenceValues = load_reference_values(values)
    assert (recorded.version, recorded.parent) == (2, good_reference().digest)
    assert recorded.digests == {hexdigest(b"x")}
    assert len(good_boot().entries) > 0
