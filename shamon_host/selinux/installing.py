"""`shamon selinux install` and `remove`: the steps and what must hold between them, over the ports.

Each changes the policy in one transaction of the store, asks the kernel whether it answers as it should, and only then
touches files. When a step of the installation fails, the modules that were there before are put back.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from shamon_host.domain.errors import BackendFailed, Refused
from shamon_host.selinux import DAEMON_TYPE, KVM_MODULE, LINK_MODULE, PRIORITY, XEN_MODULE, PolicyModule
from shamon_host.selinux.checking import check_host
from shamon_host.selinux.file_labels import expected_type
from shamon_host.selinux.least_privilege import least_privilege_findings
from shamon_host.selinux.link_conditions import DAEMON, link_context, link_findings
from shamon_host.selinux.ports import InstalledModule, KernelSelinux, LabelledHost, ModuleStore
from shamon_host.selinux.questions import Finding, Group, type_of

POLICY_TYPE = "default"
_DEBIAN = "Install selinux-policy-default, set SELINUXTYPE=default in /etc/selinux/config, relabel and reboot."
_STOP = "Stop it, which takes its links down: systemctl disable --now shamon"

Say = Callable[[str], None]


def install(
    kernel: KernelSelinux,
    store: ModuleStore,
    host: LabelledHost,
    modules: Sequence[PolicyModule],
    *,
    say: Say,
    dry_run: bool = False,
) -> tuple[Finding, ...]:
    """Have these modules loaded, in these versions, and the files labelled; return what `check_host` finds then.

    What is in place already is left alone. Raises Refused where the host is not fit for the modules, BackendFailed when
    a step failed: the modules are then as they were before."""
    kernel.status()  # where SELinux is off, that is what is told
    names = {module.name for module in modules}
    installed = [module for module in store.installed() if module.name in names]  # it takes semodule seconds to list
    check_fit(kernel, store, installed)
    present = _at_priority(installed)
    loaded = kernel.is_valid(link_context("c1"))
    stale = [module for module in modules if not loaded or present.get(module.name) != module.checksum]
    for module in modules:
        say(f"module {module.name}: {_state(module, present, loaded=loaded)}")
    if dry_run:
        say(f"files whose label would change: {len(_mislabelled(host))}")
        return ()
    with _put_back_on_failure(store, present, stale, say):
        if stale:
            say("building and loading the policy")
            store.change(stale, [])
        _demand_policy(kernel, host)
        if stale or _mislabelled(host):
            say(f"labels of files: {host.restore_files()}")
    return check_host(kernel, host)


def remove(
    kernel: KernelSelinux,
    store: ModuleStore,
    host: LabelledHost,
    names: Sequence[str],
    *,
    objects: Sequence[str],
    say: Say,
    dry_run: bool = False,
) -> None:
    """Take these modules out, and give the files the labels that they have without them. `objects`: labelled xfrm
    objects of this host, in words.

    Raises Refused while the daemon runs or labelled objects exist: without the module the kernel would lock the host
    out of its network. Raises BackendFailed when the types are known still."""
    users = sorted(
        {pid for pid, context in host.processes().items() if type_of(context) == DAEMON_TYPE}
        | set(host.daemon_processes())
    )
    if users:
        raise Refused("the daemon runs", where="processes " + ", ".join(map(str, users[:10])), remedy=_STOP)
    if objects:
        raise Refused(
            "the kernel holds labelled IPsec objects: without the module, no traffic of this host would get through",
            found="; ".join(objects[:5])[:1000],
            remedy="Start and stop the daemon, which removes its own; remove others with `ip xfrm`.",
        )
    installed = [module.name for module in store.installed() if module.priority == PRIORITY and module.name in names]
    for name in names:
        say(f"module {name}: {'will be removed' if name in installed else 'is not installed'}")
    if dry_run:
        return
    if installed:
        say("building and loading the policy")
        store.change([], installed)
    if LINK_MODULE in names:
        _demand_gone(kernel, store)
    if any(type_of(label).startswith("shamon_") or type_of(label) in ("", "unlabeled_t") for label in _labels(host)):
        say(f"labels of files: {host.restore_files()}")


def check_fit(kernel: KernelSelinux, store: ModuleStore, installed: Iterable[InstalledModule]) -> None:
    """The modules can be loaded here and would be what counts. `installed`: those of their names. Raises Refused, and
    BackendFailed where SELinux is off."""
    if (found := store.policy_type()) != POLICY_TYPE:
        raise Refused("another policy is configured", expected=POLICY_TYPE, found=found or "none", remedy=_DEBIAN)
    if not kernel.flag("mls") or not kernel.is_valid(f"{kernel.initial_context('unlabeled')}:c1023"):
        raise Refused("the loaded policy has no categories c0 to c1023", remedy=_DEBIAN)
    for module in installed:
        if not module.enabled:
            raise Refused("the module is disabled", where=module.name, remedy=f"semodule -e {module.name}")
        if module.priority > PRIORITY:
            raise Refused(
                "another module of this name stands above", where=module.name, expected=f"priority {PRIORITY}",
                found=f"priority {module.priority}", remedy=f"semodule -X {module.priority} -r {module.name}",
            )  # fmt: skip


@contextmanager
def _put_back_on_failure(
    store: ModuleStore, present: Mapping[str, str], stale: Sequence[PolicyModule], say: Say
) -> Iterator[None]:
    """Whatever ends the block but its own end, an interrupt too: the modules are as they were before."""
    names = {module.name for module in stale}
    before = {name: checksum for name, checksum in present.items() if name in names}
    earlier = [store.extract(name) for name in sorted(before)]
    done = False
    try:
        yield
        done = True
    finally:
        if not done and names:
            now = _at_priority(module for module in store.installed() if module.name in names)
            if now != before:
                say("putting the earlier modules back")
                store.change(earlier, sorted(set(now) - set(before)))
                say(f"the modules are as they were before: {', '.join(sorted(before)) or 'none of them is installed'}")


def _at_priority(installed: Iterable[InstalledModule]) -> dict[str, str]:
    """Name → checksum."""
    return {module.name: module.checksum for module in installed if module.priority == PRIORITY}


def _demand_policy(kernel: KernelSelinux, host: LabelledHost) -> None:
    """The policy that is loaded now answers as it should. The mode is not asked for here."""
    findings = link_findings(kernel, own=DAEMON, domains=set(host.processes().values()))
    if all(finding.ok for finding in findings if finding.group is Group.CONTEXTS):
        findings = (*findings, *least_privilege_findings(kernel, DAEMON))
    wrong = [finding.in_words for finding in findings if not finding.ok]
    if wrong:
        raise BackendFailed(
            "the policy does not answer as it should", found="; ".join(wrong[:5])[:1500],
            remedy="See what other modules are installed: semodule -lfull",
        )  # fmt: skip


def _demand_gone(kernel: KernelSelinux, store: ModuleStore) -> None:
    if not kernel.is_valid(link_context("c1")):
        return
    left = [str(module.priority) for module in store.installed() if module.name == LINK_MODULE]
    raise BackendFailed(
        "Shamon's types are known still", found=f"module {LINK_MODULE} at priority {', '.join(left) or 'none'}",
        remedy=f"semodule -X PRIORITY -r {LINK_MODULE}",
    )  # fmt: skip


def _mislabelled(host: LabelledHost) -> list[str]:
    return [path for path, context in sorted(host.files().items()) if type_of(context) != expected_type(path)]


def _labels(host: LabelledHost) -> Collection[str]:
    return host.files().values()


def _state(module: PolicyModule, present: Mapping[str, str], *, loaded: bool) -> str:
    if module.name not in present:
        return "will be installed"
    if present[module.name] == module.checksum:
        return "is in place" if loaded else "is in the store, and will be loaded"
    return "will take the place of another version"


def modules_named(*, kvm: bool = False, xen: bool = False) -> tuple[str, ...]:
    """Which modules a command is about. On Xen, libvirt needs what it needs for KVM too."""
    return (LINK_MODULE, *([KVM_MODULE] if kvm or xen else []), *([XEN_MODULE] if xen else []))
