"""From the resources and domains that wear labels of an ACM policy to resources and VMs of this project.

Whatever ACM would refuse is not made possible: a resource whose label does not count is inaccessible, and a domain
that could not start there is left out.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from shamon_host.domain.errors import BadInput
from shamon_host.domain.findings import nearest
from shamon_host.domain.labels import UNLABELLED, ResourceKind
from shamon_host.interchange.acm_labelled import is_inaccessible
from shamon_host.interchange.acm_model import (
    INACCESSIBLE,
    UNLABELED,
    AcmDomain,
    AcmLabel,
    AcmPolicy,
    AcmReference,
    AcmResource,
    Dropped,
    changed,
    dropped,
    renamed,
)
from shamon_host.interchange.acm_names import numbered
from shamon_host.interchange.acm_translation import NewLabel, Translation

_LOWER = "names are in lower case here"
_OTHER_POLICY = "its label is of another policy"
_SPECIAL = {INACCESSIBLE: "inaccessible", **dict.fromkeys(UNLABELED, "unlabelled")}
Known = TypeVar("Known")


@dataclass(frozen=True, slots=True, kw_only=True)
class NewResource:
    """A resource; without types it is inaccessible."""

    name: str
    old: str
    types: tuple[str, ...]
    kind: ResourceKind


@dataclass(frozen=True, slots=True, kw_only=True)
class NewVm:
    """A VM, without its image and its host."""

    name: str
    old: str
    file: str
    label: str
    resources: tuple[str, ...]
    interfaces: tuple[str, ...] | None


def labels_in_use(policy: AcmPolicy, domains: Iterable[AcmDomain]) -> frozenset[str]:
    """The labels of this policy that domains wear. Raises BadInput for one that is not there."""
    names = {label.name: label for label in policy.vm_labels}
    used = [domain.label for domain in domains if domain.label and _is_ours(policy, domain.label)]
    return frozenset(_known(names, each, "label").name for each in used if each.label not in UNLABELED)


def label_key(name: str) -> str:
    """The key of a resource label among resources, whose names have no control characters."""
    return f"\0{name}"


def translate_resources(
    policy: AcmPolicy, resources: Sequence[AcmResource], translation: Translation, changes: list[Dropped]
) -> dict[str, NewResource]:
    """Resource labels and resources, in this order. Keys: `label_key`, and a resource's name in Xen (`phy:/dev/hda1`).

    Raises BadInput for a label that is not there.
    """
    labels = {label.name: label for label in policy.resource_labels}
    types: dict[str, tuple[str, ...]] = {}
    for label in policy.resource_labels:
        types[label_key(label.name)] = () if label.name in _SPECIAL else translation.types_of(label)
    wearers: dict[str, list[str]] = {}
    for resource in resources:
        label_name = _label_of(policy, resource, labels)
        types[resource.name] = types[label_key(label_name)] if label_name else ()
        wearers.setdefault(label_key(label_name), []).append(resource.name)
    taken: set[str] = set()
    names = numbered({label_key(name): _SPECIAL.get(name, name) for name in labels}, taken)
    names |= numbered({resource.name: resource.name for resource in resources}, taken)
    found = {}
    for key, name in names.items():
        old = key.removeprefix(label_key(""))
        networks = [each.startswith("vlan:") for each in wearers.get(key, [key])]
        kind = ResourceKind.NETWORK if all(networks) else ResourceKind.DISK
        found[key] = NewResource(name=name, old=old, types=types[key], kind=kind)
    changes += _resource_changes(policy, resources, found)
    return {key: found[key] for key in types}


def _label_of(policy: AcmPolicy, resource: AcmResource, labels: Mapping[str, AcmLabel]) -> str:
    """The label that counts; empty where there is none."""
    if resource.label is None or is_inaccessible(resource) or not _is_ours(policy, resource.label):
        return ""
    return "" if resource.label.label in UNLABELED else _known(labels, resource.label, "resource label").name


def _resource_changes(
    policy: AcmPolicy, resources: Iterable[AcmResource], found: Mapping[str, NewResource]
) -> Iterable[Dropped]:
    for label in policy.resource_labels:
        new = found[label_key(label.name)]
        if label.name in _SPECIAL:
            why = "what has it is inaccessible here" + (
                f", whatever its types: {label.types[0]}" if label.types else ""
            )
            yield changed("ResourceLabel", label.name, new.name, why)
        elif not new.types:
            yield changed("ResourceLabel", label.name, new.name, "it has no type: nobody may use it")
        elif new.name != label.name:
            yield renamed("ResourceLabel", label.name, new.name, _LOWER)
        if label.before:
            why = f"it was called {label.before}; resources have no renames here, VMs name them"
            yield dropped("ResourceLabel/Name[@from]", label.name, why)
    for resource in resources:
        new = found[resource.name]
        if new.types or (resource.label and resource.label.label == INACCESSIBLE):
            yield renamed("resource", resource.name, new.name, _LOWER)
            continue
        if resource.label is None:
            why = "the policy has its label no more"
        elif _is_ours(policy, resource.label):
            why = f"its label is {resource.label.label}"
        else:
            why = _OTHER_POLICY
        yield changed("resource", resource.name, new.name, f"{why}: it is inaccessible")


def translate_domains(
    policy: AcmPolicy,
    domains: Iterable[AcmDomain],
    resources: Mapping[str, NewResource],
    translation: Translation,
    changes: list[Dropped],
) -> tuple[NewVm, ...]:
    """The domains that could start, by file."""
    startable = {domain.file: domain for domain in domains if _may_start(policy, domain, translation, changes)}
    names = numbered({file: domain.name for file, domain in startable.items()}, set())
    return tuple(
        _vm(policy, domain, names[file], resources, translation, changes=changes) for file, domain in startable.items()
    )


def _may_start(policy: AcmPolicy, domain: AcmDomain, translation: Translation, changes: list[Dropped]) -> bool:
    if domain.label is None and domain.ssidref:
        why = "it has the number of a label (ssidref), which counts in the compiled policy only"
    elif domain.label is not None and not _is_ours(policy, domain.label):
        why = f"{_OTHER_POLICY}, {domain.label.policy}"
    elif lacking := set(_new_label(domain, translation).all_types) - set(translation.management):
        why = f"Domain-0 has not all of its types; it lacks {', '.join(sorted(lacking)[:4])}"
    else:
        return True
    changes.append(dropped("domain", domain.name, why))
    return False


def _new_label(domain: AcmDomain, translation: Translation) -> NewLabel:
    """The label of a domain of this policy."""
    if domain.label is None or domain.label.label in UNLABELED:
        return NewLabel(name=UNLABELLED.name, old="")
    return translation.labels[domain.label.label]


def _vm(
    policy: AcmPolicy,
    domain: AcmDomain,
    name: str,
    resources: Mapping[str, NewResource],
    translation: Translation,
    *,
    changes: list[Dropped],
) -> NewVm:
    label = _new_label(domain, translation)
    if name != domain.name:
        changes.append(renamed("domain", domain.name, name, _LOWER))
    if domain.label is None:
        changes.append(changed("domain", domain.name, name, "its file has no label: it is unlabelled"))
    changes += [dropped(f"domain/{key}", domain.name, "it is not written as a plain value") for key in domain.unread]
    used = []
    for disk in dict.fromkeys(domain.disks):
        resource = resources.get(disk)
        if resource is None:
            changes.append(dropped("domain/disk", f"{domain.name}: {disk}", "nothing gives it a label"))
        elif not set(resource.types) & set(label.types):
            why = "it shares no type with the domain, which could not have started with it"
            changes.append(dropped("domain/disk", f"{domain.name}: {disk}", why))
        else:
            used.append(resource.name)
    return NewVm(
        name=name,
        old=domain.name,
        file=domain.file,
        label=label.name,
        resources=tuple(sorted(used)),
        interfaces=_interfaces(policy, domain, label, resources, changes),
    )


def _interfaces(
    policy: AcmPolicy,
    domain: AcmDomain,
    label: NewLabel,
    resources: Mapping[str, NewResource],
    changes: list[Dropped],
) -> tuple[str, ...] | None:
    """The type of each network interface, where each has a label that gives it one of its own; else None."""
    if not any(domain.vifs):
        return None
    labels = {each.name: each for each in policy.resource_labels}
    types: list[str] = []
    for vif in domain.vifs:
        if vif is None or not _is_ours(policy, vif):
            continue
        worn = resources[label_key(_known(labels, vif, "resource label").name)]
        types += sorted(set(worn.types) & set(label.types))[:2]
    if len(types) == len(set(types)) == len(domain.vifs):
        return tuple(types)
    why = "an interface has one type here, another than the others have: the default is one for each type of the label"
    changes.append(dropped("domain/vif", domain.name, why))
    return None


def _is_ours(policy: AcmPolicy, reference: AcmReference) -> bool:
    """A reference without a policy, or to a policy without a name, can only mean this one."""
    return not reference.policy or not policy.name or reference.policy == policy.name


def _known(names: Mapping[str, Known], reference: AcmReference, kind: str) -> Known:
    found = names.get(reference.label)
    if found is None:
        close = nearest(reference.label, names)
        raise BadInput(
            f"unknown {kind}",
            where=reference.where,
            expected="one of: " + (", ".join(list(names)[:8])[:200] or "the policy has none"),
            found=repr(reference.label[:80]),
            remedy=f"Did you mean {close}?" if close else "",
        )
    return found
