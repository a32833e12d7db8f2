"""What the taps of this host's VMs may exchange with their bridges: what is the VM's own, one way types, and overlays
of the policy.

Pure: from the policy, the names of the taps and the time to a filter for each tap. All limits on a tap are joined by
`TapFilter.narrowed_by`, so an overlay can only take away.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from shamon_host.domain.errors import BadInput
from shamon_host.domain.labels import HostName, TypeName, VmName
from shamon_host.domain.overlay import Overlay
from shamon_host.domain.policy import Policy
from shamon_host.domain.results import Claim, ClaimStatus
from shamon_host.domain.time_windows import next_change_s, open_until
from shamon_host.hypervisor.report import parse_hypervisor_report
from shamon_host.hypervisor.vm_spec import interface_mac, tap_devices
from shamon_host.links.desired import bridge_name
from shamon_host.links.filter_report import ATTESTED_WINDOW_S, filters_from_document
from shamon_host.links.frame_facts import PortProtocol, PortRule
from shamon_host.links.model import TAP_PREFIX
from shamon_host.links.network_state import check_network_state
from shamon_host.links.station import Station
from shamon_host.links.tap_filter import TapFilter

LONGEST_PAUSE_S = 30.0
"""Windows are looked at this often at least: the wall clock may be stepped."""


def tap_filters(policy: Policy, taps: Mapping[VmName, tuple[str, ...]], wall_s: float) -> dict[str, TapFilter]:
    """Tap → its filter. `taps`: a VM's taps, one for each of its interfaces, in order.

    `wall_s`: seconds since the epoch, for windows of time.
    """
    return {
        device: joined(
            [
                TapFilter(device=device, own=station_of(policy, vm, index, name)),
                *_limits(policy, vm, device, name, wall_s),
            ]
        )
        for vm, devices in taps.items()
        for index, (device, name) in enumerate(zip(devices, policy.interfaces_of(vm), strict=True))
    }


def station_of(policy: Policy, vm: VmName, index: int, name: TypeName) -> Station:
    """Who a VM's interface is, the one with this index, which is for this type."""
    entry = policy.vms[vm]
    return Station(mac=interface_mac(policy.coalition, entry.host, vm, index), addresses=entry.addresses.get(name))


def check_reported_filters(network_state: bytes, hypervisor_report: bytes, *, host: HostName, policy: Policy) -> Claim:
    """The claim that a peer's network security state is as it must be, that each tap in a type's bridge is of a VM that
    has its interface there, and that its VMs' taps have the limits that its policy asks for. Never raises; both reports
    come from the peer."""
    claim = check_network_state(network_state)
    if claim.status is not ClaimStatus.PASS:
        return claim
    try:
        label_map = parse_hypervisor_report(hypervisor_report).label_map
        taps = {vm: tap_devices(policy, label_map, vm) for vm in policy.possible_on(host) if vm in label_map.vms}
        state = json.loads(network_state)
        found = filters_from_document(state["filters"])
        homes = {
            device: bridge_name(label_map.types[name])
            for vm, devices in taps.items()
            for device, name in zip(devices, policy.interfaces_of(vm), strict=True)
            if name in label_map.types
        }
        bridges = [
            (port, name)
            for name, bridge in state["bridges"].items()
            for port in bridge["ports"]
            if port.startswith(TAP_PREFIX)
        ]
    except (BadInput, ValueError, KeyError, TypeError) as error:
        return replace(claim, status=ClaimStatus.FAIL, reason=f"the filters of taps cannot be read: {error}"[:500])
    for device, name in sorted(bridges):
        if homes.get(device) != name:
            return replace(
                claim,
                status=ClaimStatus.FAIL,
                reason="network security state: a tap is in the bridge of a type that its VM has no interface for",
                where=device[:40],
                expected=homes.get(device, "no bridge"),
                found=name[:40],
            )
    for device, wanted in tap_filters(policy, taps, 0.0).items():
        limits = found.get(device)
        if limits is None or _without_time(limits) != _without_time(wanted):
            return replace(
                claim,
                status=ClaimStatus.FAIL,
                reason="network security state: a VM's tap has other limits than the policy says",
                where=device,
                expected=str(_without_time(wanted))[:400],
                found=str(limits and _without_time(limits))[:400],
            )
    return claim


def _without_time(limits: TapFilter) -> TapFilter:
    """A window, whatever is left of it, as a report has it."""
    return limits if limits.open_s is None else replace(limits, open_s=ATTESTED_WINDOW_S)


def joined(limits: Iterable[TapFilter]) -> TapFilter:
    """What all of them leave. At least one; all for one tap."""
    first, *rest = limits
    for limit in rest:
        first = first.narrowed_by(limit)
    return first


def until_change_s(policy: Policy, wall_s: float) -> float:
    """Seconds until a window of an overlay opens or closes; at most `LONGEST_PAUSE_S`."""
    changes = [
        next_change_s(overlay.times, wall_s) for overlay in policy.overlays.values() if overlay.times is not None
    ]
    return min([LONGEST_PAUSE_S, *changes])


def _limits(policy: Policy, vm: VmName, device: str, name: TypeName, wall_s: float) -> Iterator[TapFilter]:
    label = policy.label_of(vm)
    if name in label.read_only or name in label.write_only:
        yield TapFilter(device=device, sends=name not in label.read_only, receives=name not in label.write_only)
    for _, overlay in sorted(policy.overlays.items()):
        if overlay.label == label.name:
            yield _of_overlay(policy, overlay, device, name, wall_s)


def _of_overlay(policy: Policy, overlay: Overlay, device: str, name: TypeName, wall_s: float) -> TapFilter:
    opening = None if overlay.times is None else (open_until(overlay.times, wall_s) or 0.0)
    return TapFilter(
        device=device,
        peers=None
        if overlay.peers is None
        else frozenset(
            interface_mac(policy.coalition, policy.vms[peer].host, peer, index)
            for peer in overlay.peers
            for index, other in enumerate(policy.interfaces_of(peer))
            if other == name
        ),
        ports=None
        if overlay.ports is None
        else tuple(
            PortRule(protocol=PortProtocol(limit.transport.value), port=limit.port) for limit in sorted(overlay.ports)
        ),
        rate_bytes_s=overlay.rate_bytes_s,
        open_s=opening,
    )
