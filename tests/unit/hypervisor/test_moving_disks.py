"""What comes in from another host is looked at before QEMU is."""

import struct
from pathlib import Path

import pytest

from shamon_host.domain.errors import BackendFailed, NotTrusted
from shamon_host.hypervisor.moving_disks import begin, require_plain_qcow2


def header(
    *,
    magic: bytes = b"QFI\xfb",
    version: int = 3,
    encryption: int = 0,
    snapshots: int = 0,
    incompatible: int = 0,
    autoclear: int = 0,
) -> bytes:
    return struct.pack(
        ">4sIQIIQIIQQIIQQQQ",
        magic, version, 0, 0, 16, 1 << 30, encryption, 2, 1 << 18, 1 << 16, 1, snapshots, 0, incompatible, 0, autoclear,
    )  # fmt: skip


def test_a_plain_overlay(tmp_path: Path) -> None:
    path = tmp_path / "web.qcow2"
    path.write_bytes(header() + bytes(512))
    require_plain_qcow2(path)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "shorter"),
        (header()[:-1], "shorter"),
        (header(magic=b"MBR!"), "another format"),
        (header(version=2), "another format"),
        (header(encryption=2), "encrypted"),
        (header(snapshots=1), "snapshots"),
        (header(incompatible=4), "features 0x4"),
        (header(incompatible=1 << 63), "features 0x8"),
        (header(autoclear=1), "autoclear features 0x1"),
    ],
)
def test_files_that_qemu_would_read_more_from(tmp_path: Path, data: bytes, words: str) -> None:
    """Feature 4 is an external data file: any file of the host. Autoclear feature 1 is bitmaps."""
    path = tmp_path / "web.qcow2"
    path.write_bytes(data)
    with pytest.raises(NotTrusted, match=words):
        require_plain_qcow2(path)


def test_more_than_there_is_room_for(tmp_path: Path) -> None:
    with pytest.raises(BackendFailed, match="no room"):
        begin(tmp_path / "web.qcow2.incoming", 1 << 60)
    assert not list(tmp_path.iterdir())
