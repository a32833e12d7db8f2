"""The part of the daemon's API that is about VMs of this host, and the images that they are made from."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from shamon_host.daemon.api_fields import flag, text
from shamon_host.daemon.host_daemon import HostDaemon
from shamon_host.daemon.vm_recording import record_vm
from shamon_host.domain.errors import BadInput, Refused
from shamon_host.domain.labels import HostName, VmName, plain_name
from shamon_host.domain.quarantine import Grade
from shamon_host.hypervisor.quarantines import Keep
from shamon_host.hypervisor.vm_states import ImageState, VmStatus

VM_ACTIONS = ("start", "stop", "quarantine", "replace")


@dataclass(kw_only=True)
class VmsApi:
    """Stateless; one for each request."""

    daemon: HostDaemon

    async def route(self, method: str, parts: list[str], fields: Mapping[str, Any]) -> Any:
        """Answer what is below `/v1/vms` and `/v1/images`; None: there is no such request. Raises ShamonError."""
        match method, parts:
            case "GET", ["vms"]:
                return await self._blocking(self._vms)
            case "GET", ["vms", "away"]:
                return self._away()
            case "GET", ["vms", name, "move"]:
                return self._move(VmName(plain_name(name, "VM name")))
            case "POST", ["vms", name, "migrate"]:
                return await self._migrate(VmName(plain_name(name, "VM name")), fields)
            case "GET", ["vms", name, "reference"]:
                return await self._record(VmName(plain_name(name, "VM name")))
            case "GET", ["images"]:
                return await self._blocking(self._images)
            case "POST", ["vms", name, action] if action in VM_ACTIONS:
                return await self._vm_action(VmName(plain_name(name, "VM name")), action, fields)
            case "POST", ["images", name, "check"]:
                return await self._check_image(plain_name(name, "name of an image"))
            case _:
                return None

    async def _vm_action(self, name: VmName, action: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        own, vms = self.daemon.own, self.daemon.own.vms
        reason = text(fields, "reason", "asked for by the operator")
        grade, keep = _grade(fields), Keep(memory=flag(fields, "keep_memory"), disk=flag(fields, "keep_disk"))
        in_service = flag(fields, "in_service")
        calls: dict[str, Callable[[], object]] = {
            "start": lambda: vms.start(name),
            "stop": lambda: vms.stop(name),
            "quarantine": lambda: vms.quarantine(name, reason, ports_down=own.detach_port, grade=grade, keep=keep),
            "replace": lambda: own.replace(name, reason, in_service=in_service),
        }
        try:
            await self._blocking(calls[action])
        finally:  # what failed half-way may have changed them, too
            self.daemon.watchers.domains_changed()
        statuses = await self._blocking(vms.states.statuses)
        return next(self._vm(status) for status in statuses if status.name == name)

    def _vms(self) -> list[dict[str, Any]]:
        return [self._vm(status) for status in self.daemon.own.vms.states.statuses()]

    def _vm(self, status: VmStatus) -> dict[str, Any]:
        attestation = self.daemon.attestation
        return {**_vm(status), "attestation": attestation.document(status.name) if attestation else None}

    async def _record(self, name: VmName) -> dict[str, Any]:
        """Reference Values of guests, from a VM that runs; nothing is written."""
        if self.daemon.attestation is None:
            raise Refused("VMs of this host have no TPMs", where=self.daemon.name)
        return await record_vm(self.daemon.attestation, name)

    def _away(self) -> list[dict[str, Any]]:
        """VMs that this host might own and another one does, as they were moved."""
        policy, owners = self.daemon.policy, self.daemon.own.owners
        return [
            {
                "name": name,
                "label": policy.vms[name].label,
                "host": policy.host_of(name),
                "generation": token.generation,
            }
            for name in policy.possible_on(self.daemon.name)
            if (token := owners.newest(name)) is not None and policy.host_of(name) != self.daemon.name
        ]

    async def _migrate(self, name: VmName, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Begin to move a VM; `GET .../move` says what becomes of it."""
        reason = text(fields, "reason", "asked for by the operator")
        to = HostName(plain_name(text(fields, "to", "?"), "host name"))
        if to == self.daemon.name:
            raise BadInput("the VM is on this host", where=name, expected="another host", found=to)
        live = flag(fields, "live")
        return (await self.daemon.departures.begin(name, to, reason, live=live)).to_document()

    def _move(self, name: VmName) -> dict[str, Any]:
        """What became of the last move of a VM that this run of the daemon began. Raises what it failed with."""
        progress = self.daemon.departures.progress.get(name)
        if progress is None:
            raise BadInput("this daemon has not moved the VM", where=name, remedy="`shamon vms` says where it is.")
        if progress.error is not None:
            raise progress.error
        return progress.to_document()

    def _images(self) -> list[dict[str, Any]]:
        """Images that VMs of this host are made from, and how those VMs stand to them."""
        policy, statuses = self.daemon.policy, self.daemon.own.vms.states.statuses()
        return [
            {
                "name": name,
                "sha256": policy.images[name].sha256,
                **{
                    state.value: [each.name for each in statuses if (each.image, each.image_state) == (name, state)]
                    for state in ImageState
                },
            }
            for name in sorted({status.image for status in statuses})
        ]

    async def _check_image(self, name: str) -> dict[str, Any]:
        """Read this host's copy of an image, and compare it with the pin of the policy in force."""
        pin = self.daemon.policy.images.get(name)
        if pin is None:
            known = ", ".join(sorted(self.daemon.policy.images))
            raise BadInput(f"the policy has no image {name!r}", expected=f"one of: {known or 'none'}")
        await self._blocking(lambda: self.daemon.own.vms.images.verify(pin.name, pin.sha256))
        return {"name": pin.name, "sha256": pin.sha256}

    async def _blocking(self, call: Callable[[], Any]) -> Any:
        return await self.daemon.backends.blocking(call)


def _vm(status: VmStatus) -> dict[str, Any]:
    domain = status.domain
    return {
        "name": status.name,
        "label": status.label,
        "types": list(status.types),
        "wanted": status.wanted,
        "quarantined": status.quarantine.reason if status.quarantine else "",
        "quarantine": status.quarantine.to_document() if status.quarantine else None,
        "suspended_for": list(status.suspended_for),
        "image": status.image,
        "image_state": status.image_state.value,
        "image_sha256": status.image_sha256,
        "replacing": status.replacing,
        "state": domain.state.value if domain else "absent",
        "context": str(domain.context) if domain and domain.context else "",
        "interfaces": [asdict(interface) for interface in domain.interfaces] if domain else [],
        "disk": domain.disk if domain else "",
        "disks": [asdict(disk) for disk in domain.disks] if domain else [],
    }


def _grade(fields: Mapping[str, Any]) -> Grade | None:
    value = fields.get("grade")
    if value is None:
        return None
    try:
        return Grade(value)
    except ValueError:
        raise BadInput("bad grade", expected=f"one of: {', '.join(Grade)}", found=repr(value)[:40]) from None
