"""Policies of a single socket (IP_XFRM_POLICY, IPV6_XFRM_POLICY): they win over the SPD's, and end with the socket."""

import errno
import socket

from .constants import Direction
from .errors import XfrmError, invalid
from .policy import Policy
from .policy_codec import encode_policy_info, encode_templates

_OPTIONS = {int(socket.AF_INET): (socket.IPPROTO_IP, 17), int(socket.AF_INET6): (socket.IPPROTO_IPV6, 35)}
"""include/uapi/linux/in.h, in6.h."""


def set_socket_policy(opened: socket.socket, policy: Policy) -> None:
    """Give a socket a policy for `policy.direction`, IN or OUT, in the place of the one that it had. An ALLOW without
    template lets it pass in clear whatever the SPD says.

    Raises XfrmError: EPERM without CAP_NET_ADMIN, EINVAL for what a socket's policy cannot have.
    """
    operation = f"set the policy of a socket, {policy.id}"
    if policy.direction not in (Direction.IN, Direction.OUT):
        raise invalid(operation, f"a socket has none for direction {policy.direction.name}")
    if policy.security_context is not None or policy.mark is not None or policy.interface_id or policy.type:
        raise invalid(operation, "a socket's has no security context, mark, interface id or type")
    _set(opened, operation, encode_policy_info(policy) + encode_templates(policy))


def clear_socket_policies(opened: socket.socket) -> None:
    """Take both away from a socket (Linux 5.1 and later). Raises XfrmError."""
    _set(opened, "clear the policies of a socket", None)


def _set(opened: socket.socket, operation: str, value: bytes | None) -> None:
    level, option = _OPTIONS.get(int(opened.family), (0, 0))
    if not level and not option:
        raise invalid(operation, "it is no socket of IPv4 or IPv6")
    try:
        if value is None:
            opened.setsockopt(level, option, None, 0)
        else:
            opened.setsockopt(level, option, value)
    except OSError as error:
        raise XfrmError(operation=operation, errno=error.errno or errno.EIO, detail=error.strerror or "") from None
