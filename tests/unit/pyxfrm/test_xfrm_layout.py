"""The struct layouts of pyxfrm against the C compiler's, from the machine's own <linux/xfrm.h>."""

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from shamon_host.pyxfrm import structs
from shamon_host.pyxfrm.constants import (
    INFINITE,
    PROTO_ESP,
    Action,
    Attribute,
    DefaultAction,
    Direction,
    Group,
    Message,
    Mode,
    PolicyFlag,
    PolicyType,
    SaFlag,
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
    "struct xfrm_usersa_info": structs.USERSA_INFO_SIZE,
    "struct xfrm_usersa_id": structs.USERSA_ID.size,
    "struct xfrm_userspi_info": structs.USERSA_INFO_SIZE + structs.SPI_RANGE.size,
    "struct xfrm_userpolicy_info": structs.USERPOLICY_INFO_SIZE,
    "struct xfrm_userpolicy_id": structs.USERPOLICY_ID_SIZE,
    "struct xfrm_user_tmpl": structs.USER_TMPL.size,
    "struct xfrm_user_acquire": structs.ACQUIRE_SIZE,
    "struct xfrm_user_expire": structs.USERSA_INFO_SIZE + structs.HARD.size,
    "struct xfrm_user_polexpire": structs.USERPOLICY_INFO_SIZE + structs.HARD.size,
    "struct xfrmu_spdinfo": structs.SPD_INFO.size,
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
}

CONSTANTS: dict[str, int] = {
    **{f"XFRM_MSG_{message.name}": message.value for message in Message},
    **{f"XFRMA_{attribute.name}": attribute.value for attribute in Attribute},
    **{f"XFRMNLGRP_{group.name}": group.value for group in Group},
    **{f"XFRM_POLICY_{way.name}": way.value for way in Direction if way <= Direction.FWD},
    **{f"XFRM_POLICY_{action.name}": action.value for action in Action},
    **{f"XFRM_POLICY_{flag.name}": flag.value for flag in PolicyFlag if flag},
    **{f"XFRM_POLICY_TYPE_{kind.name}": kind.value for kind in PolicyType},
    **{f"XFRM_STATE_{flag.name}": flag.value for flag in SaFlag if flag},
    **{f"XFRM_MODE_{mode.name}": mode.value for mode in Mode if mode is not Mode.IPTFS},
    **{f"XFRM_USERPOLICY_{action.name}": action.value for action in DefaultAction},
    "XFRM_INF": INFINITE,
    "XFRM_SC_ALG_SELINUX": 1,
    "XFRM_SC_DOI_LSM": 1,
    "XFRMA_SAD_CNT": 1,
    "XFRMA_SPD_INFO": 1,
    "IPPROTO_ESP": PROTO_ESP,
}


def _c_values(expressions: list[str], directory: Path) -> dict[str, int]:
    compiler = shutil.which("gcc")
    if compiler is None or not Path("/usr/include/linux/xfrm.h").exists():
        pytest.skip("needs gcc and <linux/xfrm.h> (Debian: gcc, linux-libc-dev)")
    if platform.architecture()[0] != "64bit":
        pytest.skip("the layouts are those of 64-bit Linux")
    source = directory / "layout.c"
    lines = "\n".join(f'printf("%llu\\n", (unsigned long long)({expression}));' for expression in expressions)
    source.write_text(
        "#include <stdio.h>\n#include <stddef.h>\n#include <netinet/in.h>\n#include <linux/xfrm.h>\n"
        f"int main(void) {{\n{lines}\nreturn 0;\n}}\n"
    )
    program = directory / "layout"
    subprocess.run([compiler, "-o", program, source], check=True)
    printed = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    return dict(zip(expressions, map(int, printed.split()), strict=True))


def test_sizes_offsets_and_numbers_are_those_of_the_header(tmp_path: Path) -> None:
    expected = {f"sizeof({name})": size for name, size in SIZES.items()}
    expected |= {f"offsetof({name}, {member})": offset for (name, member), offset in OFFSETS.items()}
    expected |= CONSTANTS
    # C rounds these two up to nothing; netlink puts attributes at the next multiple of four.
    expected |= {
        "(sizeof(struct xfrm_usersa_flush) + 3) & ~3": structs.USERSA_FLUSH.size,
        "(sizeof(struct xfrm_userpolicy_default) + 3) & ~3": structs.USERPOLICY_DEFAULT.size,
    }
    assert _c_values(list(expected), tmp_path) == expected
