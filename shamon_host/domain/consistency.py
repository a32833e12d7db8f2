"""Whether a policy hangs together: every reference resolves and nothing in it contradicts itself.

`policy_file` asks while it reads, to say where in the file the mistake is; the monitor asks again before a policy is
installed, so that no other way in avoids these rules.
"""

import difflib
import ipaddress
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from shamon_host.domain.chinese_wall import first_conflict
from shamon_host.domain.label_map import TYPE_CATEGORIES, VM_CATEGORIES
from shamon_host.domain.labels import HostName, TypeName, VmName
from shamon_host.domain.leases import MAX_LEASE_S, MIN_LEASE_S
from shamon_host.domain.policy import HostEntry, Intervals, Policy, VmEntry
from shamon_host.domain.ste import lacking_types, listed, shared_types


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One mistake. `key` is its path in the file (`vms.web.label`); `nearest` is the right name nearest to `found`."""

    key: str
    what: str
    expected: str = ""
    found: str = ""
    nearest: str = ""

    def __str__(self) -> str:
        text = f"{self.key}: {self.what}" if self.key else self.what
        for word, value in (("expected", self.expected), ("found", self.found)):
            text += f"; {word} {value}" if value else ""
        return text + (f" (did you mean {self.nearest}?)" if self.nearest else "")


def nearest(name: str, candidates: Iterable[str]) -> str:
    """The candidate that looks most like `name`, or an empty string."""
    close = difflib.get_close_matches(name[:200], islice(candidates, 1000), n=1, cutoff=0.6)
    return close[0] if close else ""


def inconsistencies(policy: Policy) -> Iterator[Finding]:
    """Every mistake of the policy, in the order of the file's sections."""
    yield from _version(policy)
    labelled = [(f"labels.{name}.types", label.types) for name, label in sorted(policy.vm_labels.items())]
    labelled += [(f"resources.{name}.types", label.types) for name, label in sorted(policy.resource_labels.items())]
    for key, types in labelled:
        if not types:
            yield Finding(key=key, what="a label without types", expected="at least one type")
        yield from _unknown_types(policy, key, types)
    for name, vm_label in sorted(policy.vm_labels.items()):
        conflict = first_conflict(policy.conflict_sets, vm_label.types)
        if conflict is not None:
            yield Finding(
                key=f"labels.{name}.types",
                what="the label is in conflict with itself",
                expected=f"at most one type of the conflict set {conflict.conflict_set}",
                found=listed(conflict.types),
            )
    for name, members in sorted(policy.conflict_sets.items()):
        key = f"conflicts.{name}.types"
        if len(members) < 2:
            yield Finding(
                key=key,
                what="a conflict set with nothing to keep apart",
                expected="at least two types",
                found=listed(members),
            )
        yield from _unknown_types(policy, key, members)
    yield from _hosts(policy)
    for vm, entry in sorted(policy.vms.items()):
        yield from _vm(policy, vm, entry)
    for name in sorted(set(policy.failure_actions) - policy.types):
        yield _unknown(f'types."{name}"', "type", name, sorted(policy.types))
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
    if len(policy.types) > len(TYPE_CATEGORIES):
        yield Finding(
            key="types", what="too many types", expected=f"at most {len(TYPE_CATEGORIES)}", found=str(len(policy.types))
        )
    if len(policy.vms) > len(VM_CATEGORIES) // 2:
        yield Finding(
            key="vms", what="too many VMs", expected=f"at most {len(VM_CATEGORIES) // 2}", found=str(len(policy.vms))
        )
    if not policy.hosts:
        yield Finding(key="hosts", what="no hosts", expected="at least one host")


def _hosts(policy: Policy) -> Iterator[Finding]:
    by_address: dict[str, HostName] = {}
    for name, host in sorted(policy.hosts.items()):
        if not host.types:
            yield Finding(key=f"hosts.{name}.types", what="a host without types", expected="at least one type")
        yield from _unknown_types(policy, f"hosts.{name}.types", host.types)
        yield from _address(host)
        first = by_address.setdefault(host.address, name)
        if first != name:
            yield Finding(
                key=f"hosts.{name}.address",
                what=f"the address of {first} too",
                expected="an address of its own for every host",
                found=host.address,
            )


def _address(host: HostEntry) -> Iterator[Finding]:
    key = f"hosts.{host.name}.address"
    try:
        address = ipaddress.ip_address(host.address)
    except ValueError:
        yield Finding(key=key, what="not an address", expected="an IPv4 or IPv6 address", found=host.address[:80])
        return
    if str(address) != host.address:
        yield Finding(key=key, what="not the usual form of the address", expected=str(address), found=host.address)
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
        yield Finding(key=f"hosts.{host.name}.port", what="no such port", expected="1 to 65535", found=str(host.port))


def _vm(policy: Policy, vm: VmName, entry: VmEntry) -> Iterator[Finding]:
    for kind, name, known in (
        ("label", entry.label, sorted(policy.vm_labels)),
        ("image", entry.image, sorted(policy.images)),
        ("host", entry.host, sorted(policy.hosts)),
    ):
        if name not in known:
            yield _unknown(f"vms.{vm}.{kind}", kind, name, known)
    label, host = policy.vm_labels.get(entry.label), policy.hosts.get(entry.host)
    if label and host:
        lacking = lacking_types(label.types, host.types) & policy.types  # an unknown type is told of its own accord
        if lacking:
            yield Finding(
                key=f"vms.{vm}.host",
                what=f"{entry.host} cannot run it",
                expected=f"a host with all types of the label {entry.label}",
                found=f"{entry.host} lacks {listed(lacking)}",
            )
    for name in entry.resources:
        resource = policy.resource_labels.get(name)
        if resource is None:
            yield _unknown(f"vms.{vm}.resources", "resource", name, sorted(policy.resource_labels))
        elif label and not shared_types(label.types, resource.types):
            yield Finding(
                key=f"vms.{vm}.resources",
                what=f"it may not use {name}",
                expected=f"a resource with a type of {listed(label.types)}",
                found=listed(resource.types),
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
        yield _unknown(key, "type", name, sorted(policy.types))


def _unknown(key: str, kind: str, name: str, known: Sequence[str]) -> Finding:
    shown = ", ".join(known[:8]) + (", ..." if len(known) > 8 else "")
    return Finding(
        key=key,
        what=f"unknown {kind}",
        expected=f"one of: {shown or 'none is there'}",
        found=name[:80],
        nearest=nearest(name, known),
    )
