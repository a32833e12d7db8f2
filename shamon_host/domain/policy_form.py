"""The canonical form of a policy, and its digest: what hosts compare in the handshake, what is signed, and what a
successor names.

The form has the structure of the policy file, with every default written out, as canonical JSON; `policy_file` reads
both. Comments, order and defaults of the file that it came from make no difference.
"""

from collections.abc import Iterable
from dataclasses import asdict, replace
from enum import StrEnum
from typing import Any

from shamon_host.domain.canonical import canonical_digest, canonical_json
from shamon_host.domain.overlay import Overlay
from shamon_host.domain.policy import HypervisorKind, Intervals, PinnedImage, Policy
from shamon_host.domain.quarantine import Grade

FORMAT = "shamon-policy-2"


def policy_document(policy: Policy) -> dict[str, Any]:
    """Everything that the policy says, but its digest, in JSON's types."""
    document: dict[str, Any] = {
        "format": FORMAT,
        "coalition": _given(
            name=policy.coalition,
            version=policy.version,
            parent=policy.parent,
            expires=policy.expires_s,
            primary=policy.primary.value,
        ),
        "keys": {name: {"public": public} for name, public in policy.keys.items()},
        "organisations": {name: _given(key=each.key) for name, each in policy.organisations.items()},
        "departments": {name: {"of": each.of} for name, each in policy.departments.items()},
        "walls": sorted(policy.walls),
        "types": {
            name: _given(
                owner=each.owner,
                on_failure=each.on_failure.value,
                tpm=each.tpm.value,
                confidentiality=each.confidentiality,
                integrity=each.integrity,
                apart=sorted(each.apart),
                downgraders=sorted(each.downgraders),
                equivalent=sorted(each.equivalent),
            )
            for name, each in policy.definitions.items()
        },
        "labels": {
            name: _given(
                types=sorted(label.types - label.read_only - label.write_only),
                reads=sorted(label.read_only),
                writes=sorted(label.write_only),
                walls=sorted(label.walls),
                # left out where it is the default, as in policies from before there was this key
                quarantine=None if label.quarantine is Grade.SUSPEND else label.quarantine.value,
            )
            for name, label in policy.vm_labels.items()
        },
        "resources": {
            name: {"inaccessible": True, "kind": label.kind.value}
            if label.inaccessible
            else _given(types=sorted(label.types), kind=label.kind.value, sha256=label.sha256 or None)
            for name, label in policy.resource_labels.items()
        },
        "conflicts": {name: {"types": sorted(members)} for name, members in policy.conflict_sets.items()},
        "hosts": {
            name: _given(
                address=host.address,
                port=host.port,
                types=sorted(host.types),
                starting=_listed(host.starting),
                hypervisor=_unless(host.hypervisor, HypervisorKind.QEMU),
                mac_vm=host.mac_vm,
            )
            for name, host in policy.hosts.items()
        },
        "images": {name: _image(image) for name, image in policy.images.items()},
        "vms": {
            name: _given(
                label=vm.label,
                image=vm.image,
                host=vm.host,
                may_move_to=sorted(vm.may_move_to) or None,
                resources=sorted(vm.resources),
                interfaces=None if vm.interfaces is None else list(vm.interfaces),
                addresses={name: sorted(addresses) for name, addresses in vm.addresses.items()} or None,
                quarantine=None if vm.quarantine is None else vm.quarantine.value,
                attest=vm.attest,
            )
            for name, vm in policy.vms.items()
        },
        "overlays": {name: _overlay(overlay) for name, overlay in policy.overlays.items()},
        "renames": {"types": dict(policy.renames.types), "labels": dict(policy.renames.labels)},
        "intervals": {
            "period_s": float(policy.intervals.period_s),
            "lease_s": float(policy.intervals.lease_s),
            "margin_s": float(policy.intervals.margin_s),
            "timeout_s": float(policy.intervals.timeout_s),
            "action_delay_s": float(policy.intervals.action_delay_s),
            **_rekey(policy.intervals),
        },
        "demands": {
            "allow_software_tpm": policy.demands.allow_software_tpm,
            **({"allow_sha1": True} if policy.demands.allow_sha1 else {}),
            "empty_pcrs": sorted(policy.demands.empty_pcrs),
        },
    }
    if policy.guests:  # left out where there is none, as in policies from before there were any
        document["guests"] = {
            name: {
                "sha256": guest.sha256,
                "period_s": float(guest.period_s),
                "lease_s": float(guest.lease_s),
                "on_failure": guest.on_failure.value,
            }
            for name, guest in policy.guests.items()
        }
    if policy.signing is not None:
        document["signing"] = {"threshold": policy.signing.threshold, "keys": sorted(policy.signing.keys)}
    return document


def _rekey(intervals: Intervals) -> dict[str, Any]:
    """Left out where they are the defaults, as in policies from before there were these keys."""
    default = Intervals()
    return {
        name: getattr(intervals, name)
        for name in ("rekey_bytes", "rekey_packets")
        if getattr(intervals, name) != getattr(default, name)
    }


def _unless(value: StrEnum, default: StrEnum) -> str | None:
    """Left out where it is the default, as in policies from before there was this key."""
    return None if value is default else value.value


def _image(image: PinnedImage) -> dict[str, Any]:
    return {"sha256": image.sha256, **(asdict(image.boot) if image.boot is not None else {})}


def _overlay(overlay: Overlay) -> dict[str, Any]:
    return _given(
        label=overlay.label,
        peers=_listed(overlay.peers),
        ports=None if overlay.ports is None else [str(port) for port in sorted(overlay.ports)],
        times=None if overlay.times is None else sorted(str(window) for window in overlay.times),
        rate_bytes_s=overlay.rate_bytes_s,
    )


def _given(**fields: Any) -> dict[str, Any]:
    """The fields that are there: a file has no word for None."""
    return {name: value for name, value in fields.items() if value is not None}


def _listed(names: Iterable[str] | None) -> list[str] | None:
    return None if names is None else sorted(names)


def policy_bytes(policy: Policy) -> bytes:
    """The canonical form. Raises BadInput for a policy without one (a NaN)."""
    return canonical_json(policy_document(policy))


def policy_digest(policy: Policy) -> str:
    """SHA-256 over the canonical form, in hexadecimal. Raises BadInput for a policy without one (a NaN)."""
    return canonical_digest(policy_document(policy))


def with_digest(policy: Policy) -> Policy:
    """The policy with the digest that it should have."""
    return replace(policy, digest=policy_digest(policy))
