"""Whose word a policy is: what signatures a next version lacks, and for which types another host's policy may speak.

Two hosts under different policies share a type only if whoever is responsible for it has signed the other's policy:
the coalition's signers for all types, or the organisation that owns the type for its own. Otherwise a host could write
a policy of its own in which its VMs have any label that it likes.
"""

from shamon_host.domain.authority import Requirement, coalition_requirement, required_signatures
from shamon_host.domain.errors import NotTrusted, ShamonError
from shamon_host.domain.labels import TypeName
from shamon_host.domain.policy import Policy
from shamon_host.domain.policy_form import policy_bytes
from shamon_host.peer.policy_envelope import assess, read_envelope


def lacking_signatures(envelope: bytes, policy: Policy, current: Policy | None) -> tuple[str, ...]:
    """Whose signatures under `policy` are missing for it to follow `current`, in words; () when none is.

    `envelope` is empty for a policy that came without one. An unsigned policy may follow an unsigned one.
    """
    try:
        requirements = required_signatures(policy, current)
        if not requirements:
            return ()
        if not envelope:
            return ("it came without signatures, and must have: " + "; ".join(each.reason for each in requirements),)
        read = read_envelope(envelope, source="its envelope")
        if read.payload != policy_bytes(policy):
            return ("its envelope is around another policy",)
        return tuple(str(each) for each in assess(read, requirements) if not each.met)
    except ShamonError as error:
        return (str(error),)


def lacking_signers(envelope: bytes, policy: Policy) -> tuple[str, ...]:
    """Whose signatures are missing for `policy` to be the first one on a host, in words: enough of its own signers'.

    Whoever set the host up chose it; that the organisations agreed was asked when it was made.
    """
    requirement = coalition_requirement(policy)
    if requirement is None:
        return ()
    if not envelope:
        return (f"it came without signatures, and must have: {requirement.reason}",)
    try:
        read = read_envelope(envelope, source="its envelope")
        if read.payload != policy_bytes(policy):
            return ("its envelope is around another policy",)
        return tuple(str(each) for each in assess(read, [requirement]) if not each.met)
    except ShamonError as error:
        return (str(error),)


def require_signers(envelope: bytes, current: Policy) -> None:
    """Raises NotTrusted unless enough signers of the version in force signed the envelope, BadInput if it is malformed.

    Asked before anything in the envelope is read: nothing else can make it count, and what is in it comes from a peer.
    """
    requirement = coalition_requirement(current)
    if requirement is None:
        return
    (assessment,) = assess(read_envelope(envelope, source="the envelope"), [requirement])
    if not assessment.met:
        raise NotTrusted("signatures are missing", found=str(assessment), remedy="See `shamon policy verify`.")


def authorised_types(envelope: bytes, theirs: Policy, own: Policy) -> frozenset[TypeName]:
    """The types of `own` for which `theirs` may speak, for whoever is responsible for them under `own` signed it.

    `envelope` comes from a peer. Raises BadInput for one that is malformed.
    """
    if not envelope:
        return frozenset()
    read = read_envelope(envelope, source="the peer's envelope")
    if read.payload != policy_bytes(theirs):
        return frozenset()
    whole = coalition_requirement(own)
    if whole is not None and assess(read, [whole])[0].met:
        return own.types
    owners = [each for each in own.organisations.values() if each.key is not None]
    alone = [Requirement(keys=frozenset({own.keys[str(each.key)]}), threshold=1, reason=each.name) for each in owners]
    signed = {each.name for each, found in zip(owners, assess(read, alone), strict=True) if found.met}
    owner_of = {name: own.organisation_of(name) for name in own.types}
    return frozenset(name for name, owner in owner_of.items() if owner is not None and owner.name in signed)
