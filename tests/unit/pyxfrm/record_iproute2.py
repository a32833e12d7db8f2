"""Records what `ip xfrm` sends, for iproute2_recorded.py: `python -m tests.unit.pyxfrm.record_iproute2`.

Needs root, iproute2 and strace. Each command runs in a network namespace of its own, so nothing of this machine
changes; whether the kernel then takes the request does not matter.
"""

import re
import shlex
import struct
import subprocess
import textwrap
from pathlib import Path

_KEY20 = "0x0102030405060708090a0b0c0d0e0f1011121314"
_KEY16 = "0x00112233445566778899aabbccddeeff"
_KEY32 = "0x00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
_PAIR = "src 192.0.2.1 dst 192.0.2.2"
_ESP = f"{_PAIR} proto esp spi 0x1001"
_GCM = f"aead rfc4106(gcm(aes)) {_KEY20} 128"
_SELECTOR = "src 192.0.2.1/32 dst 192.0.2.2/32"
_UDP = f"{_SELECTOR} proto udp sport 24576 dport 24577"
_LABEL = "ctx system_u:object_r:shamon_spd_t:s0:c10"
_EVERY_LIMIT = (
    "limit byte-soft 1 limit byte-hard 2 limit packet-soft 3 limit packet-hard 4"
    " limit time-soft 5 limit time-hard 6 limit time-use-soft 7 limit time-use-hard 8"
)

COMMANDS = {
    "policy_out": (f"policy add {_UDP} dir out priority 100 {_LABEL} tmpl {_PAIR} proto esp reqid 7 mode transport"),
    "policy_block6": "policy add src ::/0 dst 2001:db8::1/128 proto udp dir in priority 1000 action block",
    "policy_update": (
        "policy update src 10.1.2.3/8 dst 0.0.0.0/0 dir fwd mark 5 mask 255 limit byte-hard 4096 limit time-soft 30"
        " tmpl proto esp mode transport level use"
    ),
    "policy_everything": (
        f"policy add {_SELECTOR} dev lo proto icmp type 8 code 0 dir in index 808 ptype sub priority 7"
        f" flag localok icmp if_id 9 {_EVERY_LIMIT}"
        f" tmpl {_PAIR} proto ah mode tunnel reqid 3"
        " tmpl src 2001:db8::1 dst 2001:db8::2 proto comp mode beet level use"
    ),
    "policy_delete": f"policy delete {_UDP} dir out {_LABEL}",
    "policy_delete_index": "policy delete index 9 dir out mark 5 mask 255 ptype sub if_id 6",
    "policy_get": f"policy get {_SELECTOR} dir in",
    "policy_flush": "policy flush",
    "policy_flush_sub": "policy flush ptype sub",
    "policy_count": "policy count",
    "policy_thresholds": "policy set hthresh4 24 16 hthresh6 64 48",
    "policy_set_default": "policy setdefault in block fwd accept",
    "policy_get_default": "policy getdefault",
    "policy_list": "policy list",
    "sa_add": (
        f"state add {_ESP} reqid 7 mode transport {_GCM} flag esn replay-window 64 limit time-hard 15"
        " ctx system_u:object_r:shamon_link_t:s0:c10"
    ),
    "sa_update6": (
        "state update src 2001:db8::1 dst 2001:db8::2 proto esp spi 0x1002 reqid 8 mode tunnel replay-window 32"
        f" extra-flag oseq-may-wrap auth-trunc hmac(sha256) {_KEY32} 128 enc cbc(aes) {_KEY16}"
        " sel src 2001:db8:1::/48 dst 2001:db8:2::/48 proto tcp dport 443"
    ),
    "sa_auth": f"state add {_PAIR} proto ah spi 0x1001 mode transport auth hmac(sha1) {_KEY20} {_EVERY_LIMIT}",
    "sa_comp": f"state add {_PAIR} proto comp spi 0x1001 mode tunnel comp deflate flag noecn decap-dscp nopmtudisc",
    "sa_encap": f"state add {_ESP} mode transport {_GCM} encap espinudp 4500 4501 198.51.100.7",
    "sa_encap_tcp": f"state add {_ESP} mode transport {_GCM} encap espintcp 4500 4501 0.0.0.0",
    "sa_marks": (
        f"state add {_ESP} mode tunnel {_GCM} seq 0x11 extra-flag dont-encap-dscp oseq-may-wrap"
        " mark 0x5 mask 0xff output-mark 0x7 mask 0xf0 if_id 0x9"
    ),
    "sa_output_mark": f"state add {_ESP} mode tunnel {_GCM} output-mark 0x7",
    "sa_tfc": f"state add {_ESP} mode tunnel {_GCM} tfcpad 1400",
    "sa_offload": f"state add {_ESP} mode transport {_GCM} offload dev lo dir in",
    "sa_replay": f"state add {_ESP} mode transport {_GCM} replay-window 32 replay-seq 5 replay-oseq 6",
    "sa_replay_esn": (
        f"state add {_ESP} mode transport {_GCM} flag esn replay-window 128"
        " replay-seq 5 replay-oseq 6 replay-seq-hi 1 replay-oseq-hi 2"
    ),
    "sa_care_of": "state add src 2001:db8::1 dst 2001:db8::2 proto hao mode ro coa 2001:db8::9",
    "sa_delete": "state delete dst 192.0.2.2 proto esp spi 0x1001",
    "sa_delete_hao": "state delete src 2001:db8::1 dst 2001:db8::2 proto hao",
    "sa_get_mark": "state get dst 192.0.2.2 proto esp spi 0x1001 mark 1 mask 3",
    "sa_list_esp": "state list proto esp",
    "sa_list_filter": "state list src 192.0.2.0/24 dst 198.51.100.0/25",
    "sa_flush": "state flush",
    "sa_flush_ah": "state flush proto ah",
    "sa_count": "state count",
    "alloc_spi": "state allocspi src 192.0.2.2 dst 192.0.2.1 proto esp reqid 7 mode transport min 256 max 511",
    "alloc_spi_answer": (
        "state allocspi src 192.0.2.2 dst 192.0.2.1 proto esp reqid 7 mode tunnel seq 17 mark 5 mask 255"
        " min 256 max 511"
    ),
}
"""Name, and what follows `ip xfrm`."""


def record(arguments: str) -> tuple[int, int, bytes]:
    """Type, flags and body of the last message that the command sends."""
    command = ["unshare", "-n", "strace", "-f", "-s", "0", "-e", "trace=sendmsg,sendto", "-e", "write=all"]
    told = subprocess.run(
        [*command, "ip", "xfrm", *shlex.split(arguments.replace("(", r"\(").replace(")", r"\)"))],
        capture_output=True,
        text=True,
        check=False,
    ).stderr
    messages = re.split(r"^(?:sendmsg|sendto)\(", told, flags=re.MULTILINE)[1:]
    lines = re.findall(r"^ \| [0-9a-f]+  ((?:[0-9a-f]{2} {1,2}){1,16})", messages[-1], re.MULTILINE)
    datagram = bytes.fromhex("".join(lines))
    length, kind, flags = struct.unpack_from("=IHH", datagram)
    return kind, flags, datagram[16:length]


def _as_source(name: str, arguments: str) -> str:
    kind, flags, body = record(arguments)
    comment = textwrap.wrap(f"ip xfrm {arguments}", 110, subsequent_indent="  ", break_on_hyphens=False)
    rows = textwrap.wrap(body.hex(), 96) or [""]
    packed = "\n".join(f'            "{row}"' for row in rows)
    head = "\n".join(f"    # {line}" for line in comment)
    numbers = f"        0x{kind:02X},\n        0x{flags:X},\n"
    return f'{head}\n    "{name}": (\n{numbers}        bytes.fromhex(\n{packed}\n        ),\n    ),\n'


def main() -> None:
    told = subprocess.run(["ip", "-V"], capture_output=True, text=True, check=True).stdout
    version = told.strip().removeprefix("ip utility, ").partition(",")[0]
    path = Path(__file__).with_name("iproute2_recorded.py")
    path.write_text(
        f'"""Requests as {version} sends them: type, flags and body. Made by record_iproute2.py."""\n\n'
        "RECORDED: dict[str, tuple[int, int, bytes]] = {\n"
        + "".join(_as_source(name, arguments) for name, arguments in COMMANDS.items())
        + "}\n"
    )


if __name__ == "__main__":
    main()
