"""Images and the VMs that are made from them: `images`, `image check`, `image roll`.

`roll` asks the daemon to replace one VM after the other, and holds nothing of its own: what was done is what each VM's
record says, so whatever ends it, it goes on when it is run again.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from shamon_host.cli.api_client import ApiClient
from shamon_host.cli.operate import daemon_client, daemon_command
from shamon_host.cli.output import print_error, print_json, print_table, printable
from shamon_host.domain.errors import BadInput, NotTrusted, ShamonError

_COLUMNS = ("name", "sha256", "current", "outdated", "unknown", "none")
_NOT_CURRENT = ("outdated", "unknown")


def add_parsers(commands: Any) -> None:
    """Add these commands to the parser."""
    daemon_command(commands, "images", "the images of this host's VMs, and which VMs run on an older one", _images)
    image = commands.add_parser("image", help="check an image, or replace all VMs that run on an older one")
    actions = image.add_subparsers(dest="action", required=True, metavar="ACTION")
    check = daemon_command(actions, "check", "compare this host's copy of the image with the policy's pin", _check)
    roll = daemon_command(actions, "roll", "replace one VM after the other that runs on an older image", _roll)
    for leaf in (check, roll):
        leaf.add_argument("name", metavar="IMAGE", help="its name in the policy")
    roll.add_argument("--all", action="store_true", help="those too that run on the pinned one")
    roll.add_argument("--reason", default="", help="for the audit log")


def _images(arguments: argparse.Namespace) -> int:
    rows = daemon_client(arguments).get("/v1/images")
    if arguments.json:
        print_json(rows)
    else:
        shown = [{**row, "sha256": row["sha256"][:16]} for row in rows]
        print_table(shown, _COLUMNS, empty="no VMs on this host")
    return 0


def _check(arguments: argparse.Namespace) -> int:
    image = _checked(daemon_client(arguments), arguments.name)
    if arguments.json:
        print_json(image)
    else:
        print(f"{image['name']}: it is the pinned one, sha256 {image['sha256']}")
    return 0


def _checked(client: ApiClient, name: str) -> Any:
    """The image, whose copy on this host is the pinned one. Raises NotTrusted, BadInput."""
    return client.post(f"/v1/images/{quote(name, safe='')}/check", {})


@dataclass(kw_only=True)
class Roll:
    """One rolling replacement. `due`: the VMs to replace, in order; `left`: VM → why it is not one of them."""

    image: str
    sha256: str
    due: Sequence[str]
    left: dict[str, str]
    replaced: dict[str, float] = field(default_factory=dict)
    """VM → seconds that it took until it ran again."""
    failed: str = ""
    error: ShamonError | None = None

    def run(self, client: ApiClient, reason: str, say: Callable[[str], None]) -> None:
        """Replace them, and stop at the first with which that fails."""
        for number, name in enumerate(self.due, start=1):
            say(f"{name}: replacing, {number} of {len(self.due)}")
            began = time.monotonic()
            try:
                vm = client.post(f"/v1/vms/{quote(name, safe='')}/replace", {"reason": reason, "in_service": True})
                if (vm["state"], vm["image_sha256"]) != ("running", self.sha256):
                    raise NotTrusted(
                        "the VM does not run on the image that is rolled",
                        where=name,
                        expected=f"running on sha256 {self.sha256}",
                        found=f"{vm['state']} on sha256 {vm['image_sha256'] or 'unknown'}",
                        remedy="The policy may have changed meanwhile; run it again.",
                    )
            except ShamonError as error:
                why = _why_now(client, name) if error.exit_code == ShamonError.exit_code else ""
                if not why:
                    self.failed, self.error = name, error
                    return
                self.left[name] = why
                say(f"{name}: left as it is, {why}")
                continue
            self.replaced[name] = round(time.monotonic() - began, 3)
            say(f"{name}: runs again after {self.replaced[name]:.1f} s")

    @property
    def not_replaced(self) -> list[str]:
        """Those that are still due."""
        return [name for name in self.due if name not in self.replaced and name not in self.left]

    def to_document(self) -> dict[str, Any]:
        return {
            "image": self.image,
            "sha256": self.sha256,
            "replaced": [{"name": name, "seconds": seconds} for name, seconds in self.replaced.items()],
            "failed": self.failed,
            "reason": str(self.error) if self.error else "",
            "not_replaced": self.not_replaced,
            "left": [{"name": name, "reason": why} for name, why in self.left.items()],
        }


def _roll(arguments: argparse.Namespace) -> int:
    client, name = daemon_client(arguments), arguments.name
    vms = [vm for vm in client.get("/v1/vms") if vm["image"] == name]
    if not vms:
        raise BadInput(f"no VM of this host is made from the image {name!r}", remedy="`shamon images` lists them.")
    image = _checked(client, name)  # before any VM is touched
    roll = _planned(image, vms, everything=arguments.all)
    # With --json the answer is one value at the end, so progress goes where it is in nobody's way.
    roll.run(
        client,
        arguments.reason or f"the image {name} is rolled",
        lambda line: print(printable(line), file=sys.stderr if arguments.json else sys.stdout, flush=True),
    )
    if arguments.json:
        print_json(roll.to_document())
    else:
        _tell(roll)
    return roll.error.exit_code if roll.error else 0


def _planned(image: Mapping[str, Any], vms: Sequence[Mapping[str, Any]], *, everything: bool) -> Roll:
    """Of the VMs of an image, those to replace: they run, or should, and not on this image."""
    due, left = [], {}
    for vm in vms:
        if not everything and vm["image_state"] not in _NOT_CURRENT and not vm["replacing"]:
            continue
        why = _why_left(vm)
        if why:
            left[vm["name"]] = why
        else:
            due.append(vm["name"])
    return Roll(image=image["name"], sha256=image["sha256"], due=due, left=left)


def _why_left(vm: Mapping[str, Any]) -> str:
    """Why a VM is left as it is: a replacement would start it, or end its quarantine."""
    if vm["quarantine"]:
        return "in quarantine"
    if vm["state"] == "paused" or vm["suspended_for"]:
        return "suspended"
    return "" if vm["state"] == "running" or vm["wanted"] else "does not run"


def _why_now(client: ApiClient, name: str) -> str:
    """Why a VM whose replacement was refused is to be left, as it is now; empty where it is to be replaced."""
    try:
        return next((_why_left(vm) for vm in client.get("/v1/vms") if vm["name"] == name), "")
    except ShamonError:
        return ""


def _tell(roll: Roll) -> None:
    for name, why in roll.left.items():
        print(f"{name}: left as it is, {why}; `shamon vm replace {name}` starts a clean one")
    if roll.error is not None:
        print_error(roll.error, as_json=False)
        print(
            f"stopped at {roll.failed}: {len(roll.replaced)} of {len(roll.due)} replaced, left as they are: "
            f"{', '.join(roll.not_replaced[1:]) or 'none'}; run it again to go on",
            file=sys.stderr,
        )
    else:
        print(f"{roll.image}: {len(roll.replaced)} replaced" if roll.due else f"{roll.image}: nothing to replace")
