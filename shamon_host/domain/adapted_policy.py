"""An adaptation as the next version of a policy: the additions made, ready to be read, signed and agreed to."""

from collections.abc import Collection, Container, Iterable
from dataclasses import replace

from shamon_host.domain.adaptation import Adaptation
from shamon_host.domain.additions import WallAddition
from shamon_host.domain.compatibility import compatibility
from shamon_host.domain.consistency import inconsistencies
from shamon_host.domain.errors import BadInput, Refused
from shamon_host.domain.flows import RESOURCE, FlowLabel, flow_system
from shamon_host.domain.labels import HostName, TypeName, VmLabel
from shamon_host.domain.policy import Organisation, Policy, Renames, TypeDefinition
from shamon_host.domain.policy_form import with_digest

_STEM = 56
"""Characters that are kept of a name which is taken, so that it may still be told apart by a number."""


def adapted_policy(own: Policy, peer: Policy, adaptation: Adaptation, hosts: Collection[HostName] = ()) -> Policy:
    """The version after `own` with the additions; `hosts` may then carry the wanted types.

    Who owns a type, or is named in a conflict set, comes with it, key and all. Raises Refused where there is no
    adaptation, or where it does not do in the policy what it is for; BadInput for hosts that `own` does not have, or
    where what is taken over contradicts what is there.
    """
    if not adaptation.possible:
        raise Refused("there is no adaptation", found=str(adaptation.obstacle))
    for host in sorted(set(hosts) - own.hosts.keys()):
        raise BadInput("the policy has no such host", expected=", ".join(sorted(own.hosts)), found=host[:80])
    policy = replace(own, version=own.version + 1, parent=own.digest, renames=Renames())
    for addition in adaptation.additions:
        match addition.what:
            case TypeDefinition():
                policy = _with_type(policy, peer, addition.what)
            case WallAddition():
                policy = _with_wall(policy, peer, addition.what)
            case FlowLabel():
                policy = _with_label(policy, peer, addition.what, addition.taken_from)
    carried = _wanted(_consistent(policy), peer, adaptation)
    entries = {
        name: replace(entry, types=entry.types | carried) if name in hosts else entry
        for name, entry in policy.hosts.items()
    }
    return with_digest(_consistent(replace(policy, hosts=entries)))


def _consistent(policy: Policy) -> Policy:
    for finding in inconsistencies(policy):
        raise BadInput("what is taken over contradicts the policy", where=finding.key, found=str(finding))
    return policy


def _wanted(policy: Policy, peer: Policy, adaptation: Adaptation) -> frozenset[TypeName]:
    """The policy's own names of the wanted types, all of which may now be shared. Raises Refused: what both have under
    one name may be put together otherwise, as a department that is part of another organisation."""
    shared = compatibility(flow_system(policy), flow_system(peer)).shared
    missing = adaptation.wanted.difference(shared, shared.values())
    if missing:
        raise Refused(
            "the version that results does not do what it is for",
            expected=f"{', '.join(sorted(missing))} to be shared",
            remedy="Compare the owners that both policies have, and what they are part of.",
        )
    return frozenset(name for name, theirs in shared.items() if not adaptation.wanted.isdisjoint((name, theirs)))


def _with_type(policy: Policy, peer: Policy, definition: TypeDefinition) -> Policy:
    policy = _with_walls_of(policy, peer, [*peer.owners_of(definition.name), *definition.apart])
    return replace(policy, definitions={**policy.definitions, definition.name: definition})


def _with_walls_of(policy: Policy, peer: Policy, names: Iterable[str]) -> Policy:
    """With those of the names that the policy lacks and that are the peer's owners of types, with what they are part
    of, or its further Chinese Wall types."""
    organisations, departments, keys = dict(policy.organisations), dict(policy.departments), dict(policy.keys)
    walls = set(policy.walls)
    for name in sorted(names):
        owner = name
        while owner in peer.departments:
            owner = departments.setdefault(owner, peer.departments[owner]).of
        if owner in peer.organisations and owner not in organisations:
            organisations[owner] = _with_key(peer, peer.organisations[owner], keys)
        elif owner in peer.walls and owner not in organisations:
            walls.add(owner)
    return replace(policy, organisations=organisations, departments=departments, keys=keys, walls=frozenset(walls))


def _with_key(peer: Policy, organisation: Organisation, keys: dict[str, str]) -> Organisation:
    """The organisation with its key, which is put into `keys` under a name that is free, or that it has there."""
    if organisation.key is None:
        return organisation
    public = peer.keys[organisation.key]
    name = next((name for name, known in keys.items() if known == public), None) or _free(organisation.key, keys)
    keys[name] = public
    return replace(organisation, key=name)


def _with_wall(policy: Policy, peer: Policy, wall: WallAddition) -> Policy:
    policy = _with_walls_of(policy, peer, wall.members)
    if wall.apart_of is not None:
        definition = policy.definitions[wall.apart_of]
        apart = definition.apart | (wall.members - {wall.apart_of})
        return replace(policy, definitions={**policy.definitions, wall.apart_of: replace(definition, apart=apart)})
    theirs = next((name for name, members in peer.conflict_sets.items() if members == wall.members), "taken")
    name = _free(theirs, policy.conflict_sets)
    return replace(policy, conflict_sets={**policy.conflict_sets, name: wall.members})


def _with_label(policy: Policy, peer: Policy, flow: FlowLabel, taken_from: str) -> Policy:
    """What a resource of the peer's lets flow comes as a resource: a label of VMs would have to keep to the levels and
    the conflict sets."""
    types: frozenset[TypeName] = flow.reads | flow.writes
    if taken_from.startswith(RESOURCE):
        theirs = peer.resource_labels[taken_from.removeprefix(RESOURCE)]
        resource = replace(theirs, name=_free(flow.name, policy.resource_labels), types=types)
        return replace(policy, resource_labels={**policy.resource_labels, resource.name: resource})
    label = VmLabel(
        name=flow.name, types=types, read_only=flow.reads - flow.writes, write_only=flow.writes - flow.reads
    )
    return replace(policy, vm_labels={**policy.vm_labels, flow.name: label})


def _free(name: str, taken: Container[str]) -> str:
    """The name, or one like it that is not taken."""
    number, free = 2, name
    while free in taken:
        number, free = number + 1, f"{name[:_STEM]}-{number}"
    return free
