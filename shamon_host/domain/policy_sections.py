"""The sections of a policy, from tables of a parser to values: what a key may be called and hold.

Names are not resolved here; `consistency` does that. What cannot be read becomes a finding of the `Reader`.
"""

from collections.abc import Mapping
from typing import Any

from shamon_host.domain.guest_demand import AfterFailure, GuestDemand
from shamon_host.domain.key_usage import REKEY_BYTES, REKEY_PACKETS
from shamon_host.domain.labels import HostName, ResourceKind, ResourceLabel, TypeName, VmLabel, VmName
from shamon_host.domain.overlay import MAX_RATE_BYTES_S, Overlay, parse_port
from shamon_host.domain.policy import (
    LEVELS,
    Demands,
    Department,
    FailureAction,
    HostEntry,
    HypervisorKind,
    Intervals,
    Organisation,
    PinnedBoot,
    PinnedImage,
    Policy,
    Primary,
    Renames,
    Signing,
    TpmDemand,
    TypeDefinition,
    VmEntry,
)
from shamon_host.domain.quarantine import Grade
from shamon_host.domain.ste import listed
from shamon_host.domain.time_windows import parse_window
from shamon_host.domain.toml_reader import Reader

MAX_KEYS = 64
DEFAULT_PORT = 7443
SECTIONS = (
    "coalition",
    "signing",
    "keys",
    "organisations",
    "departments",
    "walls",
    "types",
    "labels",
    "resources",
    "conflicts",
    "hosts",
    "images",
    "guests",
    "vms",
    "overlays",
    "renames",
    "intervals",
    "demands",
)
_DEFINITION = (
    "owner",
    "on_failure",
    "tpm",
    "confidentiality",
    "integrity",
    "apart",
    "downgraders",
    "equivalent",
)
_BOOT = ("kernel_sha256", "initrd_sha256", "cmdline")
_VM = ("label", "image", "host", "may_move_to", "resources", "interfaces", "addresses", "quarantine", "attest")
_INTERVALS = (
    "period_s",
    "lease_s",
    "margin_s",
    "timeout_s",
    "action_delay_s",
    "rekey_bytes",
    "rekey_packets",
)
_RATES = range(1000, MAX_RATE_BYTES_S + 1)


def read_sections(reader: Reader) -> Policy:
    """The policy as far as it can be read, names unresolved and without its digest."""
    reader.only("", reader.root, SECTIONS)
    coalition = reader.table("coalition", required=True)
    reader.only("coalition", coalition, ("name", "version", "parent", "expires", "primary"))
    return Policy(
        coalition=reader.name("coalition", coalition, "name"),
        version=reader.integer("coalition", coalition, "version", allowed=range(1, 1 << 63)),
        parent=reader.digest("coalition", coalition, "parent") if "parent" in coalition else None,
        expires_s=reader.moment("coalition", coalition, "expires"),
        primary=Primary(reader.choice("coalition", coalition, "primary", tuple(Primary), default=Primary.CHINESE_WALL)),
        signing=_signing(reader),
        keys=_keys(reader),
        organisations=_organisations(reader),
        departments=_departments(reader),
        walls=reader.names("", reader.root, "walls", what="Chinese Wall types"),
        definitions=_definitions(reader),
        vm_labels=_labels(reader),
        resource_labels=_resources(reader),
        conflict_sets=_conflicts(reader),
        hosts=_hosts(reader),
        images=_images(reader),
        guests=_guests(reader),
        vms=_vms(reader),
        overlays=_overlays(reader),
        renames=_renames(reader),
        intervals=_intervals(reader),
        demands=_demands(reader),
        digest="",
    )


def _signing(reader: Reader) -> Signing | None:
    if "signing" not in reader.root:
        return None
    table = reader.table("signing")
    reader.only("signing", table, ("threshold", "keys"))
    return Signing(
        threshold=reader.integer("signing", table, "threshold", allowed=range(1, MAX_KEYS + 1)),
        keys=tuple(sorted(reader.names("signing", table, "keys", what="names of keys"))),
    )


def _keys(reader: Reader) -> dict[str, str]:
    keys = {}
    for name, table in reader.tables("keys"):
        key = reader.join("keys", name)
        reader.only(key, table, ("public",))
        keys[name] = reader.string(key, table, "public", what="a public key in base64")
    return keys


def _organisations(reader: Reader) -> dict[str, Organisation]:
    organisations = {}
    for name, table in reader.tables("organisations"):
        key = reader.join("organisations", name)
        reader.only(key, table, ("key",))
        own = reader.string(key, table, "key", what="the name of a key") if "key" in table else None
        organisations[name] = Organisation(name=name, key=own)
    return organisations


def _departments(reader: Reader) -> dict[str, Department]:
    departments = {}
    for name, table in reader.tables("departments", type_names=True):
        key = reader.join("departments", name)
        reader.only(key, table, ("of",))
        of = reader.string(key, table, "of", what="an organisation or a department")
        departments[name] = Department(name=name, of=of)
    return departments


def _definitions(reader: Reader) -> dict[TypeName, TypeDefinition]:
    """All types, from a list of names or from a table for each; whose they are follows from the name."""
    value = reader.root.get("types")
    organisations = reader.root.get("organisations")
    known = organisations if isinstance(organisations, dict) else {}

    def owner(name: str) -> str | None:
        first = name.partition("/")[0]
        return first if first in known else None

    if not isinstance(value, dict):
        names = reader.types("", reader.root, "types")
        return {name: TypeDefinition(name=name, owner=owner(name)) for name in names}
    definitions = {}
    for name, table in reader.tables("types", type_names=True):
        key = reader.join("types", name)
        reader.only(key, table, _DEFINITION)
        definitions[TypeName(name)] = TypeDefinition(
            name=TypeName(name),
            owner=reader.string(key, table, "owner", what="an organisation or a department")
            if "owner" in table
            else owner(name),
            on_failure=FailureAction(
                reader.choice(key, table, "on_failure", tuple(FailureAction), default=FailureAction.KEEP)
            ),
            tpm=TpmDemand(reader.choice(key, table, "tpm", tuple(TpmDemand), default=TpmDemand.ANY)),
            confidentiality=reader.integer(key, table, "confidentiality", allowed=LEVELS, default=0),
            integrity=reader.integer(key, table, "integrity", allowed=LEVELS, default=0),
            apart=frozenset(reader.strings(key, table, "apart", what="Chinese Wall types")),
            downgraders=reader.names(key, table, "downgraders", what="labels"),
            equivalent=reader.types(key, table, "equivalent", required=False),
        )
    return definitions


def _labels(reader: Reader) -> dict[str, VmLabel]:
    labels = {}
    for name, table in reader.tables("labels"):
        key = reader.join("labels", name)
        reader.only(key, table, ("types", "reads", "writes", "walls", "quarantine"))
        read_only = reader.types(key, table, "reads", required=False)
        write_only = reader.types(key, table, "writes", required=False)
        both = reader.types(key, table, "types", required=not (read_only or write_only))
        for one, other, mistake in (
            (both & (read_only | write_only), "types", "in types already, which means both ways"),
            (read_only & write_only, "writes", "in reads too; what goes both ways belongs into types"),
        ):
            if one:
                reader.complain(key, other, mistake, found=listed(one))
        labels[name] = VmLabel(
            name=name,
            types=both | read_only | write_only,
            read_only=read_only,
            write_only=write_only - read_only,
            walls=frozenset(reader.strings(key, table, "walls", what="Chinese Wall types")),
            quarantine=Grade(reader.choice(key, table, "quarantine", tuple(Grade), default=Grade.SUSPEND)),
        )
    return labels


def _resources(reader: Reader) -> dict[str, ResourceLabel]:
    resources = {}
    for name, table in reader.tables("resources"):
        key = reader.join("resources", name)
        reader.only(key, table, ("types", "kind", "inaccessible", "sha256"))
        inaccessible = reader.boolean(key, table, "inaccessible", default=False)
        resources[name] = ResourceLabel(
            name=name,
            types=reader.types(key, table, "types", required=not inaccessible),
            kind=ResourceKind(reader.choice(key, table, "kind", tuple(ResourceKind), default=ResourceKind.DISK)),
            inaccessible=inaccessible,
            sha256=reader.digest(key, table, "sha256") if "sha256" in table else "",
        )
    return resources


def _conflicts(reader: Reader) -> dict[str, frozenset[str]]:
    sets = {}
    for name, table in reader.tables("conflicts"):
        key = reader.join("conflicts", name)
        reader.only(key, table, ("types",))
        if "types" not in table:
            reader.complain(key, "types", "missing", expected="a list of strings, Chinese Wall types")
        sets[name] = frozenset(reader.strings(key, table, "types", what="Chinese Wall types"))
    return sets


def _hosts(reader: Reader) -> dict[HostName, HostEntry]:
    hosts = {}
    for name, table in reader.tables("hosts"):
        key = reader.join("hosts", name)
        reader.only(key, table, ("address", "port", "types", "starting", "hypervisor", "mac_vm"))
        hosts[HostName(name)] = HostEntry(
            name=HostName(name),
            address=reader.string(key, table, "address", what="an IPv4 or IPv6 address"),
            port=reader.integer(key, table, "port", allowed=range(1, 65536), default=DEFAULT_PORT),
            types=reader.types(key, table, "types"),
            starting=reader.types(key, table, "starting") if "starting" in table else None,
            hypervisor=HypervisorKind(
                reader.choice(key, table, "hypervisor", tuple(HypervisorKind), default=HypervisorKind.QEMU)
            ),
            mac_vm=VmName(reader.string(key, table, "mac_vm", what="the name of a VM")) if "mac_vm" in table else None,
        )
    return hosts


def _images(reader: Reader) -> dict[str, PinnedImage]:
    images = {}
    for name, table in reader.tables("images"):
        key = reader.join("images", name)
        reader.only(key, table, ("sha256", *_BOOT))
        sha256 = reader.digest(key, table, "sha256")
        images[name] = PinnedImage(name=name, sha256=sha256, boot=_boot(reader, key, table))
    return images


def _boot(reader: Reader, key: str, table: Mapping[str, Any]) -> PinnedBoot | None:
    """All of it, or nothing."""
    if not any(name in table for name in _BOOT):
        return None
    return PinnedBoot(
        kernel_sha256=reader.digest(key, table, "kernel_sha256"),
        initrd_sha256=reader.digest(key, table, "initrd_sha256"),
        cmdline=reader.string(key, table, "cmdline", what="a kernel's command line"),
    )


def _guests(reader: Reader) -> dict[str, GuestDemand]:
    guests = {}
    for name, table in reader.tables("guests"):
        key, default = reader.join("guests", name), GuestDemand(name=name, sha256="")
        reader.only(key, table, ("sha256", "period_s", "lease_s", "on_failure"))
        guests[name] = GuestDemand(
            name=name,
            sha256=reader.digest(key, table, "sha256"),
            period_s=reader.number(key, table, "period_s", default=default.period_s),
            lease_s=reader.number(key, table, "lease_s", default=default.lease_s),
            on_failure=AfterFailure(
                reader.choice(key, table, "on_failure", tuple(AfterFailure), default=default.on_failure)
            ),
        )
    return guests


def _vms(reader: Reader) -> dict[VmName, VmEntry]:
    vms = {}
    for name, table in reader.tables("vms"):
        key = reader.join("vms", name)
        reader.only(key, table, _VM)
        vms[VmName(name)] = VmEntry(
            name=VmName(name),
            label=reader.string(key, table, "label", what="the name of a label"),
            image=reader.string(key, table, "image", what="the name of an image"),
            host=HostName(reader.string(key, table, "host", what="the name of a host")),
            may_move_to=frozenset(map(HostName, reader.strings(key, table, "may_move_to", what="names of hosts"))),
            resources=tuple(sorted(reader.strings(key, table, "resources", what="names of resources"))),
            interfaces=tuple(reader.type_list(key, table, "interfaces")) if "interfaces" in table else None,
            addresses=_addresses(reader, key, table),
            quarantine=Grade(reader.choice(key, table, "quarantine", tuple(Grade), default=Grade.SUSPEND))
            if "quarantine" in table
            else None,
            attest=reader.string(key, table, "attest", what="the name of a demand on guests")
            if "attest" in table
            else None,
        )
    return vms


def _addresses(reader: Reader, key: str, table: Mapping[str, Any]) -> dict[TypeName, frozenset[str]]:
    """Type → addresses of the interface for it."""
    inner, where = reader.inner_table(key, table, "addresses"), reader.join(key, "addresses")
    return {
        name: frozenset(reader.strings(where, inner, name, what="IPv4 and IPv6 addresses"))
        for name in reader.type_keys(where, inner)
    }


def _overlays(reader: Reader) -> dict[str, Overlay]:
    overlays = {}
    for name, table in reader.tables("overlays"):
        key = reader.join("overlays", name)
        reader.only(key, table, ("label", "peers", "ports", "times", "rate_bytes_s"))
        peers = reader.names(key, table, "peers", what="names of VMs") if "peers" in table else None
        overlays[name] = Overlay(
            name=name,
            label=reader.string(key, table, "label", what="the name of a label"),
            peers=None if peers is None else frozenset(map(VmName, peers)),
            ports=reader.parsed(key, table, "ports", what="ports such as tcp/443", parse=parse_port),
            times=reader.parsed(key, table, "times", what="times such as mon-fri 08:00-18:00", parse=parse_window),
            rate_bytes_s=reader.optional_integer(key, table, "rate_bytes_s", allowed=_RATES),
        )
    return overlays


def _renames(reader: Reader) -> Renames:
    table = reader.table("renames")
    reader.only("renames", table, ("types", "labels"))
    types = reader.pairs("renames", table, "types", are_types=True)
    return Renames(
        types={TypeName(old): TypeName(new) for old, new in types.items()},
        labels=reader.pairs("renames", table, "labels", are_types=False),
    )


def _intervals(reader: Reader) -> Intervals:
    table, default = reader.table("intervals"), Intervals()
    reader.only("intervals", table, _INTERVALS)
    return Intervals(
        period_s=reader.number("intervals", table, "period_s", default=default.period_s),
        lease_s=reader.number("intervals", table, "lease_s", default=default.lease_s),
        margin_s=reader.number("intervals", table, "margin_s", default=default.margin_s),
        timeout_s=reader.number("intervals", table, "timeout_s", default=default.timeout_s),
        action_delay_s=reader.number("intervals", table, "action_delay_s", default=default.action_delay_s),
        rekey_bytes=reader.integer("intervals", table, "rekey_bytes", allowed=REKEY_BYTES, default=default.rekey_bytes),
        rekey_packets=reader.integer(
            "intervals", table, "rekey_packets", allowed=REKEY_PACKETS, default=default.rekey_packets
        ),
    )


def _demands(reader: Reader) -> Demands:
    table, default = reader.table("demands"), Demands()
    reader.only("demands", table, ("allow_software_tpm", "allow_sha1", "empty_pcrs"))
    return Demands(
        allow_software_tpm=reader.boolean("demands", table, "allow_software_tpm", default=default.allow_software_tpm),
        allow_sha1=reader.boolean("demands", table, "allow_sha1", default=default.allow_sha1),
        empty_pcrs=reader.integers("demands", table, "empty_pcrs", allowed=range(24), default=default.empty_pcrs),
    )
