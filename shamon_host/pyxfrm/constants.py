"""Numbers of the XFRM netlink ABI, named as in the kernel's uapi headers.

Sources: include/uapi/linux/xfrm.h, include/uapi/linux/netlink.h, include/uapi/linux/in.h.
"""

from enum import IntEnum, IntFlag

NETLINK_XFRM = 6


class NetlinkFlag(IntFlag):
    """NLM_F_*."""

    REQUEST = 0x1
    MULTI = 0x2
    ACK = 0x4
    DUMP_INTERRUPTED = 0x10
    ROOT = 0x100
    MATCH = 0x200
    DUMP = 0x300
    CAPPED = 0x100
    ACK_TLVS = 0x200


NLMSG_NOOP = 1
NLMSG_ERROR = 2
NLMSG_DONE = 3
NLMSG_OVERRUN = 4
NLMSGERR_ATTR_MSG = 1


class Message(IntEnum):
    """XFRM_MSG_*."""

    NEWSA = 0x10
    DELSA = 0x11
    GETSA = 0x12
    NEWPOLICY = 0x13
    DELPOLICY = 0x14
    GETPOLICY = 0x15
    ALLOCSPI = 0x16
    ACQUIRE = 0x17
    EXPIRE = 0x18
    UPDPOLICY = 0x19
    UPDSA = 0x1A
    POLEXPIRE = 0x1B
    FLUSHSA = 0x1C
    FLUSHPOLICY = 0x1D
    NEWAE = 0x1E
    GETAE = 0x1F
    REPORT = 0x20
    MIGRATE = 0x21
    NEWSADINFO = 0x22
    GETSADINFO = 0x23
    NEWSPDINFO = 0x24
    GETSPDINFO = 0x25
    MAPPING = 0x26
    SETDEFAULT = 0x27
    GETDEFAULT = 0x28


class Attribute(IntEnum):
    """XFRMA_*: those that are packed or unpacked here."""

    ALG_AUTH = 1
    ALG_CRYPT = 2
    ALG_COMP = 3
    ENCAP = 4
    TMPL = 5
    SA = 6
    POLICY = 7
    SEC_CTX = 8
    LTIME_VAL = 9
    REPLAY_VAL = 10
    SRCADDR = 13
    LASTUSED = 15
    POLICY_TYPE = 16
    ALG_AEAD = 18
    ALG_AUTH_TRUNC = 20
    MARK = 21
    REPLAY_ESN_VAL = 23
    SA_EXTRA_FLAGS = 24
    PAD = 27
    IF_ID = 31


XFRMA_SAD_CNT = 1
XFRMA_SPD_INFO = 1


class Group(IntEnum):
    """XFRMNLGRP_*: multicast groups that can be subscribed to."""

    ACQUIRE = 1
    EXPIRE = 2
    SA = 3
    POLICY = 4


class Direction(IntEnum):
    """XFRM_POLICY_IN and the rest. The SOCKET ones belong to single sockets (IP_XFRM_POLICY): seen in dumps only."""

    IN = 0
    OUT = 1
    FWD = 2
    SOCKET_IN = 3
    SOCKET_OUT = 4
    SOCKET_FWD = 5


class Action(IntEnum):
    """XFRM_POLICY_ALLOW, XFRM_POLICY_BLOCK. ALLOW without a template means: pass in clear."""

    ALLOW = 0
    BLOCK = 1


class Mode(IntEnum):
    """XFRM_MODE_*."""

    TRANSPORT = 0
    TUNNEL = 1
    ROUTEOPTIMIZATION = 2
    IN_TRIGGER = 3
    BEET = 4
    IPTFS = 5


class PolicyType(IntEnum):
    """XFRM_POLICY_TYPE_*."""

    MAIN = 0
    SUB = 1


class DefaultAction(IntEnum):
    """XFRM_USERPOLICY_*: what happens to a packet that no policy matches."""

    UNSPEC = 0
    BLOCK = 1
    ACCEPT = 2


class SaFlag(IntFlag):
    """XFRM_STATE_*."""

    NONE = 0
    NOECN = 1
    DECAP_DSCP = 2
    NOPMTUDISC = 4
    WILDRECV = 8
    ICMP = 16
    AF_UNSPEC = 32
    ALIGN4 = 64
    ESN = 128


class PolicyFlag(IntFlag):
    """XFRM_POLICY_LOCALOK, XFRM_POLICY_ICMP."""

    NONE = 0
    LOCALOK = 1
    ICMP = 2


PROTO_ESP = 50
PROTO_AH = 51
PROTO_COMP = 108
PROTO_ALL = 0
"""In a flush: every protocol that has SAs (xfrm_id_proto_match)."""

INFINITE = 2**64 - 1
"""XFRM_INF: no limit of bytes or packets."""
ALL_ALGORITHMS = 2**32 - 1
"""aalgos, ealgos, calgos of a template: any algorithm."""
SEC_CTX_DOI_LSM = 1
SEC_CTX_ALG_SELINUX = 1
SEC_CTX_MAX = 4095
"""selinux_xfrm_alloc_user refuses a page or more (security/selinux/xfrm.c)."""
ESN_WINDOW_MAX = 4096
"""XFRMA_REPLAY_ESN_MAX: the largest replay window, in packets."""
