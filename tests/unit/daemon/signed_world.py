"""The story's three hosts under a signed policy, and what their operators sign."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shamon_host.domain.errors import ShamonError
from shamon_host.domain.labels import HostName
from shamon_host.domain.policy import Policy
from shamon_host.domain.policy_file import parse_policy
from shamon_host.domain.policy_form import policy_bytes
from shamon_host.peer.policy_envelope import sign
from shamon_host.peer.signed_record import public_text
from shamon_host.testing.clock import run_virtual
from shamon_host.testing.images import sha256_of
from shamon_host.testing.memory_host import CLEAN_IMAGE
from shamon_host.testing.memory_world import MEMORY_TIMING
from shamon_host.testing.story_policy import MacVmPins, story_policy
from tests.unit.daemon.daemon_world import Change, DaemonWorld, daemon

KEYS = {
    name: Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())
    for name in ("o1", "o2", "o3", "x1")
}
_SIGNING = '[signing]\nthreshold = 2\nkeys = ["o1", "o2", "o3"]\n' + "".join(
    f'[keys.{name}]\npublic = "{public_text(key)}"\n' for name, key in KEYS.items() if name != "x1"
)


def signed_policy(
    *changes: Change, after: Policy | None = None, also: str = "", mac_vm: MacVmPins | None = None
) -> Policy:
    """The story's policy with signers, changed; as the version that follows `after`."""
    text = story_policy(image_sha256=sha256_of(CLEAN_IMAGE), timing=MEMORY_TIMING, mac_vm=mac_vm) + _SIGNING
    if after is not None:
        changes = (("version = 1", f'version = {after.version + 1}\nparent = "{after.digest}"'), *changes)
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    return parse_policy((text + also).encode(), source="policy.toml")


def envelope(policy: Policy, *signers: str) -> bytes:
    """The policy, signed by these (two, where none is named)."""
    signed = sign(policy_bytes(policy), KEYS[(signers or ("o1", "o2"))[0]])
    for name in (signers or ("o1", "o2"))[1:]:
        signed = sign(signed, KEYS[name])
    return signed.encode()


class SignedWorld(DaemonWorld):
    """Three enrolled hosts under a signed policy, all off. `own`: hosts that are set up with another one."""

    def __init__(self, own: Mapping[str, Policy] | None = None, first: Policy | None = None) -> None:
        super().__init__(mac_vms=first is not None and any(host.mac_vm for host in first.hosts.values()))
        self.first = self.policy = self.enrolment.policy = first or signed_policy()
        for name in self.hosts:
            policy = (own or {}).get(name, self.first)
            self.enrolment.policies[HostName(name)] = policy
            self.enrolment.envelopes[HostName(name)] = envelope(policy)

    def versions(self) -> dict[str, int]:
        """The version in force on each host that runs."""
        return {name: daemon(host).policy.version for name, host in self.hosts.items() if host.daemon}

    def alpha_update(self, data: bytes) -> "asyncio.Task[object]":
        """alpha's operator asks for an update and does not wait for what comes of it."""

        async def update() -> object:
            with suppress(ShamonError):
                return await daemon(self.alpha).changes.update(data)
            return None

        return asyncio.create_task(update())


def play_signed(
    test: Callable[[SignedWorld], Awaitable[None]],
    *,
    own: Mapping[str, Policy] | None = None,
    first: Policy | None = None,
) -> None:
    """Run a test in a prepared world, in virtual time; no daemon may have ended by itself."""

    async def main() -> None:
        async with SignedWorld(own, first) as world:
            await world.prepare()
            await test(world)
            for host in world.hosts.values():
                failure = host.failure()
                assert failure is None, failure

    run_virtual(main())
