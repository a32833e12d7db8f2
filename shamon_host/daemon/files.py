"""Reading the files that an operator writes, with a limit on their size."""

from pathlib import Path

from shamon_host.domain.errors import BadInput
from shamon_host.domain.policy import Policy
from shamon_host.domain.policy_file import parse_canonical, parse_policy
from shamon_host.peer.policy_envelope import MAX_ENVELOPE_BYTES, payload_of


def read_policy_or_envelope(path: Path) -> tuple[Policy, bytes]:
    """A policy from a file in TOML, or from an envelope with signatures, and the envelope (empty for TOML).

    Nothing is verified: whose signatures count depends on what is in force. Raises BadInput.
    """
    data = read_limited(path, MAX_ENVELOPE_BYTES, "policy")
    if not data.lstrip().startswith(b"{"):
        return parse_policy(data, source=str(path)), b""
    return parse_canonical(payload_of(data, source=str(path)), source=str(path)), data


def read_limited(path: Path, limit: int, kind: str) -> bytes:
    """The bytes of a file of at most `limit` bytes. Raises BadInput."""
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise BadInput(f"cannot read the {kind}", where=str(path), found=error.strerror or "") from error
    if len(data) > limit:
        raise BadInput(f"the {kind} is too large", where=str(path), expected=f"at most {limit} bytes")
    return data
