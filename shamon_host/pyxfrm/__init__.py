"""The XFRM netlink family: the kernel's SAD and SPD for Python.

Self-contained: knows netlink and IPsec, nothing of its callers. Values and codecs are in this namespace and need the
standard library only; the sockets are in `client` (requests) and `monitor` (events) and need pyroute2.
"""

from .association import SaId, SecurityAssociation
from .constants import (
    PROTO_AH,
    PROTO_ALL,
    PROTO_COMP,
    PROTO_ESP,
    Action,
    DefaultAction,
    Direction,
    Group,
    Mode,
    PolicyFlag,
    PolicyType,
    SaFlag,
)
from .errors import XfrmError
from .events import (
    Acquire,
    Event,
    Expire,
    Lost,
    Other,
    PoliciesFlushed,
    PolicyChanged,
    PolicyDeleted,
    PolicyExpire,
    SaChanged,
    SaDeleted,
    SasFlushed,
)
from .policy import Policy, PolicyId, Template
from .statistics import xfrm_stat
from .values import Address, Algorithm, Lifetime, Mark, PortMatch, Prefix, Replay, Selector, Usage, aes_gcm

__all__ = [
    "PROTO_AH",
    "PROTO_ALL",
    "PROTO_COMP",
    "PROTO_ESP",
    "Acquire",
    "Action",
    "Address",
    "Algorithm",
    "DefaultAction",
    "Direction",
    "Event",
    "Expire",
    "Group",
    "Lifetime",
    "Lost",
    "Mark",
    "Mode",
    "Other",
    "PoliciesFlushed",
    "Policy",
    "PolicyChanged",
    "PolicyDeleted",
    "PolicyExpire",
    "PolicyFlag",
    "PolicyId",
    "PolicyType",
    "PortMatch",
    "Prefix",
    "Replay",
    "SaChanged",
    "SaDeleted",
    "SaFlag",
    "SaId",
    "SasFlushed",
    "SecurityAssociation",
    "Selector",
    "Template",
    "Usage",
    "XfrmError",
    "aes_gcm",
    "xfrm_stat",
]
