"""The pure parts of the MAC VM's recipe: the order of kernel modules, links inside a root, what ldd says; and what its
init and its SELinux module must never have.
"""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vm_images import mac_vm
from vm_images.commands import CommandError
from vm_images.kernel_modules import depends_on, found_modules, in_load_order
from vm_images.mac_root import MODULES as ANSWERING
from vm_images.mac_root import PACKAGES, RECIPE, inside, shared_libraries
from vm_images.manifest import root_digests

MODULES = [f"m{number}" for number in range(8)]


@st.composite
def needs(draw: st.DrawFn) -> dict[str, list[str]]:
    """Each needs some of those before it: so there is no circle."""
    return {
        name: draw(st.lists(st.sampled_from(MODULES[:at]), unique=True)) if at else []
        for at, name in enumerate(MODULES)
    }


@given(needs(), st.lists(st.sampled_from(MODULES)), st.sets(st.sampled_from(MODULES)))
def test_each_module_comes_behind_what_it_needs_and_once(
    graph: dict[str, list[str]], wanted: list[str], loaded: set[str]
) -> None:
    order = in_load_order(wanted, graph, loaded)
    assert len(set(order)) == len(order)
    assert loaded.isdisjoint(order)
    assert set(wanted) <= loaded | set(order)
    for at, name in enumerate(order):
        assert set(graph[name]) <= loaded | set(order[:at])


def test_a_module_that_the_kernel_has_not_is_no_module_left_out() -> None:
    with pytest.raises(KeyError, match="absent"):
        in_load_order(["m"], {"m": ["absent"]})


def test_what_a_module_says_that_it_needs(tmp_path: Path) -> None:
    file = tmp_path / "kernel" / "l2tp-eth.ko"
    file.parent.mkdir()
    file.write_bytes(b"\x7fELF\0license=GPL\0depends=l2tp_core,ip6-udp-tunnel\0retpoline=Y\0")
    assert found_modules(tmp_path) == {"l2tp_eth": file}
    assert depends_on(file.read_bytes()) == ("l2tp_core", "ip6_udp_tunnel")
    assert depends_on(b"\0depends=\0") == ()
    assert depends_on(b"\x7fELF") == ()


def test_a_link_inside_a_root_leads_to_no_file_outside(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "usr/lib/x86").mkdir(parents=True)
    (root / "lib").symlink_to("usr/lib")
    (root / "lib64").symlink_to("/usr/lib")
    (root / "usr/lib/libc.so.6").symlink_to("x86/libc.so")
    (root / "usr/lib/out").symlink_to("../../../../etc/passwd")
    assert inside(root, "/lib/libc.so.6") == root / "usr/lib/x86/libc.so"
    assert inside(root, "/lib64/libc.so.6") == root / "usr/lib/x86/libc.so"
    assert inside(root, "/usr/lib/out") == root / "etc/passwd"


def test_libraries_are_those_that_ldd_found() -> None:
    said = """/usr/sbin/nft:
\tlinux-vdso.so.1 (0x00007ffd9a1f2000)
\tlibnftables.so.1 => /lib/x86_64-linux-gnu/libnftables.so.1 (0x00007f0c4b2c0000)
\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f0c4b0df000)
\tlibgone.so.1 => not found
\t/lib64/ld-linux-x86-64.so.2 (0x00007f0c4b3a5000)
/usr/bin/python3.11:
\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f0c4b0df000)
"""
    assert list(shared_libraries(said)) == [
        f"/lib/x86_64-linux-gnu/{name}" for name in ("libnftables.so.1", "libc.so.6")
    ]


def test_without_an_agent_there_is_no_image(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="no link agent"):
        mac_vm.build_mac_vm(print, tmp_path)


def test_the_initrd_has_each_module_behind_its_needs(tmp_path: Path) -> None:
    modules = tmp_path / "modules"
    modules.mkdir()
    for name in {name for group in mac_vm._MODULES.values() for name in group}:
        needed = "nfnetlink" if name == "nf_tables" else ""
        (modules / f"{name}.ko").write_bytes(b"\0depends=%b\0" % needed.encode())
    (tmp_path / "program").write_bytes(b"program")
    mac_vm._make_initrd(modules, tmp_path / "program", tmp_path / "initrd")
    entries = (tmp_path / "initrd").read_bytes()
    assert -1 < entries.index(b"-nfnetlink.ko") < entries.index(b"-nf_tables.ko")
    (modules / "squashfs.ko").unlink()
    with pytest.raises(CommandError, match="no such modules: squashfs"):
        mac_vm._make_initrd(modules, tmp_path / "program", tmp_path / "initrd")


def test_the_description_names_files_and_command_line(tmp_path: Path) -> None:
    for name in ("vmlinuz", "initrd", "root.img"):
        (tmp_path / name).write_bytes(b"")
    mac_vm._describe("shamon.root.hash=0", tmp_path)
    described = json.loads((tmp_path / "mac-vm.json").read_text())
    assert set(described) == {"vmlinuz", "initrd", "root", "cmdline"}
    assert described["root"] == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    words = described["cmdline"].split()
    assert {"security=selinux", "enforcing=1", "lockdown=confidentiality", "shamon.root.hash=0"} <= set(words)
    assert not [word for word in words if word.startswith(("init=", "rdinit=", "root="))]


def test_the_ima_policy_names_only_types_of_the_modules() -> None:
    """The kernel takes no rule with a type that it does not know."""
    rules = (RECIPE / "root/etc/ima/ima-policy").read_text()
    assert {word for word in rules.split() if word.startswith(("subj_type=", "obj_type="))} == {
        "subj_type=shamon_t", "obj_type=shamon_var_lib_t", "obj_type=shamon_var_run_t",
    }  # fmt: skip


def test_what_answers_the_host_is_in_the_image_whole_and_is_all_of_these_packages_that_is() -> None:
    """And it takes no library along: neither the TPM2 software stack nor what verifies."""
    wanted = {
        f"shamon_host.{package}" + ("" if name == "__init__" else f".{name}")
        for package, names in ANSWERING.items()
        for name in names
    }
    asked = (
        "import importlib, sys; before = {*sys.modules}; [importlib.import_module(name) for name in sys.argv[1:]];"
        "print(*({*sys.modules} - before))"
    )
    done = subprocess.run([sys.executable, "-c", asked, *sorted(wanted)], check=True, capture_output=True, text=True)
    imported = done.stdout.split()
    own = {name for name in imported if name.startswith("shamon_host.")}
    assert {name for name in own if name.split(".")[1] in ANSWERING} == wanted
    assert {name.split(".")[1] for name in own} <= {*ANSWERING, *PACKAGES}
    assert {"cryptography", "cffi", "tpm2_pytss"}.isdisjoint(imported)


def test_the_ima_policy_is_loaded_before_anything_of_the_root_runs() -> None:
    """Behind SELinux's, as Reference Values demand it of every boot."""
    program, init = (RECIPE / "initrd.c").read_text(), (RECIPE / "init.c").read_text()
    main = program[program.index("int main(") :]
    assert 0 < main.index("load_policy()") < main.index("IMA_POLICY") < main.index("execl(")
    assert "ima" not in init


def test_the_manifest_names_each_file_of_the_root_and_no_link(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/file").write_bytes(b"content")
    (tmp_path / "etc/link").symlink_to("file")
    assert root_digests(tmp_path) == {"/etc/file": [hashlib.sha256(b"content").hexdigest()]}
