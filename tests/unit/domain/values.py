"""The policy, results and peers that the tests of the domain start from."""

from collections.abc import Mapping
from pathlib import Path

from shamon_host.domain.labels import HostName, TypeName, VmLabel, VmName
from shamon_host.domain.policy import Policy
from shamon_host.domain.policy_file import parse_policy
from shamon_host.domain.results import AttestationResult, Claim, ClaimName, ClaimStatus, TpmKind

RED, BLUE, ORDERS = TypeName("acme/red"), TypeName("rival/blue"), TypeName("supplier/orders")
ALPHA, BETA, GAMMA, NOBODY = HostName("alpha"), HostName("beta"), HostName("gamma"), HostName("nobody")
WEB, DB, SPY, BROKER = VmName("web"), VmName("db"), VmName("spy"), VmName("broker")
POLICY_BYTES = (Path(__file__).parent / "coalition.toml").read_bytes()
POLICY = parse_policy(POLICY_BYTES, source="coalition.toml")


def result(
    host: HostName = BETA,
    *,
    tpm: TpmKind = TpmKind.HARDWARE,
    statuses: Mapping[ClaimName, ClaimStatus] | None = None,
    without: ClaimName | None = None,
) -> AttestationResult:
    """A result in which every claim passes, but those in `statuses` and the one that is left out."""
    wanted = dict.fromkeys(ClaimName, ClaimStatus.PASS) | dict(statuses or {})
    return AttestationResult(
        host=host,
        ak_name=b"\x00\x0b" + bytes(32),
        reset_count=1,
        tpm=tpm,
        claims=tuple(
            Claim(name=name, status=status, reason=f"made up: {status}")
            for name, status in wanted.items()
            if name is not without
        ),
    )


def running(*names: VmName, policy: Policy = POLICY) -> dict[VmName, VmLabel]:
    """The VMs as the hypervisor's port reports them to the monitor."""
    return {name: policy.label_of(name) for name in names}
