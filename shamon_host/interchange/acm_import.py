"""Import of policies of sHype/ACM, the mandatory access control of Xen 3.0 to 3.4, into the language of this project.

What comes out is a policy file as text, for a person to look at and complete, and a list of everything that could not
be kept as it was. The file forbids what the policy forbade: whatever has no equal here is left out on the side of less
access, or the import is refused.
"""

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from shamon_host.domain.errors import BadInput
from shamon_host.domain.labels import UNLABELLED, plain_name
from shamon_host.domain.policy_file import MAX_POLICY_BYTES
from shamon_host.interchange.acm_labelled import read_domains, read_resources
from shamon_host.interchange.acm_machines import labels_in_use, translate_domains, translate_resources
from shamon_host.interchange.acm_model import UNLABELED, AcmPolicy, Dropped, How, changed, dropped, renamed
from shamon_host.interchange.acm_names import plain
from shamon_host.interchange.acm_policy_file import read_policy
from shamon_host.interchange.acm_text import Host, policy_text
from shamon_host.interchange.acm_translation import Translation, translate

__all__ = ["Dropped", "Host", "How", "Imported", "import_acm"]

_FROM = "VirtualMachineLabel/Name[@from]"
_EXAMPLE_ADDRESS = "192.0.2.1"
"""Of the block for documentation, RFC 5737."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """`toml`: a policy file. It can be read as it is if no domains were imported, whose images have no digests yet."""

    toml: str
    dropped: tuple[Dropped, ...]
    """Everything that is not in it as it was, renamed things too."""


def import_acm(
    policy_xml: bytes,
    *,
    labels_xml: bytes | None = None,
    domains: Mapping[str, bytes] | None = None,
    resources: bytes | None = None,
    coalition: str,
    host: Host | None = None,
    policy_source: str = "policy",
    labels_source: str = "labels",
    resources_source: str = "resource_labels",
) -> Imported:
    """Import a policy; equal arguments give an equal file.

    `labels_xml`: the policy's `-security_label_template.xml`, if it has one. `domains`: file name → configuration of a
    domain. `resources`: Xen's `resource_labels`. `host`: None leaves its address to be completed. The sources name
    the files in errors. Raises BadInput, with file, element and line, for what Xen would not have taken either.
    """
    plain_name(coalition, "coalition name")
    host_entry = _checked(host) if host else Host(name="host", address=_EXAMPLE_ADDRESS)
    policy = read_policy(policy_xml, source=policy_source, labels=labels_xml, labels_source=labels_source)
    worn = read_resources(resources, source=resources_source) if resources is not None else ()
    machines = read_domains(domains or {})
    used = labels_in_use(policy, machines)
    changes: list[Dropped] = []
    translation = translate(policy, changes, coalition=coalition, bootstrap_is_used=policy.bootstrap in used)
    new_resources = translate_resources(policy, worn, translation, changes)
    renames = _renames(policy, translation, changes)
    toml = policy_text(
        policy,
        translation,
        coalition=coalition,
        host=host_entry,
        address_is_known=host is not None,
        resources=tuple(new_resources.values()),
        vms=translate_domains(policy, machines, new_resources, translation, changes),
        renames=renames,
    )
    if len(toml) > MAX_POLICY_BYTES:
        raise BadInput(
            "the policy becomes too large", where=policy_source, expected=f"at most {MAX_POLICY_BYTES} bytes"
        )
    return Imported(toml=toml, dropped=(*_header_changes(policy, coalition, renames), *changes))


def _checked(host: Host) -> Host:
    plain_name(host.name, "host name")
    try:
        return Host(name=host.name, address=str(ipaddress.ip_address(host.address)))
    except ValueError as error:
        raise BadInput(
            "not an address",
            where=f"host {host.name}",
            expected="an IPv4 or IPv6 address",
            found=repr(host.address[:80]),
        ) from error


def _renames(policy: AcmPolicy, translation: Translation, changes: list[Dropped]) -> dict[str, str]:
    """Old → new name of labels of VMs that the policy before called otherwise."""
    labels, renames = translation.labels, dict[str, str]()
    names = {label.name for label in labels.values()}
    for label in policy.vm_labels:
        old, new = plain(label.before), labels.get(label.name)
        if not label.before:
            continue
        if new is None:
            why = "it is no label of VMs here"
        elif label.before in UNLABELED or old == UNLABELLED.name:
            why = "what was unlabelled has no name to rename"
        elif old == new.name:
            why = "the names are the same in lower case"
        elif old in names:
            why = "another label has the old name now"
        elif old in renames:
            why = "another label has taken its place already"
        else:
            renames[old] = new.name
            if old != label.before:
                changes.append(renamed(_FROM, label.before, old, "names are in lower case here"))
            continue
        changes.append(dropped(_FROM, label.before, f"{label.name} was called so: {why}"))
    return renames


def _header_changes(policy: AcmPolicy, coalition: str, renames: Mapping[str, str]) -> Iterable[Dropped]:
    if policy.name and policy.name != coalition:
        yield renamed("PolicyName", policy.name, coalition, "a policy is called after its coalition here")
    if policy.version:
        became = "2" if policy.follows or renames else "1"
        yield changed("Version", policy.version, became, "versions are counted from 1 here")
    if policy.follows or renames:
        why = "a version names the one before by its digest, which is to be completed"
        yield changed("FromPolicy", policy.follows, "coalition.parent", why)
    for element, text in policy.remarks:
        yield dropped(element, text, "there is no such key; it is in a comment")
