"""The label map of one host as people and programs read it: which SELinux context stands for which name there. VMs
of a host with Xen have FLASK contexts, which no map gives them.

Contexts are local: another host may give the same type another category. So whoever reads a host's audit log, its SPD
or `ps -Z` needs that host's own map.
"""

import json
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from shamon_host.domain.contexts import allocate_for, disk_context, vm_context
from shamon_host.domain.errors import BadInput
from shamon_host.domain.findings import nearest
from shamon_host.domain.label_map import LabelMap
from shamon_host.domain.labels import HostName
from shamon_host.domain.policy import HypervisorKind, Policy

FRESH = (
    "A fresh allocation, as a host makes it that has never had a policy: a host that has had one may have given other "
    "categories. Its own map is in its daemon."
)


def fresh_label_map(policy: Policy, host: HostName) -> LabelMap:
    """What a host allocates that has never had a policy. Raises BadInput for a host that is not in the policy."""
    _require_host(policy, host)
    return allocate_for(policy, host)


def selinux_label_map(policy: Policy, host: HostName, label_map: LabelMap, *, note: str = "") -> str:
    """Tables in ASCII, the heading and `note` as comments that begin with `#`. Raises as `selinux_document` does."""
    document = selinux_document(policy, host, label_map)
    lines = [
        f"# SELinux contexts on the host {host}{_of_vms(policy, host)}. "
        f"Coalition {policy.coalition}, version {policy.version}",
        f"# Policy digest {policy.digest}",
        *textwrap.wrap(note, 100, initial_indent="# ", subsequent_indent="# "),
        "",
        *_table(("type", "category", "link_context", "spd_context"), document["types"], empty="# no types"),
        "",
        *_table(("vm", "label", "context", "types"), document["vms"], empty="# no VMs"),
        "",
        *_table(("disk", "context", "types"), document["disks"], empty="# no disks beside the VMs' own"),
    ]
    return "\n".join(lines) + "\n"


def selinux_json(policy: Policy, host: HostName, label_map: LabelMap, *, note: str = "") -> str:
    """The same as JSON, see `selinux_document`. Raises as it does."""
    document = selinux_document(policy, host, label_map)
    return json.dumps({"note": note, **document} if note else document, indent=2) + "\n"


def selinux_document(policy: Policy, host: HostName, label_map: LabelMap) -> dict[str, Any]:
    """`types`, `vms` and `disks` of the host, by name, with their contexts as the kernel prints them, in JSON's types.

    Raises BadInput for a host that is not in the policy, or a label map that lacks something of it.
    """
    _require_host(policy, host)
    types, vms = sorted(policy.hosts[host].types), policy.possible_on(host)
    disks = policy.disks_on(host)
    lacking: list[str] = [name for name in types if name not in label_map.types]
    lacking += [vm for vm in vms if vm not in label_map.vms] + [name for name in disks if name not in label_map.disks]
    if lacking:
        raise BadInput(
            "the label map is not of this policy",
            where=f"host {host}",
            expected="a category for every type of the host, and two for every VM and disk",
            found=f"none for {lacking[0]}",
        )
    return {
        "coalition": policy.coalition,
        "version": policy.version,
        "digest": policy.digest,
        "host": host,
        "types": [
            {
                "type": name,
                "category": f"c{label_map.types[name]}",
                "link_context": str(label_map.link_context(name)),
                "spd_context": str(label_map.spd_context(name)),
            }
            for name in types
        ],
        "vms": [
            {
                "vm": vm,
                "label": policy.vms[vm].label,
                "context": str(vm_context(policy, label_map, vm)),
                "types": sorted(policy.label_of(vm).types),
            }
            for vm in vms
        ],
        "disks": [
            {
                "disk": name,
                "context": str(disk_context(policy, label_map, name)),
                "types": sorted(policy.resource_labels[name].types),
            }
            for name in disks
        ],
    }


def _of_vms(policy: Policy, host: HostName) -> str:
    return ", and FLASK contexts of its VMs" if policy.hypervisor_of(host) is HypervisorKind.XEN else ""


def _require_host(policy: Policy, host: HostName) -> None:
    if host not in policy.hosts:
        close = nearest(host, sorted(policy.hosts))
        raise BadInput(
            "the host is not in the policy",
            where=f"host {host[:80]!r}",
            expected=f"one of {', '.join(sorted(policy.hosts)[:20])}",
            remedy=f"Did you mean {close}?" if close else "",
        )


def _table(columns: Sequence[str], rows: Iterable[dict[str, Any]], *, empty: str) -> Iterator[str]:
    cells = [[_cell(row[column]) for column in columns] for row in rows]
    if not cells:
        yield empty
        return
    cells.insert(0, [column.upper().replace("_", " ") for column in columns])
    widths = [max(len(row[index]) for row in cells) for index in range(len(columns))]
    for row in cells:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _cell(value: Any) -> str:
    return (", ".join(value) or "-") if isinstance(value, list) else str(value)
