"""The canonical form of a policy, and its digest: what hosts compare in the handshake, and what a successor names.

Comments, order and defaults of the file that it came from make no difference.
"""

from dataclasses import replace
from typing import Any

from shamon_host.domain.canonical import canonical_digest
from shamon_host.domain.policy import Policy

FORMAT = "shamon-policy-1"


def policy_document(policy: Policy) -> dict[str, Any]:
    """Everything that the policy says, but its digest, in JSON's types."""
    return {
        "format": FORMAT,
        "coalition": {"name": policy.coalition, "version": policy.version, "parent": policy.parent},
        "types": {name: policy.failure_actions.get(name, "keep") for name in policy.types},
        "labels": {name: sorted(label.types) for name, label in policy.vm_labels.items()},
        "resources": {name: sorted(label.types) for name, label in policy.resource_labels.items()},
        "conflicts": {name: sorted(members) for name, members in policy.conflict_sets.items()},
        "hosts": {
            name: {"address": host.address, "port": host.port, "types": sorted(host.types)}
            for name, host in policy.hosts.items()
        },
        "images": {name: image.sha256 for name, image in policy.images.items()},
        "vms": {
            name: {"label": vm.label, "image": vm.image, "host": vm.host, "resources": sorted(vm.resources)}
            for name, vm in policy.vms.items()
        },
        "intervals": {
            "period_s": float(policy.intervals.period_s),
            "lease_s": float(policy.intervals.lease_s),
            "margin_s": float(policy.intervals.margin_s),
            "timeout_s": float(policy.intervals.timeout_s),
            "action_delay_s": float(policy.intervals.action_delay_s),
        },
        "demands": {
            "allow_software_tpm": policy.demands.allow_software_tpm,
            "empty_pcrs": sorted(policy.demands.empty_pcrs),
        },
    }


def policy_digest(policy: Policy) -> str:
    """SHA-256 over the canonical form, in hexadecimal. Raises BadInput for a policy without one (a NaN)."""
    return canonical_digest(policy_document(policy))


def with_digest(policy: Policy) -> Policy:
    """The policy with the digest that it should have."""
    return replace(policy, digest=policy_digest(policy))
