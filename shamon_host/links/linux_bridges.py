"""Type bridges and their ports.

A device is up only while it is a port of its bridge, and becomes one while it is down: there is no moment at which a
link's device takes part without its isolated flag, nor one at which it talks to the host.
"""

from shamon_host.domain.errors import BackendFailed
from shamon_host.links.desired import passage_name
from shamon_host.links.linux_devices import Device, Devices
from shamon_host.links.model import BRIDGE_PREFIX, PASSAGE_PREFIX, TUNNEL_PREFIX, Bridge, Tunnel


def read_bridges(devices: Devices) -> dict[str, Bridge]:
    """Everything named as a type's bridge; what is no bridge at all is not sealed and has no ports."""
    found = devices.read()
    with_address = devices.indices_with_address()
    ports: dict[int, dict[str, bool]] = {}
    for port in found.values():
        ports.setdefault(port.master, {})[port.name] = bool(port.isolated)
    return {
        name: Bridge(
            name=name,
            ports=ports.get(device.index, {}) if device.kind == "bridge" else {},
            sealed=_is_sealed(devices, device) and device.index not in with_address,
            faulty={
                port.name: ", ".join(port.faults)
                for port in found.values()
                if port.master == device.index and port.faults and device.kind == "bridge"
            },
        )
        for name, device in found.items()
        if name.startswith(BRIDGE_PREFIX)
    }


def stray_devices(devices: Devices, tunnels: frozenset[Tunnel]) -> tuple[str, ...]:
    """In words: devices named as a link's, or as a passage beside one, that are none."""
    ours = {name for tunnel in tunnels for name in (tunnel.interface, passage_name(tunnel.local_port))}
    return tuple(
        f"device {name} of kind {device.kind or 'unknown'} is no link's"
        for name, device in sorted(devices.read().items())
        if name.startswith((TUNNEL_PREFIX, PASSAGE_PREFIX)) and name not in ours
    )


def create_bridge(devices: Devices, name: str) -> None:
    """Make it, or make it right; what has its name and is no bridge goes. Raises BackendFailed."""
    device = devices.find(name)
    if device is not None and (device.kind != "bridge" or device.faults or device.master):
        delete_bridge(devices, name)
        device = None
    if device is None:
        devices.create_bridge(name)
    elif not _is_sealed(devices, device) or device.index in devices.indices_with_address():
        # Addresses, and with them routes, go for good only with the device; its ports come back by the next plan.
        delete_bridge(devices, name)
        devices.create_bridge(name)
    devices.set_ipv6_off(name)
    devices.set_forwarding_off(name)
    devices.set_up(name, up=True)
    device = devices.find(name)
    if device is None or not _is_sealed(devices, device) or device.index in devices.indices_with_address():
        raise BackendFailed("the bridge is not sealed", where=name, expected="no address, IPv6 off, no forwarding")


def delete_bridge(devices: Devices, name: str) -> None:
    """Ports are detached first, so that none is left up without a bridge. No error if there is none."""
    found = devices.read()
    device = found.get(name)
    if device is None:
        return
    for port in found.values():
        if port.master == device.index:
            _detach(devices, port.name)
    devices.remove(name)
    if devices.exists(name):
        raise BackendFailed("the bridge is still there", where=name)


def attach_port(devices: Devices, bridge: str, interface: str, *, isolated: bool) -> None:
    """Raises BackendFailed if one of them is missing."""
    master, device = devices.find(bridge), devices.find(interface)
    if master is None or master.kind != "bridge" or not bridge.startswith(BRIDGE_PREFIX):
        raise BackendFailed("there is no such bridge", where=bridge)
    if device is None:
        raise BackendFailed("there is no such device", where=interface)
    if (device.master, device.isolated, device.up, device.faults) == (master.index, isolated, True, ()):
        return
    devices.set_up(interface, up=False)
    if device.master != master.index:
        devices.set_master(interface, master.index)
        device = devices.find(interface)
    if device is None or device.isolated != isolated or device.faults:
        devices.set_port(interface, isolated=isolated, faults=() if device is None else device.faults)
    devices.set_ipv6_off(interface)
    _check_port(devices.find(interface), master.index, interface, isolated)
    devices.set_up(interface, up=True)


def detach_port(devices: Devices, interface: str) -> None:
    """Out of its type's bridge, and down. No error if it is in none."""
    device = devices.find(interface)
    bridge = devices.find_index(device.master) if device is not None and device.master else None
    if bridge is not None and bridge.name.startswith(BRIDGE_PREFIX):
        _detach(devices, interface)


def _detach(devices: Devices, interface: str) -> None:
    devices.set_up(interface, up=False)
    devices.set_master(interface, 0)
    device = devices.find(interface)
    if device is not None and device.master:
        raise BackendFailed("the port is still in its bridge", where=interface)


def _check_port(device: Device | None, master: int, interface: str, isolated: bool) -> None:
    if device is None or (device.master, device.isolated, device.faults) != (master, isolated, ()):
        raise BackendFailed("the port reads back otherwise", where=interface, found=str(device))


def _is_sealed(devices: Devices, device: Device) -> bool:
    return (
        device.kind == "bridge"
        and device.up
        and not device.master
        and not device.faults
        and devices.ip_is_off(device.name)
    )
