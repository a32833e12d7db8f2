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
    REPLACE = 0x100
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
NLMSGERR_ATTR_OFFS = 2


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
    """XFRMA_*. From SA_DIR on they came after Linux 6.9."""

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
    REPLAY_THRESH = 11
    ETIMER_THRESH = 12
    SRCADDR = 13
    COADDR = 14
    LASTUSED = 15
    POLICY_TYPE = 16
    MIGRATE = 17
    ALG_AEAD = 18
    KMADDRESS = 19
    ALG_AUTH_TRUNC = 20
    MARK = 21
    TFCPAD = 22
    REPLAY_ESN_VAL = 23
    SA_EXTRA_FLAGS = 24
    PROTO = 25
    ADDRESS_FILTER = 26
    PAD = 27
    OFFLOAD_DEV = 28
    SET_MARK = 29
    SET_MARK_MASK = 30
    IF_ID = 31
    MTIMER_THRESH = 32
    SA_DIR = 33
    NAT_KEEPALIVE_INTERVAL = 34
    SA_PCPU = 35
    IPTFS_DROP_TIME = 36
    IPTFS_REORDER_WINDOW = 37
    IPTFS_DONT_FRAG = 38
    IPTFS_INIT_DELAY = 39
    IPTFS_MAX_QSIZE = 40
    IPTFS_PKT_SIZE = 41


class SadAttribute(IntEnum):
    """XFRMA_SAD_*."""

    CNT = 1
    HINFO = 2


class SpdAttribute(IntEnum):
    """XFRMA_SPD_*."""

    INFO = 1
    HINFO = 2
    IPV4_HTHRESH = 3
    IPV6_HTHRESH = 4


class Group(IntEnum):
    """XFRMNLGRP_*: multicast groups that can be subscribed to. A subscriber of AEVENTS makes the kernel tell every
    second packet of every SA by default (net.core.xfrm_aevent_rseqth)."""

    ACQUIRE = 1
    EXPIRE = 2
    SA = 3
    POLICY = 4
    AEVENTS = 5
    REPORT = 6
    MIGRATE = 7
    MAPPING = 8


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


class ExtraFlag(IntFlag):
    """XFRM_SA_XFLAG_*."""

    NONE = 0
    DONT_ENCAP_DSCP = 1
    OSEQ_MAY_WRAP = 2


class SaDirection(IntEnum):
    """XFRM_SA_DIR_* (Linux 6.10). Of one that says OUT the kernel takes no replay window."""

    IN = 1
    OUT = 2


class OffloadFlag(IntFlag):
    """XFRM_OFFLOAD_*. PACKET: the device does the whole of it, not the ciphers alone (Linux 6.2)."""

    NONE = 0
    IPV6 = 1
    INBOUND = 2
    PACKET = 4


class EncapsulationType(IntEnum):
    """UDP_ENCAP_ESPINUDP* and TCP_ENCAP_ESPINTCP (include/uapi/linux/udp.h)."""

    ESPINUDP_NON_IKE = 1
    ESPINUDP = 2
    ESPINTCP = 7


class AsyncEventFlag(IntFlag):
    """XFRM_AE_*: what is asked for (RTHR, ETHR), and why an event was told (CR: packets, CE: time, CU: a change)."""

    NONE = 0
    RTHR = 1
    RVAL = 2
    LVAL = 4
    ETHR = 8
    CR = 16
    CE = 32
    CU = 64


class PolicyFlag(IntFlag):
    """XFRM_POLICY_LOCALOK, XFRM_POLICY_ICMP, and XFRM_POLICY_CPU_ACQUIRE (Linux 6.13)."""

    NONE = 0
    LOCALOK = 1
    ICMP = 2
    CPU_ACQUIRE = 4


class Share(IntEnum):
    """XFRM_SHARE_*. The kernel checks and forgets it."""

    ANY = 0
    SESSION = 1
    USER = 2
    UNIQUE = 3


PROTO_ESP = 50
PROTO_AH = 51
PROTO_COMP = 108
PROTO_ROUTING = 43
PROTO_DSTOPTS = 60
"""Mobile IPv6's two, whose SAs have no SPI (RFC 6275): `route2` and `hao` of iproute2."""
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
