"""Whatever files and programs say: a finding, never an error, and never an ok by accident."""

import gzip
import json
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shamon_host.doctor.bounded import no_program, run_program, within
from shamon_host.doctor.examination import NAMES, examine
from shamon_host.doctor.facts import Capabilities
from shamon_host.doctor.host_files import HostFiles
from shamon_host.doctor.hypervisor_reading import capabilities_of
from shamon_host.doctor.kernel_reading import read_kernel
from shamon_host.doctor.look import Look
from shamon_host.doctor.network_reading import filter_chains
from shamon_host.doctor.tpm_reading import answer_of, question
from tests.unit.doctor.host_tree import HostTree

_DEEP = b"[" * 100_000
_SAMPLES = st.one_of(
    st.binary(max_size=400),
    st.sampled_from(
        [b"", b"\0", b"\xff" * 64, b"-1", b"9" * 5000, b"{", _DEEP, b"\x1f\x8b\x08", b"=" * 999, b"\n" * 9, b"\x1b[2J"]
    ),
    st.text("0123456789abcdefABCDEF:|-/. \n\t=,[]", max_size=300).map(str.encode),
)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory, coalition: Path) -> HostTree:
    host = HostTree(tmp_path_factory.mktemp("hostile") / "host")
    host.make(coalition)
    return host


def files_of(host: HostTree) -> list[Path]:
    return sorted(path for path in host.root.rglob("*") if path.is_file() and not path.is_symlink())


@given(data=st.data())
def test_any_bytes_in_any_file_are_judged(tree: HostTree, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(files_of(tree)))
    content = path.read_bytes()
    try:
        path.write_bytes(data.draw(_SAMPLES))
        report = examine(tree.read())
    finally:
        path.write_bytes(content)
    assert {finding.name for finding in report.findings} <= set(NAMES)
    assert all(finding.found.isprintable() for finding in report.findings)


@given(printed=st.one_of(st.text(max_size=300), st.just("[" * 100_000), st.just('{"nftables": [{"rule": 1}]}')))
def test_whatever_programs_print_is_judged(tree: HostTree, printed: str) -> None:
    kept = dict(tree.printed)
    try:
        tree.printed |= dict.fromkeys(kept, printed)
        examine(tree.read())
    finally:
        tree.printed = kept


_KEYS = "chain rule family table name hook policy expr jump goto target accept drop"
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(_KEYS.split()), inner),
    max_leaves=25,
)


@given(items=st.lists(st.dictionaries(st.sampled_from(["chain", "rule"]), _JSON), max_size=5))
def test_any_json_of_nft_is_understood_or_not(items: list[object]) -> None:
    found = filter_chains(json.dumps({"nftables": items}))
    assert (found.value is not None) != bool(found.bad)


@given(properties=st.binary(max_size=64), handles=st.binary(max_size=64))
def test_any_answer_of_a_tpm_is_understood_or_not(properties: bytes, handles: bytes) -> None:
    found = answer_of(properties, handles)
    assert (found.value is not None) != bool(found.bad)


def response(capability: int, *words: int) -> bytes:
    per_value = 1 if capability == 1 else 2
    count = len(words) // per_value
    body = b"\0" + b"".join(word.to_bytes(4, "big") for word in (capability, count, *words))
    return b"\x80\x01" + (10 + len(body)).to_bytes(4, "big") + bytes(4) + body


def test_what_a_tpm_answers() -> None:
    family = response(6, 0x100, int.from_bytes(b"2.0\0", "big"), 0x101, 0)
    found = answer_of(family, response(1, 0x01C00002, 0x01C10000)).value
    assert found is not None
    assert (found.family, found.ek_certificate) == ("2.0", True)
    found = answer_of(family, response(1)).value
    assert found is not None
    assert not found.ek_certificate
    assert answer_of(b"", b"").bad
    assert "refuses" in answer_of(family, b"\x80\x01\0\0\0\x0a\0\0\x01\x01").bad
    assert question(6, 0x100).hex() == "8001000000160000017a000000060000010000000040"


def test_what_virsh_prints_of_capabilities() -> None:
    assert capabilities_of("<c/>").value == Capabilities(security=frozenset(), domains=frozenset())
    assert capabilities_of('<!DOCTYPE c [<!ENTITY a "b">]><c>&a;</c>').bad
    assert capabilities_of("no XML").bad


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "etc/shamon/policy.toml"
    path.parent.mkdir(parents=True)
    os.mkfifo(path)
    return tmp_path


def test_a_pipe_where_a_file_should_be_holds_nobody_up(fifo: Path) -> None:
    found = HostFiles(fifo).data("/etc/shamon/policy.toml")
    assert "no regular file" in found.bad


def test_what_is_too_large_absent_or_a_directory(tmp_path: Path) -> None:
    files = HostFiles(tmp_path)
    (tmp_path / "large").write_bytes(b"x" * 11)
    (tmp_path / "loop").symlink_to("loop")
    assert files.data("/large", 10).bad
    assert files.data("/large", 11).value == b"x" * 11
    assert files.data("/missing").absent
    assert files.data("/large/below").absent
    assert files.data("/").bad
    assert files.data("/loop").unread
    assert files.data("/a\0b").bad
    assert files.free_bytes("/not/there").value


def test_what_may_not_be_read_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    assert HostFiles(tmp_path).data("/file").unread == "permission denied"


def test_options_of_the_kernel_from_proc_and_a_bomb(tmp_path: Path) -> None:
    host = HostTree(tmp_path)
    host.put("/proc/config.gz", gzip.compress(b"CONFIG_IMA=y\n"))
    assert read_kernel(HostFiles(tmp_path)).option("IMA") == "y"
    host.put("/proc/config.gz", gzip.compress(b"\n" * (20 << 20)))
    assert "too large" in read_kernel(HostFiles(tmp_path)).config.bad
    host.put("/proc/sys/kernel/osrelease", "../../etc/shadow")
    assert read_kernel(HostFiles(tmp_path)).release.bad


def test_programs_end_within_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shamon_host.doctor.bounded.PROGRAM_LIMIT_S", 0.05)
    assert "did not answer" in run_program(["sleep", "60"]).unread


def test_programs_that_fail_or_are_not_there() -> None:
    assert run_program(["echo", "word"]) == Look("word\n")
    assert run_program(["no-such-program-here"]).unread == "the program no-such-program-here is not installed"
    assert run_program(["sh", "-c", "echo Permission denied >&2; exit 1"]).unread == "permission denied"
    assert run_program(["sh", "-c", "echo odd >&2; exit 3"]).unread == "sh: odd"
    assert run_program(["false"]).unread == "false: exit code 1"
    assert no_program(["virsh"]).unread


def test_a_call_that_hangs_is_left_behind() -> None:
    held = threading.Event()

    def hang() -> Look[str]:
        held.wait()
        return Look("late")

    assert within(0.01, "it", hang).unread == "it did not answer within 0 s"
    held.set()
    assert within(5, "it", lambda: Look("soon")) == Look("soon")
