"""Reading a policy that an operator wrote, or that operators have signed."""

from pathlib import Path

from shamon_host.daemon.files import read_limited
from shamon_host.domain.policy import Policy
from shamon_host.domain.policy_file import parse_canonical, parse_policy
from shamon_host.peer.policy_envelope import MAX_ENVELOPE_BYTES, payload_of


def read_policy_or_envelope(path: Path) -> tuple[Policy, bytes]:
    """A policy from a file in TOML, or from an envelope with signatures, and the envelope (empty for TOML).

    Nothing is verified: whose signatures count depends on what is in force. Raises BadInput.
    """
    return parse_policy_or_envelope(read_limited(path, MAX_ENVELOPE_BYTES, "policy"), source=str(path))


def parse_policy_or_envelope(data: bytes, *, source: str) -> tuple[Policy, bytes]:
    """As `read_policy_or_envelope`, from what such a file holds."""
    if not data.lstrip().startswith(b"{"):
        return parse_policy(data, source=source), b""
    return parse_canonical(payload_of(data, source=source), source=source), data
