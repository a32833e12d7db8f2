"""Any policy as the text of a policy file, as an operator may write it: in short, or with every default written out."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta, timezone

from shamon_host.domain.labels import TypeName
from shamon_host.domain.policy import HypervisorKind, Policy

Line = tuple[str, str]
"""A key and its value as TOML; an empty value: the line is left out."""
LAST_MOMENT_S = 253402300799
"""What TOML dates end with."""


def toml_text(policy: Policy, *, terse: bool = False) -> str:
    """The policy file. `terse`: what says no more than the default is left out, and dates are in another zone."""
    tables: dict[str, list[Line]] = {
        "coalition": [
            ("name", text(policy.coalition)),
            ("version", str(policy.version)),
            ("parent", text(policy.parent) if policy.parent else ""),
            ("expires", "" if policy.expires_s is None else moment(policy.expires_s, other_zone=terse)),
            ("primary", "" if terse and policy.primary == "chinese-wall" else text(policy.primary)),
        ]
    }
    if policy.signing is not None:
        tables["signing"] = [("threshold", str(policy.signing.threshold)), ("keys", texts(policy.signing.keys))]
    for name, public in policy.keys.items():
        tables[f"keys.{quote(name)}"] = [("public", text(public))]
    for name, organisation in policy.organisations.items():
        tables[f"organisations.{quote(name)}"] = [("key", text(organisation.key) if organisation.key else "")]
    for name, department in policy.departments.items():
        tables[f"departments.{quote(name)}"] = [("of", text(department.of))]
    tables |= _types(policy, terse) | _labels(policy, terse) | _deployment(policy, terse)
    tables["renames.types"] = [(quote(old), text(new)) for old, new in policy.renames.types.items()]
    tables["renames.labels"] = [(quote(old), text(new)) for old, new in policy.renames.labels.items()]
    tables["intervals"] = [
        ("period_s", repr(policy.intervals.period_s)),
        ("lease_s", repr(policy.intervals.lease_s)),
        ("margin_s", repr(policy.intervals.margin_s)),
        ("timeout_s", repr(policy.intervals.timeout_s)),
        ("action_delay_s", repr(policy.intervals.action_delay_s)),
        ("rekey_bytes", str(policy.intervals.rekey_bytes)),
        ("rekey_packets", str(policy.intervals.rekey_packets)),
    ]
    tables["demands"] = [
        ("allow_software_tpm", str(policy.demands.allow_software_tpm).lower()),
        ("allow_sha1", str(policy.demands.allow_sha1).lower()),
        ("empty_pcrs", f"[{', '.join(map(str, policy.demands.empty_pcrs))}]"),
    ]
    first = "" if terse and not policy.walls else f"walls = {texts(policy.walls)}\n"
    return first + "".join(_table(name, lines) for name, lines in tables.items())


def _types(policy: Policy, terse: bool) -> dict[str, list[Line]]:
    tables: dict[str, list[Line]] = {}
    for name, each in policy.definitions.items():
        follows = name.partition("/")[0] if name.partition("/")[0] in policy.organisations else None
        tables[f"types.{quote(name)}"] = [
            ("owner", "" if each.owner is None or (terse and each.owner == follows) else text(each.owner)),
            ("on_failure", "" if terse and each.on_failure == "keep" else text(each.on_failure)),
            ("tpm", "" if terse and each.tpm == "any" else text(each.tpm)),
            ("confidentiality", "" if terse and not each.confidentiality else str(each.confidentiality)),
            ("integrity", "" if terse and not each.integrity else str(each.integrity)),
            ("apart", "" if terse and not each.apart else texts(each.apart)),
            ("downgraders", "" if terse and not each.downgraders else texts(each.downgraders)),
            ("equivalent", "" if terse and not each.equivalent else texts(each.equivalent)),
        ]
    return tables


def _labels(policy: Policy, terse: bool) -> dict[str, list[Line]]:
    tables: dict[str, list[Line]] = {}
    for name, label in policy.vm_labels.items():
        both = label.types - label.read_only - label.write_only
        tables[f"labels.{quote(name)}"] = [
            ("types", texts(both) if both else ""),
            ("reads", texts(label.read_only) if label.read_only else ""),
            ("writes", texts(label.write_only) if label.write_only else ""),
            ("walls", texts(label.walls) if label.walls else ""),
            ("quarantine", "" if terse and label.quarantine == "suspend" else text(label.quarantine)),
        ]
    for name, resource in policy.resource_labels.items():
        tables[f"resources.{quote(name)}"] = [
            ("inaccessible", "true" if resource.inaccessible else ""),
            ("kind", text(resource.kind)),
            ("types", texts(resource.types) if resource.types else ""),
            ("sha256", text(resource.sha256) if resource.sha256 else ""),
        ]
    for name, members in policy.conflict_sets.items():
        tables[f"conflicts.{quote(name)}"] = [("types", texts(members))]
    return tables


def _deployment(policy: Policy, terse: bool) -> dict[str, list[Line]]:
    tables: dict[str, list[Line]] = {}
    for name, host in policy.hosts.items():
        tables[f"hosts.{quote(name)}"] = [
            ("address", text(host.address)),
            ("port", "" if terse and host.port == 7443 else str(host.port)),
            ("types", texts(host.types)),
            ("starting", "" if host.starting is None else texts(host.starting)),
            ("hypervisor", "" if terse and host.hypervisor is HypervisorKind.QEMU else text(host.hypervisor)),
        ]
    for image_name, image in policy.images.items():
        tables[f"images.{quote(image_name)}"] = [("sha256", text(image.sha256))]
    for guest_name, guest in policy.guests.items():
        tables[f"guests.{quote(guest_name)}"] = [
            ("sha256", text(guest.sha256)),
            ("period_s", "" if terse and guest.period_s == 30 else repr(guest.period_s)),
            ("lease_s", "" if terse and guest.lease_s == 90 else repr(guest.lease_s)),
            ("on_failure", "" if terse and guest.on_failure == "keep" else text(guest.on_failure)),
        ]
    for vm_name, vm in policy.vms.items():
        tables[f"vms.{quote(vm_name)}"] = [
            ("label", text(vm.label)),
            ("image", text(vm.image)),
            ("host", text(vm.host)),
            ("may_move_to", "" if terse and not vm.may_move_to else texts(sorted(vm.may_move_to))),
            ("resources", "" if terse and not vm.resources else texts(vm.resources)),
            ("interfaces", "" if vm.interfaces is None else f"[{', '.join(map(text, vm.interfaces))}]"),
            ("addresses", "" if terse and not vm.addresses else _inline(vm.addresses)),
            ("quarantine", text(vm.quarantine) if vm.quarantine else ""),
            ("attest", text(vm.attest) if vm.attest else ""),
        ]
    for overlay_name, overlay in policy.overlays.items():
        tables[f"overlays.{quote(overlay_name)}"] = [
            ("label", text(overlay.label)),
            ("peers", "" if overlay.peers is None else texts(overlay.peers)),
            ("ports", "" if overlay.ports is None else texts(map(str, overlay.ports))),
            ("times", "" if overlay.times is None else texts(map(str, overlay.times))),
            ("rate_bytes_s", "" if overlay.rate_bytes_s is None else str(overlay.rate_bytes_s)),
        ]
    return tables


def _inline(addresses: Mapping[TypeName, frozenset[str]]) -> str:
    return "{" + ", ".join(f"{quote(name)} = {texts(each)}" for name, each in addresses.items()) + "}"


def _table(name: str, lines: Iterable[Line]) -> str:
    return f"\n[{name}]\n" + "".join(f"{key} = {value}\n" for key, value in lines if value)


def quote(name: str) -> str:
    return f'"{name}"'


def text(value: str) -> str:
    return f'"{value}"'


def texts(values: Iterable[str]) -> str:
    """In whatever order they come."""
    return f"[{', '.join(text(value) for value in values)}]"


def moment(seconds: int, *, other_zone: bool) -> str:
    if seconds > LAST_MOMENT_S - 86400:
        return str(seconds)
    zone = timezone(timedelta(hours=5, minutes=30)) if other_zone else UTC
    return datetime.fromtimestamp(seconds, tz=zone).isoformat()
