"""The store of modules, as semodule lists it and as it lies on the disk; labels of processes and files."""

import bz2
from pathlib import Path

import pytest

from shamon_host.domain.errors import BackendFailed
from shamon_host.selinux import LINK_MODULE, PolicyModule, shipped_module
from shamon_host.selinux.labelled_host import LinuxLabelledHost
from shamon_host.selinux.ports import InstalledModule
from shamon_host.selinux.semodule import SemoduleStore, modules_listed

SUM = "e6c2d599edffc0b72d70d5e633613028a4129d7b7b55491a04d8a247b9ec0b4e"
LISTED = f"""\
400 shamon          cil          sha256:{SUM} \n\
100 accountsd       pp           sha256:{SUM[::-1]} \n\
100 amtu            pp  disabled sha256:{SUM} \n\
"""


def test_what_semodule_lists() -> None:
    assert modules_listed(LISTED) == (
        InstalledModule(name="shamon", priority=400, checksum=SUM),
        InstalledModule(name="accountsd", priority=100, checksum=SUM[::-1]),
        InstalledModule(name="amtu", priority=100, checksum=SUM, enabled=False),
    )
    assert modules_listed("") == ()


@pytest.mark.parametrize("line", ["400 shamon cil", "shamon", f"400 shamon cil sha256:{SUM[1:]}", "\0"])
def test_a_list_without_checksums_is_an_older_semodules(line: str) -> None:
    with pytest.raises(BackendFailed) as failed:
        modules_listed(line)
    assert "3.4" in failed.value.remedy


def test_the_checksum_is_of_the_modules_text() -> None:
    assert PolicyModule(name="empty", text=b"").checksum.startswith("e3b0c44298fc1c14")
    assert "(type" not in repr(shipped_module(LINK_MODULE))


class StoreOnDisk(SemoduleStore):
    """A store without semodule."""

    listed: tuple[InstalledModule, ...] = ()

    def installed(self) -> tuple[InstalledModule, ...]:
        return self.listed


@pytest.fixture
def store(tmp_path: Path) -> StoreOnDisk:
    (tmp_path / "etc/selinux").mkdir(parents=True)
    (tmp_path / "etc/selinux/config").write_text("# which\nSELINUX=permissive\nSELINUXTYPE=default\n\nSETLOCALDEFS=0\n")
    (tmp_path / "var/lib/selinux/default/active/modules/400/shamon").mkdir(parents=True)
    return StoreOnDisk(tmp_path)


def test_which_policy_is_configured(store: StoreOnDisk, tmp_path: Path) -> None:
    assert store.policy_type() == "default"
    (tmp_path / "etc/selinux/config").write_text("# SELINUXTYPE=mls\n")
    assert store.policy_type() == ""
    (tmp_path / "etc/selinux/config").unlink()
    with pytest.raises(BackendFailed, match="configuration"):
        store.policy_type()


@pytest.mark.parametrize("pack", [bz2.compress, bytes])
def test_an_installed_module_is_read_from_the_store(store: StoreOnDisk, tmp_path: Path, pack: type[bytes]) -> None:
    module = shipped_module(LINK_MODULE)
    path = tmp_path / "var/lib/selinux/default/active/modules/400/shamon/cil"
    path.write_bytes(pack(module.text))
    store.listed = (InstalledModule(name="shamon", priority=400, checksum=module.checksum),)
    assert store.extract("shamon") == module
    path.write_bytes(pack(module.text + b" "))
    with pytest.raises(BackendFailed, match="not the one"):
        store.extract("shamon")
    path.write_bytes(b"BZh9 broken")
    with pytest.raises(BackendFailed, match="cannot be read"):
        store.extract("shamon")
    path.unlink()
    with pytest.raises(BackendFailed, match="cannot be read"):
        store.extract("shamon")


def test_a_host_without_semodule(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("shamon_host.selinux.semodule._ENVIRONMENT", {"PATH": str(tmp_path)})
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BackendFailed) as failed:
        SemoduleStore().installed()
    assert "policycoreutils" in failed.value.remedy


def test_processes_and_their_labels(tmp_path: Path) -> None:
    for number, label in (("1", b"system_u:system_r:init_t:s0\0"), ("77", b"system_u:system_r:shamon_t:s0\n")):
        (tmp_path / "proc" / number / "attr").mkdir(parents=True)
        (tmp_path / "proc" / number / "attr/current").write_bytes(label)
    (tmp_path / "proc/78").mkdir()
    (tmp_path / "proc/self").mkdir()
    (tmp_path / "procs").write_text("77\n78\n")
    host = LinuxLabelledHost(proc=tmp_path / "proc", unit_processes=tmp_path / "procs")
    assert host.processes() == {1: "system_u:system_r:init_t:s0", 77: "system_u:system_r:shamon_t:s0"}
    assert host.daemon_processes() == {77, 78}
    (tmp_path / "procs").unlink()
    assert host.daemon_processes() == frozenset()


def test_only_files_of_the_modules_are_looked_at(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x/y").write_text("")
    assert LinuxLabelledHost(roots=[str(tmp_path), str(tmp_path / "nowhere")]).files() == {}
    assert LinuxLabelledHost(roots=[str(tmp_path / "nowhere")]).restore_files() == "none of the directories is there"
