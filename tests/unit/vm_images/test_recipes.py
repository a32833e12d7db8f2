"""The parts of the image recipes that are pure: archives, EFI files, cache keys; and what the SELinux modules must
never say.
"""

import stat
import struct
import subprocess
from pathlib import Path

import pytest

from vm_images import app, manifest, uki
from vm_images.cache import cached, digest_of, in_use

_SELINUX = Path(__file__).parents[3] / "shamon_host" / "selinux"


def test_an_archive_is_read_as_it_was_written() -> None:
    entries = [
        ("bin", stat.S_IFDIR | 0o755, b""),
        ("init", stat.S_IFREG | 0o755, b"#!"),
        ("x.ko", stat.S_IFREG | 0o644, b"abc"),
    ]
    assert [(name, mode, content) for name, mode, _, content in manifest._entries(app.archive(entries))] == entries


def test_a_file_behind_a_top_level_link_is_known_by_its_real_path() -> None:
    assert manifest._resolved("/bin/sh", {"bin": "usr/bin"}) == "/usr/bin/sh"
    assert manifest._resolved("/init", {"bin": "usr/bin"}) == "/init"


def test_sections_begin_behind_those_of_the_stub() -> None:
    optional = struct.pack("<H22xQ", 0x20B, 0x1000).ljust(240, b"\0")
    section = b".text\0\0\0" + struct.pack("<II", 0x1234, 0x2000).ljust(32, b"\0")
    stub = b"MZ".ljust(0x3C, b"\0") + struct.pack("<I", 0x40) + b"PE\0\0" + struct.pack("<HH12xHH", 0x8664, 1, 240, 0)
    assert uki._end_of_image(stub + optional + section) == 0x1000 + 0x4000
    with pytest.raises(ValueError, match="PE header"):
        uki._end_of_image(bytes(0x100))


def test_a_key_changes_with_content_and_mode_alone(tmp_path: Path) -> None:
    file = tmp_path / "init"
    file.write_text("one")
    key = digest_of(tmp_path)
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "init.pyc").write_bytes(b"\0")
    assert digest_of(tmp_path) == key
    file.chmod(0o755)
    assert digest_of(tmp_path) != key


def test_an_interrupted_build_leaves_nothing_to_be_taken_for_a_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHAMON_CACHE", str(tmp_path))

    def interrupted(out: Path) -> None:
        (out / "half").write_text("")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached("kind", "key", interrupted, print)
    built = cached("kind", "key", lambda out: (out / "whole").touch(), print)
    assert [path.name for path in built.iterdir()] == ["whole"]


def test_what_is_in_use_is_not_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHAMON_CACHE", str(tmp_path))
    first = cached("kind", "0", lambda _: None, print)
    with in_use(first) as held:
        assert held
        for key in "123456":
            cached("kind", key, lambda _: None, print)
        assert first.exists()
    cached("kind", "7", lambda _: None, print)
    assert not first.exists()


@pytest.mark.parametrize("module", sorted(_SELINUX.glob("*.cil")), ids=lambda path: path.name)
def test_selinux_modules_leave_nothing_permissive(module: Path) -> None:
    code = "\n".join(line.partition(";")[0] for line in module.read_text().splitlines())
    assert "typepermissive" not in code
    assert code.count("(") == code.count(")")


def test_the_application_vms_init_is_shell(tmp_path: Path) -> None:
    init = Path(app.__file__).parent / "app" / "init"
    subprocess.run(["sh", "-n", init], check=True)
