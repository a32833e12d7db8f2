"""Whether a policy hangs together: every reference resolves and nothing in it contradicts itself.

`policy_file` asks while it reads, to say where in the file the mistake is; the monitor asks again before a policy is
installed, so that no other way in avoids these rules.
"""

import ipaddress
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Set

from shamon_host.domain.addresses import address_mistakes
from shamon_host.domain.chinese_wall import conflicts
from shamon_host.domain.findings import Finding, quoted, unknown
from shamon_host.domain.flask_expected import MAX_LABELS_AT_HOME
from shamon_host.domain.guest_mistakes import attested_vm_mistakes, guest_mistakes
from shamon_host.domain.label_map import TYPE_CATEGORIES, VM_CATEGORIES
from shamon_host.domain.labels import UNLABELLED, HostName, ResourceKind, ResourceLabel, TypeName, VmLabel, VmName
from shamon_host.domain.leases import MAX_LEASE_S, MIN_LEASE_S
from shamon_host.domain.overlay import MAX_PEERS, MAX_PORTS, Overlay
from shamon_host.domain.ownership import owner_mistakes, signing_mistakes
from shamon_host.domain.policy import (
    LEVELS,
    MAX_CONFLICT_SETS,
    MAX_RESOURCES,
    HostEntry,
    HypervisorKind,
    Intervals,
    Policy,
    TypeDefinition,
    VmEntry,
)
from shamon_host.domain.quarantine import Grade
from shamon_host.domain.ste import lacking_types, listed, may_use, may_write


def inconsistencies(policy: Policy) -> Iterator[Finding]:
    """Every mistake of the policy, in the order of the file's sections."""
    yield from _version(policy)
    yield from signing_mistakes(policy)
    yield from owner_mistakes(policy)
    yield from _definitions(policy)
    if len(policy.wall_sets) > MAX_CONFLICT_SETS:
        yield Finding(
            key="conflicts",
            what="too many conflict sets, those of `apart` included",
            expected=f"at most {MAX_CONFLICT_SETS}",
            found=str(len(policy.wall_sets)),
        )
        return  # to look at every label would take long
    yield from _labels(policy)
    for name, resource in sorted(policy.resource_labels.items()):
        yield from _resource(policy, name, resource)
    yield from _contents(policy)
    known = sorted(policy.wall_names)
    for name, members in sorted(policy.conflict_sets.items()):
        key = f"conflicts.{quoted(name)}.types"
        if len(members) < 2:
            yield Finding(
                key=key,
                what="a conflict set with nothing to keep apart",
                expected="at least two types",
                found=", ".join(members) or "none",
            )
        for wall in sorted(members - policy.wall_names):
            yield unknown(key, "Chinese Wall type", wall, known)
    yield from _hosts(policy)
    for guest, demand in sorted(policy.guests.items()):
        yield from guest_mistakes(guest, demand)
    for vm, entry in sorted(policy.vms.items()):
        yield from _vm(policy, vm, entry)
        yield from attested_vm_mistakes(policy, vm, entry)
    yield from address_mistakes(policy)
    for name, overlay in sorted(policy.overlays.items()):
        yield from _overlay(policy, name, overlay)
    yield from _renames(policy)
    yield from _intervals(policy.intervals)
    for pcr in policy.demands.empty_pcrs:
        if pcr not in range(24):
            yield Finding(key="demands.empty_pcrs", what="no such PCR", expected="0 to 23", found=str(pcr))


def _version(policy: Policy) -> Iterator[Finding]:
    if policy.version < 1:
        yield Finding(key="coalition.version", what="bad version", expected="1 or more", found=str(policy.version))
    if policy.version == 1 and policy.parent is not None:
        yield Finding(key="coalition.parent", what="the first version has no parent", found=policy.parent)
    if policy.version > 1 and policy.parent is None:
        yield Finding(key="coalition.parent", what="no parent", expected="the digest of the version before")
    if not policy.types:
        yield Finding(key="types", what="no types", expected="at least one type")
    if not policy.hosts:
        yield Finding(key="hosts", what="no hosts", expected="at least one host")


def _definitions(policy: Policy) -> Iterator[Finding]:
    known = sorted(policy.wall_names)
    for name, definition in sorted(policy.definitions.items()):
        key = f'types."{name}"'
        for wall in sorted(definition.apart - policy.wall_names):
            yield unknown(f"{key}.apart", "Chinese Wall type", wall, known)
        for wall in sorted(definition.apart & {name, *policy.owners_of(name)}):
            yield Finding(key=f"{key}.apart", what="a type cannot be apart from itself or its owner", found=wall)
        if name in definition.equivalent:
            yield Finding(key=f"{key}.equivalent", what="a type means the same as itself anyway", found=name)
        for level, value in (("confidentiality", definition.confidentiality), ("integrity", definition.integrity)):
            if value not in LEVELS:
                yield Finding(key=f"{key}.{level}", what="no such level", expected="0 to 15", found=str(value))


def _labels(policy: Policy) -> Iterator[Finding]:
    for name, label in sorted(policy.vm_labels.items()):
        key = f"labels.{quoted(name)}.types"
        if name == UNLABELLED.name:
            yield Finding(key=f"labels.{quoted(name)}", what="a reserved name", expected="another name")
        if not label.types:
            yield Finding(key=key, what="a label without types", expected="at least one type")
        if not label.read_only | label.write_only <= label.types or label.read_only & label.write_only:
            yield Finding(key=key, what="types that are one way only must be types of the label, one way each")
        yield from _unknown_types(policy, key, label.types)
        for wall in sorted(label.walls - policy.wall_names):
            yield unknown(f"labels.{quoted(name)}.walls", "Chinese Wall type", wall, sorted(policy.wall_names))
        conflict = conflicts(policy, label, ())
        if conflict is not None:
            yield Finding(
                key=key,
                what="the label is in conflict with itself",
                expected=f"at most one type of the conflict set {conflict.conflict_set}",
                found=", ".join(sorted(conflict.types)),
            )
        yield from _flows(policy, f"labels.{quoted(name)}", label.reads, label.writes, downgrader=name)


_HEIGHTS: tuple[tuple[str, Callable[[TypeDefinition], int]], ...] = (
    ("confidentiality", lambda definition: definition.confidentiality),
    ("integrity", lambda definition: -definition.integrity),
)
"""Down which levels nothing flows: information must not get to less confidential, nor to more trusted types."""


def _flows(
    policy: Policy, key: str, reads: Set[TypeName], writes: Set[TypeName], *, downgrader: str | None = None
) -> Iterator[Finding]:
    """Nothing lets information go to a lower confidentiality or a higher integrity (Bell and LaPadula 1973, Biba
    1977), unless it is a label that both owners name a downgrader. Told once for each type that it comes from."""
    if len(reads | writes) < 2:
        return
    known = policy.definitions
    targets = [known[name] for name in sorted(writes & known.keys())]
    strict = [target for target in targets if downgrader not in target.downgraders]
    expected = (
        "types of the same level"
        if downgrader is None
        else "a label that both types name in their downgraders, or one that only reads or writes"
    )
    for level, height in _HEIGHTS:
        lowest, lowest_strict = (min(some, key=height, default=None) for some in (targets, strict))
        for name in sorted(reads & known.keys()):
            source = known[name]
            target = lowest_strict if downgrader in source.downgraders else lowest
            if target is not None and height(source) > height(target):
                yield Finding(
                    key=key,
                    what=f"it lets {name} flow to {target.name}, against their {level}",
                    expected=expected,
                    found=f"{level} {abs(height(source))} and {abs(height(target))}",
                )


def _resource(policy: Policy, name: str, resource: ResourceLabel) -> Iterator[Finding]:
    key = f"resources.{quoted(name)}.types"
    if resource.inaccessible and resource.types:
        yield Finding(key=key, what="an inaccessible resource has no types", found=listed(resource.types))
    if not resource.inaccessible and not resource.types:
        yield Finding(key=key, what="a label without types", expected="at least one type")
    yield from _unknown_types(policy, key, resource.types)
    if resource.pinned:
        yield from _pinned(name, resource)
    elif not resource.inaccessible:
        # A VM of one type writes it, one of another reads it (`flows.flow_system`). No type can name it a downgrader.
        yield from _flows(policy, f"resources.{quoted(name)}", resource.types, resource.types)


def _pinned(name: str, resource: ResourceLabel) -> Iterator[Finding]:
    if resource.inaccessible or resource.kind is not ResourceKind.DISK:
        what = "an inaccessible resource" if resource.inaccessible else "a network"
        key = f"resources.{quoted(name)}.sha256"
        yield Finding(key=key, what=f"{what} has no content", expected="a disk that some type may use")


def _contents(policy: Policy) -> Iterator[Finding]:
    """Content is labelled by what it is: under whatever name, the same bytes have the same types."""
    first: dict[str, ResourceLabel] = {}
    for name, resource in sorted(policy.resource_labels.items()):
        other = first.setdefault(resource.sha256, resource)
        if resource.pinned and other.types != resource.types:
            yield Finding(
                key=f"resources.{quoted(name)}.sha256",
                what=f"the same content as {other.name}, under another label",
                expected=listed(other.types),
                found=listed(resource.types),
            )


def _overlay(policy: Policy, name: str, overlay: Overlay) -> Iterator[Finding]:
    if overlay.label not in policy.vm_labels:
        yield unknown(f"overlays.{quoted(name)}.label", "label", overlay.label, sorted(policy.vm_labels))
    for kind, listed_ones, most in (("peers", overlay.peers, MAX_PEERS), ("ports", overlay.ports, MAX_PORTS)):
        if listed_ones is not None and len(listed_ones) > most:
            yield Finding(
                key=f"overlays.{quoted(name)}.{kind}",
                what=f"too many {kind}",
                expected=f"at most {most}",
                found=str(len(listed_ones)),
            )
    for vm in sorted((overlay.peers or frozenset()).difference(policy.vms)):
        yield unknown(f"overlays.{quoted(name)}.peers", "VM", vm, sorted(policy.vms))


def _renames(policy: Policy) -> Iterator[Finding]:
    """What can be said without the version before; `monitor.policy_update` says the rest."""
    for kind, renames, names in (
        ("types", policy.renames.types, frozenset[str](policy.types)),
        ("labels", policy.renames.labels, frozenset(policy.vm_labels)),
    ):
        given: dict[str, str] = {}
        for old, new in sorted(renames.items()):
            key = f"renames.{kind}.{quoted(old)}"
            if policy.version == 1:
                yield Finding(key=key, what="the first version renames nothing")
            if old in names:
                yield Finding(key=key, what="the old name is still there", expected="a name that is gone", found=old)
            if new not in names:
                yield unknown(key, kind.removesuffix("s"), new, sorted(names))
            if new in given:
                yield Finding(key=key, what=f"{given[new]} is renamed to it too", expected="one each", found=new)
            given[new] = old


def _hosts(policy: Policy) -> Iterator[Finding]:
    by_address: dict[str, HostName] = {}
    vms = Counter(host for vm in policy.vms for host in policy.hosts_for(vm))
    disks: defaultdict[HostName, set[str]] = defaultdict(set)
    labels: defaultdict[HostName, set[str]] = defaultdict(set)
    for vm, entry in policy.vms.items():
        known = [policy.resource_labels.get(name) for name in entry.resources]
        for host_name in policy.hosts_for(vm):
            labels[host_name].add(entry.label)
            disks[host_name].update(each.name for each in known if each and each.kind is ResourceKind.DISK)
    for name, host in sorted(policy.hosts.items()):
        if not host.types:
            yield Finding(key=f"hosts.{quoted(name)}.types", what="a host without types", expected="at least one type")
        yield from _unknown_types(policy, f"hosts.{quoted(name)}.types", host.types)
        yield from _too_many(f"hosts.{quoted(name)}.types", "types", len(host.types), len(TYPE_CATEGORIES))
        paired = vms[name] + len(disks[name])
        yield from _too_many(f"hosts.{quoted(name)}", "VMs and disks", paired, len(VM_CATEGORIES) // 2)
        if host.hypervisor is HypervisorKind.XEN:
            count, what = len(labels[name] - {UNLABELLED.name}), "labels of VMs with Xen"
            yield from _too_many(f"hosts.{quoted(name)}", what, count, MAX_LABELS_AT_HOME)
        for lacking in sorted((host.starting or frozenset()) - host.types):
            yield Finding(
                key=f"hosts.{quoted(name)}.starting",
                what="it may start with what it may never run",
                expected="types of its own",
                found=lacking,
            )
        yield from _address(host)
        yield from _mac_vm(policy, host)
        first = by_address.setdefault(host.address, name)
        if first != name:
            yield Finding(
                key=f"hosts.{quoted(name)}.address",
                what=f"the address of {first} too",
                expected="an address of its own for every host",
                found=host.address,
            )


def _mac_vm(policy: Policy, host: HostEntry) -> Iterator[Finding]:
    """It belongs to this host alone, is pinned whole, and shares nothing with a VM but what is wired for it."""
    if host.mac_vm is None:
        return
    key = f"hosts.{quoted(host.name)}.mac_vm"
    entry = policy.vms.get(host.mac_vm)
    if entry is None:
        yield unknown(key, "VM", host.mac_vm, sorted(policy.vms))
        return
    image = policy.images.get(entry.image)
    for wrong, expected in (
        (entry.host != host.name or entry.may_move_to, "a VM of this host that moves nowhere"),
        (entry.label != UNLABELLED.name, f"a VM with the label {UNLABELLED.name}"),
        (entry.resources, "a VM without further disks and networks"),
        (image is not None and image.boot is None, "an image with kernel_sha256, initrd_sha256 and cmdline"),
    ):
        if wrong:
            yield Finding(key=key, what="this VM cannot hold a host's links", expected=expected, found=host.mac_vm)


def _too_many(key: str, kind: str, count: int, most: int) -> Iterator[Finding]:
    """SELinux has no categories for more on one host, or nobody would ask Xen about all of them."""
    if count > most:
        yield Finding(key=key, what=f"too many {kind} for one host", expected=f"at most {most}", found=str(count))


def _address(host: HostEntry) -> Iterator[Finding]:
    key = f"hosts.{quoted(host.name)}.address"
    try:
        address = ipaddress.ip_address(host.address)
    except ValueError:
        yield Finding(key=key, what="not an address", expected="an IPv4 or IPv6 address", found=host.address[:80])
        return
    if str(address) != host.address:
        yield Finding(key=key, what="not the usual form of the address", expected=str(address), found=host.address)
    if address.version == 6 and address.is_link_local and not address.scope_id:
        # It means nothing without the zone, which differs from host to host.
        yield Finding(
            key=key, what="a link-local address", expected="a global or a unique local address", found=host.address
        )
    if address.is_unspecified or address.is_multicast or address.is_loopback:
        yield Finding(key=key, what="not the address of one host on a network", found=host.address)
    if isinstance(address, ipaddress.IPv6Address) and (address.ipv4_mapped or address.scope_id):
        # The kernel's selectors, the guard and the gate would see another address, or one of another family.
        yield Finding(
            key=key,
            what="an address that stands for another one",
            expected="without a prefix or zone",
            found=host.address,
        )
    if host.port not in range(1, 65536):
        yield Finding(
            key=f"hosts.{quoted(host.name)}.port", what="no such port", expected="1 to 65535", found=str(host.port)
        )


def _vm(policy: Policy, vm: VmName, entry: VmEntry) -> Iterator[Finding]:
    labelled = entry.label in policy.vm_labels or entry.label == UNLABELLED.name
    if not labelled:
        yield unknown(f"vms.{quoted(vm)}.label", "label", entry.label, [UNLABELLED.name, *sorted(policy.vm_labels)])
    if entry.image not in policy.images:
        yield unknown(f"vms.{quoted(vm)}.image", "image", entry.image, sorted(policy.images))
    if entry.host not in policy.hosts:
        yield unknown(f"vms.{quoted(vm)}.host", "host", entry.host, sorted(policy.hosts))
    label = policy.label_of(vm) if labelled else None
    host = policy.hosts.get(entry.host)
    if label and host:
        lacking = lacking_types(label.types, host.types) & policy.types  # an unknown type is told of its own accord
        if lacking:
            yield Finding(
                key=f"vms.{quoted(vm)}.host",
                what=f"{entry.host} cannot run it",
                expected=f"a host with all types of the label {entry.label}",
                found=f"{entry.host} lacks {listed(lacking)}",
            )
    yield from _moves(policy, vm, entry, label)
    # A MAC VM may stay on the network, off the bridges of its host's VMs: its peers hear through it why it failed.
    least = Grade.PORTS_DOWN if policy.is_mac_vm(vm) else label.quarantine if label else Grade.NOTE
    if label and entry.quarantine and entry.quarantine.is_weaker_than(least):
        yield Finding(
            key=f"vms.{quoted(vm)}.quarantine",
            what="weaker than its label says",
            expected=f"{least} or stronger, as the label {label.name} has it",
            found=entry.quarantine,
        )
    if len(entry.resources) > MAX_RESOURCES:
        yield Finding(
            key=f"vms.{quoted(vm)}.resources",
            what="too many resources",
            expected=f"at most {MAX_RESOURCES}",
            found=str(len(entry.resources)),
        )
    for name in entry.resources:
        resource = policy.resource_labels.get(name)
        if resource is None:
            yield unknown(f"vms.{quoted(vm)}.resources", "resource", name, sorted(policy.resource_labels))
        elif label and not may_use(label, resource):
            disk = resource.kind is ResourceKind.DISK
            yield Finding(
                key=f"vms.{quoted(vm)}.resources",
                what=f"it may not use {name}",
                expected=f"a disk with a type that it reads: {listed(label.reads)}"
                if disk
                else f"a network with a type of {listed(label.types)}",
                found="it is inaccessible" if resource.inaccessible else listed(resource.types),
            )
    for name in sorted(set(entry.interfaces or ()) - (label.types if label else set(entry.interfaces or ()))):
        yield Finding(
            key=f"vms.{quoted(vm)}.interfaces",
            what=f"its label has no such type: {name}",
            expected=f"types of the label {entry.label}, one for each interface",
            found=name,
        )


def _moves(policy: Policy, vm: VmName, entry: VmEntry, label: VmLabel | None) -> Iterator[Finding]:
    """Where it may be moved to must be able to run it, with all that it has."""
    key = f"vms.{quoted(vm)}.may_move_to"
    for name in sorted(entry.may_move_to):
        host = policy.hosts.get(name)
        if host is None:
            yield unknown(key, "host", name, sorted(policy.hosts))
            continue
        if name == entry.host:
            yield Finding(key=key, what="it is its host already", expected="other hosts", found=name)
        lacking = lacking_types(label.types, host.types) & policy.types if label else frozenset()
        if lacking:
            yield Finding(
                key=key,
                what=f"{name} cannot run it",
                expected=f"hosts with all types of the label {entry.label}",
                found=f"{name} lacks {listed(lacking)}",
            )
        kinds = [policy.hypervisor_of(each) for each in (entry.host, name)]
        if entry.host in policy.hosts and kinds[0] is not kinds[1]:
            yield Finding(
                key=key,
                what="no VM moves between hosts with different hypervisors",
                expected=f"hosts with {kinds[0]}",
                found=f"{name} with {kinds[1]}",
            )
    for disk in entry.resources if entry.may_move_to else ():
        resource = policy.resource_labels.get(disk)
        if label and resource and resource.kind is ResourceKind.DISK and may_write(label, resource):
            yield Finding(
                key=key,
                what="it writes a disk that does not move with it",
                expected="a VM that only reads what it has beside its own disk",
                found=disk,
            )


def _intervals(intervals: Intervals) -> Iterator[Finding]:
    for name, value in (
        ("period_s", intervals.period_s),
        ("timeout_s", intervals.timeout_s),
        ("lease_s", intervals.lease_s),
    ):
        if not math.isfinite(value) or value <= 0:
            yield Finding(
                key=f"intervals.{name}", what="bad duration", expected="more than 0 seconds", found=str(value)
            )
    for name, value in (("margin_s", intervals.margin_s), ("action_delay_s", intervals.action_delay_s)):
        if not math.isfinite(value) or value < 0:
            yield Finding(key=f"intervals.{name}", what="bad duration", expected="0 seconds or more", found=str(value))
    if not MIN_LEASE_S <= intervals.lease_s <= MAX_LEASE_S:
        yield Finding(
            key="intervals.lease_s",
            what="bad lease",
            expected=f"{MIN_LEASE_S:g} to {MAX_LEASE_S:g} seconds",
            found=f"{intervals.lease_s:g}",
        )
    if not intervals.period_s < intervals.lease_s - intervals.margin_s:
        yield Finding(
            key="intervals.period_s",
            what="the gate would close between two attestations",
            expected="a period shorter than the lease less its margin",
            found=f"period {intervals.period_s:g}, lease {intervals.lease_s:g}, margin {intervals.margin_s:g}",
        )


def _unknown_types(policy: Policy, key: str, types: Iterable[TypeName]) -> Iterator[Finding]:
    for name in sorted(set(types) - policy.types):
        yield unknown(key, "type", name, sorted(policy.types))
