"""Addresses of VMs' interfaces: which ones a policy may declare, and which ones it leaves open.

A declared address is pinned at the VM's tap (`links.station`). Where a VM of a type has none declared, it may use any,
those of others too: `undeclared` says where that is so.
"""

from collections.abc import Iterator, Mapping
from ipaddress import IPv6Address, ip_address

from shamon_host.domain.errors import BadInput
from shamon_host.domain.findings import Finding, quoted
from shamon_host.domain.labels import HostName, TypeName, VmName
from shamon_host.domain.policy import Policy

MAX_ADDRESSES = 64
"""Of one interface. Each IPv6 address costs a rule at the tap."""
_BROADCAST = "255.255.255.255"


def interface_address(text: str) -> str:
    """An address that an interface can have, in its usual form. Raises BadInput for any other text."""
    try:
        address = ip_address(text)
    except ValueError:
        raise BadInput("not an address", expected="an IPv4 or IPv6 address", found=repr(text[:80])) from None
    if str(address) != text:
        raise BadInput("not the usual form of the address", expected=str(address), found=text[:80])
    if address.is_unspecified or address.is_multicast or address.is_loopback or text == _BROADCAST:
        raise BadInput("not the address of one interface on a network", found=text[:80])
    if isinstance(address, IPv6Address) and (address.ipv4_mapped or address.scope_id):
        raise BadInput("an address that stands for another one", expected="without a prefix or zone", found=text[:80])
    return text


def undeclared(policy: Policy) -> tuple[tuple[VmName, TypeName], ...]:
    """Interfaces, by VM and type, whose addresses the policy does not say."""
    return tuple(
        (vm, name)
        for vm, entry in sorted(policy.vms.items())
        for name in policy.interfaces_of(vm)
        if name not in entry.addresses
    )


def underlay_families(policy: Policy) -> Mapping[int, tuple[HostName, ...]]:
    """Version of IP, 4 or 6 → hosts with such an address. Between hosts of two families there is no link."""
    versions: dict[int, list[HostName]] = {}
    for name, host in sorted(policy.hosts.items()):
        versions.setdefault(ip_address(host.address).version, []).append(name)
    return {version: tuple(hosts) for version, hosts in sorted(versions.items())}


def address_mistakes(policy: Policy) -> Iterator[Finding]:
    """What is wrong with the addresses of VMs: each belongs to one interface of its type, in the whole coalition."""
    holders: dict[tuple[TypeName, str], VmName] = {}
    for vm, entry in sorted(policy.vms.items()):
        known = _interfaces(policy, vm)
        for name, addresses in sorted(entry.addresses.items()):
            key = f"vms.{quoted(vm)}.addresses.{quoted(name)}"
            if known is not None and name not in known:
                yield Finding(
                    key=key,
                    what=f"it has no interface for this type: {name}",
                    expected=", ".join(known) or "no addresses",
                    found=name,
                )
            if len(addresses) > MAX_ADDRESSES:
                yield Finding(
                    key=key,
                    what="too many addresses for an interface",
                    expected=f"at most {MAX_ADDRESSES}",
                    found=str(len(addresses)),
                )
            for address in sorted(addresses):
                yield from _address(key, address)
                first = holders.setdefault((name, address), vm)
                if first != vm:
                    yield Finding(
                        key=key,
                        what=f"the address of {first} too",
                        expected=f"an address of its own for every VM of {name}",
                        found=address,
                    )


def _interfaces(policy: Policy, vm: VmName) -> tuple[TypeName, ...] | None:
    """None for a VM whose label is not there, which is another mistake."""
    try:
        return policy.interfaces_of(vm)
    except KeyError:
        return None


def _address(key: str, address: str) -> Iterator[Finding]:
    try:
        interface_address(address)
    except BadInput as error:
        yield Finding(key=key, what=error.what, expected=error.expected, found=error.found)
