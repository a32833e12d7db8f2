"""The struct layouts of pyxfrm against the C compiler's, from the machine's own <linux/xfrm.h>."""

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from shamon_host.pyxfrm import constants, structs
from shamon_host.pyxfrm.constants import (
    Action,
    AsyncEventFlag,
    Attribute,
    DefaultAction,
    Direction,
    EncapsulationType,
    ExtraFlag,
    Group,
    Message,
    Mode,
    OffloadFlag,
    PolicyFlag,
    PolicyType,
    SadAttribute,
    SaDirection,
    SaFlag,
    Share,
    SpdAttribute,
)

SIZES = {
    "struct xfrm_selector": structs.SELECTOR.size,
    "struct xfrm_id": structs.ID.size,
    "struct xfrm_lifetime_cfg": structs.LIFETIME_CFG.size,
    "struct xfrm_lifetime_cur": structs.LIFETIME_CUR.size,
    "struct xfrm_stats": structs.STATS.size,
    "struct xfrm_replay_state": structs.REPLAY_STATE.size,
    "struct xfrm_replay_state_esn": structs.REPLAY_STATE_ESN.size,
    "struct xfrm_algo": structs.ALGO.size,
    "struct xfrm_algo_auth": structs.ALGO_AUTH.size,
    "struct xfrm_algo_aead": structs.ALGO_AUTH.size,
    "struct xfrm_mark": structs.MARK.size,
    "struct xfrm_user_sec_ctx": structs.SEC_CTX.size,
    "struct xfrm_userpolicy_type": structs.POLICY_TYPE.size,
    "struct xfrm_usersa_info": structs.USERSA_INFO.size,
    "struct xfrm_usersa_id": structs.USERSA_ID.size,
    "struct xfrm_userspi_info": structs.USERSA_INFO_SIZE + structs.SPI_RANGE.size,
    "struct xfrm_userpolicy_info": structs.USERPOLICY_INFO.size,
    "struct xfrm_userpolicy_id": structs.USERPOLICY_ID_SIZE,
    "struct xfrm_user_tmpl": structs.USER_TMPL.size,
    "struct xfrm_user_acquire": structs.ACQUIRE_SIZE,
    "struct xfrm_user_expire": structs.USERSA_INFO_SIZE + structs.HARD.size,
    "struct xfrm_user_polexpire": structs.USERPOLICY_INFO_SIZE + structs.HARD.size,
    "struct xfrmu_spdinfo": structs.SPD_INFO.size,
    "struct xfrmu_sadhinfo": structs.HASH_INFO.size,
    "struct xfrmu_spdhinfo": structs.HASH_INFO.size,
    "struct xfrmu_spdhthresh": structs.HASH_THRESHOLD.size,
    "struct xfrm_encap_tmpl": structs.ENCAP_TMPL.size,
    "struct xfrm_user_offload": structs.OFFLOAD.size,
    "struct xfrm_aevent_id": structs.AEVENT_ID_SIZE,
    "struct xfrm_user_migrate": structs.USER_MIGRATE.size,
    "struct xfrm_user_kmaddress": structs.KMADDRESS.size,
    "struct xfrm_user_mapping": structs.MAPPING_SIZE,
    "struct xfrm_user_report": structs.REPORT_SIZE,
    "struct xfrm_address_filter": structs.ADDRESS_FILTER.size,
}

_TAIL = structs.USERSA_INFO_SIZE - structs.USERSA_TAIL.size
_POLICY_TAIL = structs.USERPOLICY_INFO_SIZE - structs.USERPOLICY_TAIL.size
OFFSETS = {
    ("struct xfrm_selector", "saddr"): 16,
    ("struct xfrm_selector", "dport"): 32,
    ("struct xfrm_selector", "dport_mask"): 34,
    ("struct xfrm_selector", "sport"): 36,
    ("struct xfrm_selector", "sport_mask"): 38,
    ("struct xfrm_selector", "family"): 40,
    ("struct xfrm_selector", "prefixlen_d"): 42,
    ("struct xfrm_selector", "prefixlen_s"): 43,
    ("struct xfrm_selector", "proto"): 44,
    ("struct xfrm_selector", "ifindex"): 48,
    ("struct xfrm_selector", "user"): 52,
    ("struct xfrm_id", "spi"): 16,
    ("struct xfrm_id", "proto"): 20,
    ("struct xfrm_usersa_info", "lft"): structs.USERSA_LIFETIME_OFFSET,
    ("struct xfrm_usersa_info", "seq"): _TAIL,
    ("struct xfrm_usersa_info", "reqid"): _TAIL + 4,
    ("struct xfrm_usersa_info", "family"): _TAIL + 8,
    ("struct xfrm_usersa_info", "mode"): _TAIL + 10,
    ("struct xfrm_usersa_info", "replay_window"): _TAIL + 11,
    ("struct xfrm_usersa_info", "flags"): _TAIL + 12,
    ("struct xfrm_usersa_id", "family"): 20,
    ("struct xfrm_usersa_id", "proto"): 22,
    ("struct xfrm_userpolicy_info", "priority"): _POLICY_TAIL,
    ("struct xfrm_userpolicy_info", "index"): _POLICY_TAIL + 4,
    ("struct xfrm_userpolicy_info", "dir"): _POLICY_TAIL + 8,
    ("struct xfrm_userpolicy_info", "action"): _POLICY_TAIL + 9,
    ("struct xfrm_userpolicy_info", "flags"): _POLICY_TAIL + 10,
    ("struct xfrm_userpolicy_info", "share"): _POLICY_TAIL + 11,
    ("struct xfrm_userpolicy_id", "index"): structs.SELECTOR.size,
    ("struct xfrm_userpolicy_id", "dir"): structs.SELECTOR.size + 4,
    ("struct xfrm_user_tmpl", "family"): 24,
    ("struct xfrm_user_tmpl", "saddr"): 28,
    ("struct xfrm_user_tmpl", "reqid"): 44,
    ("struct xfrm_user_tmpl", "mode"): 48,
    ("struct xfrm_user_tmpl", "share"): 49,
    ("struct xfrm_user_tmpl", "optional"): 50,
    ("struct xfrm_user_tmpl", "aalgos"): 52,
    ("struct xfrm_user_acquire", "sel"): structs.ID.size + 16,
    ("struct xfrm_user_acquire", "policy"): structs.ID.size + 16 + structs.SELECTOR.size,
    ("struct xfrm_user_acquire", "aalgos"): structs.ACQUIRE_SIZE - structs.ACQUIRE_TAIL.size,
    ("struct xfrm_user_acquire", "seq"): structs.ACQUIRE_SIZE - 4,
    ("struct xfrm_user_expire", "hard"): structs.USERSA_INFO_SIZE,
    ("struct xfrm_user_polexpire", "hard"): structs.USERPOLICY_INFO_SIZE,
    ("struct xfrm_user_sec_ctx", "ctx_alg"): 4,
    ("struct xfrm_user_sec_ctx", "ctx_doi"): 5,
    ("struct xfrm_user_sec_ctx", "ctx_len"): 6,
    ("struct xfrm_userpolicy_type", "reserved1"): 2,
    ("struct xfrm_lifetime_cfg", "hard_byte_limit"): 8,
    ("struct xfrm_lifetime_cfg", "soft_packet_limit"): 16,
    ("struct xfrm_lifetime_cfg", "soft_add_expires_seconds"): 32,
    ("struct xfrm_lifetime_cfg", "hard_use_expires_seconds"): 56,
    ("struct xfrm_lifetime_cur", "packets"): 8,
    ("struct xfrm_lifetime_cur", "add_time"): 16,
    ("struct xfrm_lifetime_cur", "use_time"): 24,
    ("struct xfrm_stats", "replay"): 4,
    ("struct xfrm_stats", "integrity_failed"): 8,
    ("struct xfrm_usersa_info", "id"): structs.SELECTOR.size,
    ("struct xfrm_usersa_info", "saddr"): structs.SELECTOR.size + structs.ID.size,
    ("struct xfrm_usersa_info", "curlft"): structs.USERSA_LIFETIME_OFFSET + structs.LIFETIME_CFG.size,
    ("struct xfrm_usersa_info", "stats"): _TAIL - structs.STATS.size,
    ("struct xfrm_userspi_info", "min"): structs.USERSA_INFO_SIZE,
    ("struct xfrm_userspi_info", "max"): structs.USERSA_INFO_SIZE + 4,
    ("struct xfrm_replay_state", "seq"): 4,
    ("struct xfrm_replay_state", "bitmap"): 8,
    ("struct xfrm_replay_state_esn", "oseq"): 4,
    ("struct xfrm_replay_state_esn", "seq"): 8,
    ("struct xfrm_replay_state_esn", "oseq_hi"): 12,
    ("struct xfrm_replay_state_esn", "seq_hi"): 16,
    ("struct xfrm_replay_state_esn", "replay_window"): 20,
    ("struct xfrm_replay_state_esn", "bmp"): 24,
    ("struct xfrm_algo", "alg_key_len"): 64,
    ("struct xfrm_algo", "alg_key"): 68,
    ("struct xfrm_algo_auth", "alg_trunc_len"): 68,
    ("struct xfrm_algo_auth", "alg_key"): 72,
    ("struct xfrm_algo_aead", "alg_icv_len"): 68,
    ("struct xfrm_algo_aead", "alg_key"): 72,
    ("struct xfrm_encap_tmpl", "encap_sport"): 2,
    ("struct xfrm_encap_tmpl", "encap_dport"): 4,
    ("struct xfrm_encap_tmpl", "encap_oa"): 8,
    ("struct xfrm_user_offload", "flags"): 4,
    ("struct xfrm_aevent_id", "saddr"): structs.USERSA_ID.size,
    ("struct xfrm_aevent_id", "flags"): structs.USERSA_ID.size + 16,
    ("struct xfrm_aevent_id", "reqid"): structs.USERSA_ID.size + 20,
    ("struct xfrm_user_migrate", "old_saddr"): 16,
    ("struct xfrm_user_migrate", "new_daddr"): 32,
    ("struct xfrm_user_migrate", "new_saddr"): 48,
    ("struct xfrm_user_migrate", "proto"): 64,
    ("struct xfrm_user_migrate", "mode"): 65,
    ("struct xfrm_user_migrate", "reqid"): 68,
    ("struct xfrm_user_migrate", "old_family"): 72,
    ("struct xfrm_user_migrate", "new_family"): 74,
    ("struct xfrm_user_kmaddress", "remote"): 16,
    ("struct xfrm_user_kmaddress", "family"): 36,
    ("struct xfrm_user_mapping", "reqid"): structs.USERSA_ID.size,
    ("struct xfrm_user_mapping", "old_saddr"): structs.USERSA_ID.size + 4,
    ("struct xfrm_user_mapping", "new_saddr"): structs.USERSA_ID.size + 20,
    ("struct xfrm_user_mapping", "old_sport"): structs.USERSA_ID.size + 36,
    ("struct xfrm_user_mapping", "new_sport"): structs.USERSA_ID.size + 38,
    ("struct xfrm_user_report", "sel"): structs.REPORT_HEAD.size,
    ("struct xfrm_address_filter", "daddr"): 16,
    ("struct xfrm_address_filter", "family"): 32,
    ("struct xfrm_address_filter", "splen"): 34,
    ("struct xfrm_address_filter", "dplen"): 35,
    ("struct xfrmu_sadhinfo", "sadhmcnt"): 4,
    ("struct xfrmu_spdhinfo", "spdhmcnt"): 4,
    ("struct xfrmu_spdhthresh", "rbits"): 1,
    ("struct xfrmu_spdinfo", "outcnt"): 4,
    ("struct xfrmu_spdinfo", "fwdcnt"): 8,
    ("struct xfrmu_spdinfo", "inscnt"): 12,
    ("struct xfrmu_spdinfo", "fwdscnt"): 20,
    ("struct xfrm_userpolicy_default", "fwd"): 1,
    ("struct xfrm_userpolicy_default", "out"): 2,
    ("struct xfrm_mark", "m"): 4,
}

CONSTANTS: dict[str, int] = {
    **{f"XFRM_MSG_{message.name}": message.value for message in Message},
    **{f"XFRMA_{attribute.name}": attribute.value for attribute in Attribute if attribute < Attribute.SA_DIR},
    **{f"XFRMA_SAD_{attribute.name}": attribute.value for attribute in SadAttribute},
    **{f"XFRMA_SPD_{attribute.name}": attribute.value for attribute in SpdAttribute},
    **{f"XFRMNLGRP_{group.name}": group.value for group in Group},
    **{f"XFRM_POLICY_{way.name}": way.value for way in Direction if way <= Direction.FWD},
    **{f"XFRM_POLICY_{action.name}": action.value for action in Action},
    **{f"XFRM_POLICY_{flag.name}": flag.value for flag in (PolicyFlag.LOCALOK, PolicyFlag.ICMP)},
    **{f"XFRM_POLICY_TYPE_{kind.name}": kind.value for kind in PolicyType},
    **{f"XFRM_STATE_{flag.name}": flag.value for flag in SaFlag if flag},
    **{f"XFRM_SA_XFLAG_{flag.name}": flag.value for flag in ExtraFlag if flag},
    **{f"XFRM_OFFLOAD_{flag.name}": flag.value for flag in OffloadFlag if flag},
    **{f"XFRM_AE_{flag.name}": flag.value for flag in AsyncEventFlag if flag},
    **{f"XFRM_SHARE_{share.name}": share.value for share in Share},
    **{f"XFRM_MODE_{mode.name}": mode.value for mode in Mode if mode is not Mode.IPTFS},
    **{f"XFRM_USERPOLICY_{action.name}": action.value for action in DefaultAction},
    "XFRM_INF": constants.INFINITE,
    "XFRM_SC_ALG_SELINUX": constants.SEC_CTX_ALG_SELINUX,
    "XFRM_SC_DOI_LSM": constants.SEC_CTX_DOI_LSM,
    "XFRMA_REPLAY_ESN_MAX": constants.ESN_WINDOW_MAX,
    "NETLINK_XFRM": constants.NETLINK_XFRM,
    "NLMSGERR_ATTR_MSG": constants.NLMSGERR_ATTR_MSG,
    "NLMSGERR_ATTR_OFFS": constants.NLMSGERR_ATTR_OFFS,
    "IPPROTO_ESP": constants.PROTO_ESP,
    "IPPROTO_AH": constants.PROTO_AH,
    "IPPROTO_COMP": constants.PROTO_COMP,
    "IPPROTO_ROUTING": constants.PROTO_ROUTING,
    "IPPROTO_DSTOPTS": constants.PROTO_DSTOPTS,
    "IP_XFRM_POLICY": 17,
    "IPV6_XFRM_POLICY": 35,
    "UDP_ENCAP_ESPINUDP_NON_IKE": EncapsulationType.ESPINUDP_NON_IKE,
    "UDP_ENCAP_ESPINUDP": EncapsulationType.ESPINUDP,
}
NEWER_ATTRIBUTES = {
    f"XFRMA_{attribute.name}": attribute.value for attribute in Attribute if attribute >= Attribute.SA_DIR
}
NEWER_MACROS = {
    "TCP_ENCAP_ESPINTCP": EncapsulationType.ESPINTCP,
    "XFRM_MODE_IPTFS": Mode.IPTFS,
    "XFRM_SA_DIR_IN": SaDirection.IN,
    "XFRM_SA_DIR_OUT": SaDirection.OUT,
    "XFRM_POLICY_CPU_ACQUIRE": PolicyFlag.CPU_ACQUIRE,
}
"""Not in the header of Linux 6.1."""


def _printed(lines: list[str], directory: Path) -> list[int]:
    compiler = shutil.which("gcc")
    if compiler is None or not Path("/usr/include/linux/xfrm.h").exists():
        pytest.skip("needs gcc and <linux/xfrm.h> (Debian: gcc, linux-libc-dev)")
    if platform.architecture()[0] != "64bit":
        pytest.skip("the layouts are those of 64-bit Linux")
    source, program = directory / "layout.c", directory / "layout"
    headers = ("stdio.h", "stddef.h", "linux/in.h", "linux/in6.h", "linux/udp.h", "linux/netlink.h", "linux/xfrm.h")
    includes = "\n".join(f"#include <{header}>" for header in headers)
    source.write_text(includes + "\nint main(void) {\n" + "\n".join(lines) + "\nreturn 0;\n}\n")
    subprocess.run([compiler, "-o", program, source], check=True)
    return [int(line) for line in subprocess.run([program], check=True, capture_output=True).stdout.split()]


def _print_of(expression: str) -> str:
    return f'printf("%llu\\n", (unsigned long long)({expression}));'


def test_sizes_offsets_and_numbers_are_those_of_the_header(tmp_path: Path) -> None:
    expected = {f"sizeof({name})": size for name, size in SIZES.items()}
    expected |= {f"offsetof({name}, {member})": offset for (name, member), offset in OFFSETS.items()}
    expected |= CONSTANTS
    # C rounds these two up to nothing; netlink puts attributes at the next multiple of four.
    expected |= {
        "(sizeof(struct xfrm_usersa_flush) + 3) & ~3": structs.USERSA_FLUSH.size,
        "(sizeof(struct xfrm_userpolicy_default) + 3) & ~3": structs.USERPOLICY_DEFAULT.size,
    }
    values = _printed([_print_of(expression) for expression in expected], tmp_path)
    assert dict(zip(expected, values, strict=True)) == expected


def test_every_struct_of_the_header_is_known() -> None:
    header = Path("/usr/include/linux/xfrm.h")
    if not header.exists():
        pytest.skip("needs <linux/xfrm.h> (Debian: linux-libc-dev)")
    # Without a message or attribute of its own: the kernel's form of a security context.
    known = {name.removeprefix("struct ") for name in SIZES} | {
        "xfrm_sec_ctx",
        "xfrm_usersa_flush",
        "xfrm_userpolicy_default",
    }
    assert set(re.findall(r"^struct (\w+) \{", header.read_text(), re.MULTILINE)) == known


def test_numbers_of_newer_headers(tmp_path: Path) -> None:
    (last,) = _printed([_print_of("XFRMA_MAX")], tmp_path)
    there = {name: number for name, number in NEWER_ATTRIBUTES.items() if number <= last}
    lines = [_print_of(name) for name in there]
    lines += [f'#ifdef {name}\n{_print_of(name)}\n#else\nprintf("-1\\n");\n#endif' for name in NEWER_MACROS]
    values = _printed(lines, tmp_path)
    found = dict(zip([*there, *NEWER_MACROS], values, strict=True))
    assert {name: number for name, number in found.items() if number != -1} == {
        name: number for name, number in (there | NEWER_MACROS).items() if found[name] != -1
    }
    if missing := len(NEWER_ATTRIBUTES) - len(there) + sum(number == -1 for number in found.values()):
        pytest.skip(f"{missing} numbers are of a kernel newer than this machine's header")
