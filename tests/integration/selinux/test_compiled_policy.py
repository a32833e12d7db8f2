"""The shipped modules, built by semodule into the lab host's policy: what libsepol computes is what the kernel would
answer. Needs root for the lab's base image, and no VM."""

import os
import shutil
import sys
from pathlib import Path

import pytest

from shamon_host.domain.errors import BackendFailed
from shamon_host.selinux import KVM_MODULE, LINK_MODULE, PolicyModule, shipped_module
from shamon_host.selinux.least_privilege import least_privilege_findings, least_privilege_questions
from shamon_host.selinux.link_conditions import DAEMON, WELL_KNOWN, link_findings, missing
from shamon_host.selinux.semodule import SemoduleStore
from tests.integration.selinux.policydb import PolicyDb
from vm_images.base import base_root

POLICY = "etc/selinux/default/policy/policy.33"
MODULES = [shipped_module(LINK_MODULE), shipped_module(KVM_MODULE)]

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="the lab's images are built by root"),
    pytest.mark.skipif(shutil.which("semodule") is None, reason="semodule is not installed"),
    pytest.mark.skipif(not PolicyDb.usable(), reason="libsepol 3.4 or later is not installed"),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SELinux's files of a host as it was installed."""
    base, root = base_root(lambda words: print(words, file=sys.stderr)), tmp_path_factory.mktemp("root")
    for name in ("etc/selinux", "var/lib/selinux"):
        shutil.copytree(base / name, root / name, symlinks=True)
    return root


@pytest.fixture(scope="module")
def store(root: Path) -> SemoduleStore:
    """Its store with both modules; a test that changes it puts them back. Each change takes seconds."""
    store = SemoduleStore(root)
    store.change(MODULES, [])
    return store


def test_the_modules_are_in_the_store_as_they_are_shipped(store: SemoduleStore) -> None:
    found = {item.name: item.checksum for item in store.installed() if item.priority == 400}
    assert found == {module.name: module.checksum for module in MODULES}
    assert [store.extract(module.name) for module in MODULES] == MODULES
    assert store.policy_type() == "default"


def test_every_answer_is_as_it_should_be(store: SemoduleStore, root: Path) -> None:
    kernel = PolicyDb(root / POLICY)
    assert missing(link_findings(kernel, own=DAEMON, domains=())) == ()
    assert missing(least_privilege_findings(kernel, DAEMON)) == ()
    assert sum(map(kernel.is_valid, WELL_KNOWN)) >= 20, "most well-known domains are known"


@pytest.mark.parametrize(
    ("target", "vector"),
    [
        ("system_u:object_r:security_t:s0", "dir getattr open read search"),
        ("system_u:object_r:security_t:s0", "file getattr open read write"),
        ("system_u:object_r:security_t:s0", "security check_context compute_av"),
        (DAEMON, "process getattr"),
        (DAEMON, "file open read"),
        (DAEMON, "netlink_selinux_socket create bind setopt read"),
        *(
            (f"system_u:object_r:{kind}:s0{categories}", "file getattr relabelfrom relabelto")
            for kind in ("virt_image_t", "virt_content_t", "svirt_image_t")
            for categories in ("", ":c516,c517")
        ),
        ("system_u:object_r:virt_content_t:s0:c516,c517", "file open read"),
        ("system_u:object_r:svirt_image_t:s0:c10,c512,c513", "file getattr unlink rename relabelfrom"),
        ("system_u:object_r:virt_image_t:s0", "file open read rename setattr relabelto"),
        ("system_u:object_r:virt_image_t:s0", "dir create setattr add_name remove_name write search"),
    ],
)
def test_the_daemon_may_do_what_it_does(store: SemoduleStore, root: Path, target: str, vector: str) -> None:
    """What `SelinuxFs`, `own_context`, `KernelEvents` and `DiskFiles` do."""
    object_class, *permissions = vector.split()
    assert set(permissions) <= PolicyDb(root / POLICY).access(DAEMON, target, object_class).allowed


@pytest.mark.parametrize(
    ("target", "vector"),
    [
        ("system_u:object_r:virt_image_t:s0", "dir search write add_name"),
        ("system_u:object_r:virt_image_t:s0", "file create open write getattr setattr relabelfrom"),
        ("system_u:object_r:svirt_image_t:s0:c10,c512,c513", "file open write relabelto"),
    ],
)
def test_libvirt_may_write_the_memory_of_a_vm_where_it_is_kept(
    store: SemoduleStore, root: Path, target: str, vector: str
) -> None:
    """It makes the file, and gives it to the VM to write; the daemon takes the VM's label away."""
    object_class, *permissions = vector.split()
    virtd = "system_u:system_r:virtd_t:s0-s0:c0.c1023"
    assert set(permissions) <= PolicyDb(root / POLICY).access(virtd, target, object_class).allowed


@pytest.mark.parametrize(
    ("file", "allowed", "denied"),
    [
        ("virt_content_t:s0:c516,c517", "open read lock getattr", "write append"),
        ("virt_content_t:s0:c518,c519", "", "open read write append"),
        ("svirt_image_t:s0:c516,c517", "open read write lock getattr", "relabelfrom relabelto"),
        ("svirt_image_t:s0:c518,c519", "", "open read write append"),
        ("virt_image_t:s0:c516,c517", "", "open read write append"),
        ("virt_image_t:s0", "", "open read write append"),
    ],
)
def test_a_vm_reaches_its_disks_and_no_others(
    store: SemoduleStore, root: Path, file: str, allowed: str, denied: str
) -> None:
    """By type, whether it may write; by categories, whether it may at all. A file that left the policy is nobody's."""
    vm = "system_u:system_r:svirt_t:s0:c10,c512,c513,c516,c517"
    found = PolicyDb(root / POLICY).access(vm, f"system_u:object_r:{file}", "file").allowed
    assert set(allowed.split()) <= found
    assert found.isdisjoint(denied.split())


def test_no_question_names_a_permission_that_there_is_not(store: SemoduleStore, root: Path) -> None:
    """A word that is misspelt would always be denied. What nobody may do is allowed to somebody, or refused by name."""
    kernel = PolicyDb(root / POLICY)
    for question in least_privilege_questions(kernel, DAEMON):
        assert question.permissions <= kernel.permissions(question.object_class), question.what


def test_a_constraint_that_is_gone_is_missed(store: SemoduleStore, root: Path) -> None:
    constraint = b"(mlsconstrain (association (polmatch))"
    text = b"\n".join(line for line in MODULES[0].text.splitlines() if not line.startswith(constraint))
    store.change([PolicyModule(name=LINK_MODULE, text=text)], [])
    found = missing(link_findings(PolicyDb(root / POLICY), own=DAEMON, domains=()))
    assert len(found) == 4
    assert all("SPD entry" in words for words in found)
    store.change(MODULES, [])


def test_a_module_that_does_not_build_changes_nothing(store: SemoduleStore, root: Path) -> None:
    before = (root / POLICY).read_bytes()
    with pytest.raises(BackendFailed, match="semodule failed"):
        store.change([PolicyModule(name=LINK_MODULE, text=b"(allow nobody_t nothing_t (file (read)))\n")], [])
    assert (root / POLICY).read_bytes() == before
    assert store.extract(LINK_MODULE) == MODULES[0]


def test_removed_its_types_are_unknown(store: SemoduleStore, root: Path) -> None:
    store.change([], [module.name for module in MODULES])
    kernel = PolicyDb(root / POLICY)
    assert not kernel.is_valid("system_u:object_r:shamon_link_t:s0")
    with pytest.raises(BackendFailed):
        kernel.access(DAEMON, DAEMON, "process")
