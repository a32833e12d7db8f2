"""The policy of the story's coalition, as the TOML text that an operator would write."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from shamon_host.domain.policy import HypervisorKind
from shamon_host.testing.world import Timing

VM_ADDRESSES = {
    "web": ("10.9.0.1", "fd00:9::1"),
    "db": ("10.9.0.2", "fd00:9::2"),
    "spy": ("10.9.0.3", "fd00:9::3"),
    "shop": ("10.9.0.4", "fd00:9::4"),
    "probe": ("10.9.0.5", "fd00:9::5"),
}
"""All in one subnet on purpose: nothing but the policy keeps the types apart."""
HOST_ADDRESSES = {"alpha": "192.0.2.1", "beta": "192.0.2.2", "gamma": "192.0.2.3"}


@dataclass(frozen=True, slots=True, kw_only=True)
class MacVmPins:
    """What the policy pins of the image that every host's MAC VM is started from."""

    image_sha256: str
    kernel_sha256: str
    initrd_sha256: str
    cmdline: str
    reference_sha256: str = ""
    """Digest of the Reference Values by which those on QEMU are attested; empty: they are not."""


ALL_QEMU = dict.fromkeys(HOST_ADDRESSES, HypervisorKind.QEMU)
_TEXT = """\
# A coalition of three hosts. acme's VMs and rival's VMs run side by side and never exchange a frame;
# acme's and the auditor's never run on one host at the same time.
[coalition]
name = "lab"
version = 1

[types."acme/red"]
on_failure = "replace"

[types."rival/blue"]
on_failure = "keep"

[types."audit/black"]
on_failure = "keep"

[labels.red]
types = ["acme/red"]

[labels.blue]
types = ["rival/blue"]

[labels.black]
types = ["audit/black"]

[conflicts.audit]
types = ["acme/red", "audit/black"]

[hosts.alpha]
address = "{alpha}"{alpha_hypervisor}
types = ["acme/red", "rival/blue", "audit/black"]

[hosts.beta]
address = "{beta}"{beta_hypervisor}
types = ["acme/red", "rival/blue"]

[hosts.gamma]
address = "{gamma}"{gamma_hypervisor}
types = ["acme/red", "rival/blue"]

[images.app]
sha256 = "{image_sha256}"

{mac_vms}[vms.web]
label = "red"
image = "app"
host = "alpha"

[vms.shop]
label = "blue"
image = "app"
host = "alpha"

[vms.probe]
label = "black"
image = "app"
host = "alpha"

[vms.db]
label = "red"
image = "app"
host = "beta"

[vms.spy]
label = "blue"
image = "app"
host = "beta"

[intervals]
period_s = {period_s}
lease_s = {lease_s}
margin_s = {margin_s}
timeout_s = {timeout_s}
action_delay_s = {action_delay_s}

[demands]
allow_software_tpm = true
"""


def mac_vm_of(host: str) -> str:
    """The name of a host's MAC VM."""
    return f"{host}-mac"


def story_policy(
    *,
    image_sha256: str,
    timing: Timing,
    hypervisors: Mapping[str, HypervisorKind] = ALL_QEMU,
    mac_vm: MacVmPins | None = None,
) -> str:
    """The policy with the pin of the application image and the intervals of this world. `hypervisors`: host → what it
    runs its VMs with; a host that is not in it has QEMU. `mac_vm`: every host has one; None: none has."""
    return _TEXT.format(
        image_sha256=image_sha256,
        period_s=float(timing.period_s),
        lease_s=float(timing.lease_s),
        margin_s=float(timing.margin_s),
        timeout_s=float(timing.timeout_s),
        action_delay_s=float(timing.action_delay_s),
        **HOST_ADDRESSES,
        **{f"{name}_hypervisor": _host_keys(name, hypervisors.get(name), mac_vm) for name in HOST_ADDRESSES},
        mac_vms="" if mac_vm is None else _mac_vms(mac_vm, timing, hypervisors),
    )


def _host_keys(host: str, kind: HypervisorKind | None, mac_vm: MacVmPins | None) -> str:
    hypervisor = f'\nhypervisor = "{kind}"' if kind not in (None, HypervisorKind.QEMU) else ""
    return hypervisor + (f'\nmac_vm = "{mac_vm_of(host)}"' if mac_vm is not None else "")


def _mac_vms(pins: MacVmPins, timing: Timing, hypervisors: Mapping[str, HypervisorKind]) -> str:
    boot = f'kernel_sha256 = "{pins.kernel_sha256}"\ninitrd_sha256 = "{pins.initrd_sha256}"'
    tables = [f'[images.mac-vm]\nsha256 = "{pins.image_sha256}"\n{boot}\ncmdline = {json.dumps(pins.cmdline)}\n\n']
    if pins.reference_sha256:
        times = f"period_s = {float(timing.period_s)}\nlease_s = {float(timing.lease_s)}"
        tables.append(f'[guests.mac]\nsha256 = "{pins.reference_sha256}"\n{times}\non_failure = "replace"\n\n')
    for host in HOST_ADDRESSES:
        on_qemu = hypervisors.get(host, HypervisorKind.QEMU) is HypervisorKind.QEMU
        attest = 'attest = "mac"\n' if pins.reference_sha256 and on_qemu else ""
        name = mac_vm_of(host)
        tables.append(f'[vms.{name}]\nlabel = "unlabelled"\nimage = "mac-vm"\nhost = "{host}"\n{attest}\n')
    return "".join(tables)
