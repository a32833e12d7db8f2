"""The policy of the story's coalition, as the TOML text that an operator would write."""

from collections.abc import Mapping

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

[vms.web]
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


def story_policy(*, image_sha256: str, timing: Timing, hypervisors: Mapping[str, HypervisorKind] = ALL_QEMU) -> str:
    """The policy with the pin of the application image and the intervals of this world. `hypervisors`: host → what it
    runs its VMs with; a host that is not in it has QEMU."""
    return _TEXT.format(
        image_sha256=image_sha256,
        period_s=float(timing.period_s),
        lease_s=float(timing.lease_s),
        margin_s=float(timing.margin_s),
        timeout_s=float(timing.timeout_s),
        action_delay_s=float(timing.action_delay_s),
        **HOST_ADDRESSES,
        **{f"{name}_hypervisor": _key(hypervisors.get(name)) for name in HOST_ADDRESSES},
    )


def _key(kind: HypervisorKind | None) -> str:
    return f'\nhypervisor = "{kind}"' if kind not in (None, HypervisorKind.QEMU) else ""
