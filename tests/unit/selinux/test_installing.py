"""Modules go in and out in one transaction, nothing stays half done, and the network of a host is never cut."""

import pytest

from shamon_host.domain.errors import BackendFailed, Refused
from shamon_host.selinux import KVM_MODULE, LINK_MODULE, PRIORITY, XEN_MODULE, PolicyModule, shipped_module
from shamon_host.selinux.installing import install, modules_named, remove
from shamon_host.testing.selinux import MemorySelinuxHost

SHIPPED = shipped_module(LINK_MODULE)
KVM = shipped_module(KVM_MODULE)
OLDER = PolicyModule(name=LINK_MODULE, text=SHIPPED.text + b"; of an older version\n")
CONTEXT = "system_u:object_r:shamon_link_t:s0:c1"


class Operator:
    """Runs the commands on a host, and hears what they say."""

    def __init__(self, host: MemorySelinuxHost) -> None:
        self.host, self.heard = host, list[str]()

    def install(self, *modules: PolicyModule, dry_run: bool = False) -> bool:
        """Whether the check that follows is content."""
        host = self.host
        findings = install(
            host.kernel, host.store, host.labels, modules or (SHIPPED,), say=self.heard.append, dry_run=dry_run
        )
        return all(finding.ok for finding in findings)

    def remove(self, *, kvm: bool = False, dry_run: bool = False) -> None:
        host = self.host
        names = modules_named(kvm=kvm)
        remove(
            host.kernel, host.store, host.labels, names, objects=host.objects, say=self.heard.append, dry_run=dry_run
        )


@pytest.fixture
def operator() -> Operator:
    return Operator(MemorySelinuxHost())


def test_installed_labelled_and_checked(operator: Operator) -> None:
    assert operator.install(SHIPPED, KVM)
    assert operator.host.store.changes == [((LINK_MODULE, KVM_MODULE), ())]
    assert operator.host.kernel.is_valid(CONTEXT)
    assert operator.host.labels.labels["/etc/shamon/host.key"] == "system_u:object_r:shamon_key_t:s0"


def test_again_it_does_nothing(operator: Operator) -> None:
    operator.install()
    assert operator.install()
    assert len(operator.host.store.changes) == 1
    assert operator.host.labels.restored == 1
    assert operator.heard[-1] == "module shamon: is in place"


def test_files_that_lost_their_labels_get_them_without_a_new_policy(operator: Operator) -> None:
    operator.install()
    operator.host.labels.labels["/etc/shamon/host.toml"] = "system_u:object_r:etc_t:s0"
    assert operator.install()
    assert (len(operator.host.store.changes), operator.host.labels.restored) == (1, 2)


def test_a_module_that_is_in_the_store_and_not_loaded_is_loaded(operator: Operator) -> None:
    """As after `semodule -n`, or a policy that was loaded from elsewhere."""
    operator.install()
    operator.host.kernel.load([])
    assert operator.install()
    assert "module shamon: is in the store, and will be loaded" in operator.heard


def test_a_dry_run_changes_nothing(operator: Operator) -> None:
    operator.install(dry_run=True)
    assert operator.host.store.changes == []
    assert operator.host.labels.restored == 0
    assert operator.heard == ["module shamon: will be installed", "files whose label would change: 5"]


def test_another_version_is_replaced(operator: Operator) -> None:
    operator.install(OLDER)
    assert operator.install(SHIPPED)
    assert operator.host.store.extract(LINK_MODULE) == SHIPPED
    assert "module shamon: will take the place of another version" in operator.heard


def test_a_module_that_does_not_build_leaves_everything(operator: Operator) -> None:
    operator.install(OLDER)
    operator.host.store.refuses.add(SHIPPED.text)
    with pytest.raises(BackendFailed, match="semodule failed"):
        operator.install(SHIPPED)
    assert operator.host.store.extract(LINK_MODULE) == OLDER


@pytest.mark.parametrize("earlier", [None, OLDER])
def test_a_policy_that_answers_wrongly_is_taken_back(operator: Operator, earlier: PolicyModule | None) -> None:
    """As when a rule of the module is missing: the host would lock itself out."""
    if earlier is not None:
        operator.install(earlier)
    broken = PolicyModule(name=LINK_MODULE, text=SHIPPED.text.replace(b"(allow domain unlabeled_t (peer (recv)))", b""))
    with pytest.raises(BackendFailed, match="receives what has no label"):
        operator.install(broken)
    installed = [(item.name, item.checksum) for item in operator.host.store.installed()]
    assert installed == ([(LINK_MODULE, earlier.checksum)] if earlier else [])
    assert operator.host.kernel.is_valid(CONTEXT) == (earlier is not None)
    assert any("as they were before" in words for words in operator.heard)


def test_an_interrupt_puts_back_too(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(operator.host.labels, "restore_files", interrupted)
    with pytest.raises(KeyboardInterrupt):
        operator.install()
    assert operator.host.store.installed() == ()


def test_a_host_that_is_not_fit(operator: Operator) -> None:
    host = operator.host
    host.store.configured = "mls"
    with pytest.raises(Refused, match="another policy"):
        operator.install()
    host.store.configured = "default"
    host.kernel.flags["mls"] = False
    with pytest.raises(Refused, match="categories"):
        operator.install()
    host.kernel.flags["mls"] = True
    host.kernel.fails = "No such file or directory"
    with pytest.raises(BackendFailed, match="cannot be asked"):
        operator.install()
    assert host.store.changes == []


def test_a_module_of_the_name_at_a_higher_priority_would_win(operator: Operator) -> None:
    operator.host.store.modules[LINK_MODULE, PRIORITY + 100] = OLDER
    with pytest.raises(Refused, match="stands above") as refused:
        operator.install()
    assert "semodule -X 500 -r shamon" in refused.value.remedy


def test_a_module_that_is_disabled_would_not_count(operator: Operator) -> None:
    operator.install()
    operator.host.store.disabled.add(LINK_MODULE)
    with pytest.raises(Refused, match="disabled") as refused:
        operator.install()
    assert "semodule -e shamon" in refused.value.remedy


def test_while_permissive_it_is_installed_and_the_check_says_so(operator: Operator) -> None:
    """First the module, then enforcing: the other way round the daemon could not run."""
    operator.host.kernel.enforcing = False
    assert not operator.install()
    assert operator.host.kernel.is_valid(CONTEXT)


def test_removed_and_files_as_without_it(operator: Operator) -> None:
    operator.install(SHIPPED, KVM)
    operator.remove()
    assert not operator.host.kernel.is_valid(CONTEXT)
    assert [item.name for item in operator.host.store.installed()] == [KVM_MODULE]
    assert not any("shamon" in context for context in operator.host.labels.labels.values())
    operator.remove(kvm=True)
    assert operator.host.store.installed() == ()


def test_removing_what_is_not_there_does_nothing(operator: Operator) -> None:
    operator.install()
    operator.remove()
    changes = len(operator.host.store.changes)
    operator.remove()
    assert len(operator.host.store.changes) == changes
    assert operator.heard[-1] == "module shamon: is not installed"


def test_a_dry_removal_changes_nothing(operator: Operator) -> None:
    operator.install()
    operator.remove(dry_run=True)
    assert operator.heard[-1] == "module shamon: will be removed"
    assert operator.host.kernel.is_valid(CONTEXT)


def test_no_removal_while_the_daemon_runs(operator: Operator) -> None:
    """In the unit, or in its domain whoever started it."""
    operator.install()
    labels = operator.host.labels
    labels.running[77] = "system_u:system_r:shamon_t:s0-s0:c0.c1023"
    with pytest.raises(Refused, match="the daemon runs") as refused:
        operator.remove()
    assert "systemctl disable --now shamon" in refused.value.remedy
    labels.running[77] = "system_u:system_r:initrc_t:s0"
    labels.daemon = {77}
    with pytest.raises(Refused, match="77"):
        operator.remove()
    assert operator.host.kernel.is_valid(CONTEXT)


def test_no_removal_while_labelled_objects_exist(operator: Operator) -> None:
    operator.install()
    operator.host.objects.append("SA 192.0.2.2 esp 0x1234")
    with pytest.raises(Refused, match="0x1234"):
        operator.remove()
    assert operator.host.kernel.is_valid(CONTEXT)


def test_types_that_are_known_still_are_an_error(operator: Operator) -> None:
    operator.install()
    operator.host.store.modules[LINK_MODULE, 200] = OLDER
    with pytest.raises(BackendFailed, match="known still"):
        operator.remove()


def test_hypervisors_are_asked_for() -> None:
    assert modules_named() == (LINK_MODULE,)
    assert modules_named(kvm=True) == (LINK_MODULE, KVM_MODULE)
    assert modules_named(xen=True) == (LINK_MODULE, KVM_MODULE, XEN_MODULE)
