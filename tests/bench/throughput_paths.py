"""The paths that are compared: what has to be said to two lab hosts to make each of them, and to take it away again.

Every path ends in a bridge on either host, with one end of a veth pair as its port; the other end is where the program
that measures runs, in a network namespace. So what differs is what lies between the bridges.
"""

from collections.abc import Mapping
from dataclasses import dataclass

TAP, BRIDGE = "shvm99-0", "bench0"
UNDERLAY, INNER = "192.0.2.{}", "10.77.0.{}"
_PORT, _ID = 9009, 9
_GCM = "rfc4106(gcm(aes))"
_VXLAN = "ip link add bench1 type vxlan id 9 local {local} remote {remote} srcport 4789 4790 dstport 4789"
MTU_ESP_VXLAN, MTU_WIREGUARD_VXLAN = 1400, 1370
"""What fits into a packet of 1500 bytes without fragments, as one would set it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Path:
    """One way from bridge to bridge. Scripts are shell, for the host with number {n} whose peer has number {p}."""

    name: str
    up: str
    down: str
    mtu: int = 1500
    """Of the frames that the ends send, without Ethernet's header."""
    begin: str = ""
    """Run on one host, when both are up."""
    carried: str = ""
    """Prints how many packets, or bytes, its protection took on; nothing where there is none."""


def bridged(device: str) -> str:
    """The device and the tap in a bridge."""
    return (
        f"ip link add {BRIDGE} type bridge; ip link set {BRIDGE} up; "
        f"ip link set {TAP} master {BRIDGE} up; ip link set {device} master {BRIDGE} up"
    )


_L2TP = (
    f"ip l2tp add tunnel tunnel_id {_ID} peer_tunnel_id {_ID} encap udp local 192.0.2.{{n}} remote 192.0.2.{{p}} "
    f"udp_sport {_PORT} udp_dport {_PORT} udp_csum on; "
    f"ip l2tp add session name bench1 tunnel_id {_ID} session_id {_ID} peer_session_id {_ID}; "
    f"ip link set bench1 mtu 1500; {bridged('bench1')}"
)
_L2TP_DOWN = f"ip link del {BRIDGE}; ip l2tp del tunnel tunnel_id {_ID}"
_SA_PACKETS = "ip -s xfrm state | grep -o '[0-9]*(packets)' | tr -dc '0-9\\n' | sort -n | tail -1"


def bare_wire() -> Path:
    return Path(
        name="bare wire",
        up=bridged("wire0"),
        down=f"ip link set wire0 nomaster; ip link del {BRIDGE}",
    )


def plain_l2tp() -> Path:
    return Path(name="the same L2TP without IPsec", up=_L2TP, down=_L2TP_DOWN)


def unlabelled_esp(keys: Mapping[int, bytes]) -> Path:
    """The same L2TP through transport ESP as links have it, but without labels. `keys`: receiver's number → 36
    bytes."""
    spi = "0x100{}"
    states = "; ".join(
        f"ip xfrm state add src 192.0.2.{3 - to} dst 192.0.2.{to} proto esp spi {spi.format(to)} reqid {_ID} "
        f"mode transport replay-window 256 flag esn aead '{_GCM}' 0x{key.hex()} 128"
        for to, key in sorted(keys.items())
    )
    policies = "; ".join(
        f"ip xfrm policy add src 192.0.2.{{{source}}} dst 192.0.2.{{{target}}} proto udp sport {_PORT} dport {_PORT} "
        f"dir {way} tmpl src 192.0.2.{{{source}}} dst 192.0.2.{{{target}}} proto esp reqid {_ID} mode transport"
        for way, source, target in (("out", "n", "p"), ("in", "p", "n"))
    )
    return Path(
        name="the same L2TP through unlabelled ESP",
        up=f"{states}; {policies}; {_L2TP}",
        down=f"{_L2TP_DOWN}; ip xfrm policy flush; ip xfrm state flush",
        carried=_SA_PACKETS,
    )


_CONNECTION = """config setup
    logfile=/run/pluto/pluto.log
    dnssec-enable=no
conn bench
    left=192.0.2.1
    right=192.0.2.2
    leftprotoport=udp/4789
    rightprotoport=udp/4789
    authby=secret
    type=transport
    ikev2=insist
    esp=aes_gcm256-null
    auto=add
"""


def libreswan_vxlan(secret: str) -> Path:
    """Transport ESP as libreswan negotiates it, AES-256-GCM too, around VXLAN."""
    vxlan = _VXLAN.format(local="192.0.2.{n}", remote="192.0.2.{p}")
    configure = (
        f"cat > /etc/ipsec.conf <<'END'\n{_CONNECTION}END\n"
        f"echo '192.0.2.1 192.0.2.2 : PSK \"{secret}\"' > /etc/ipsec.secrets; chmod 600 /etc/ipsec.secrets\n"
        # Debian's SELinux policy would have it in a domain of its own, with which this image has nothing to do.
        "chcon -R -t bin_t /usr/libexec/ipsec /usr/sbin/ipsec; mkdir -p /run/pluto\n"
        "ls /var/lib/ipsec/nss/cert9.db >/dev/null 2>&1 || ipsec initnss >/dev/null\n"
    )
    start = (
        "/usr/libexec/ipsec/pluto --config /etc/ipsec.conf; "
        "for i in $(seq 30); do ipsec whack --status >/dev/null 2>&1 && break; sleep 0.5; done; "
        "ipsec auto --add bench; ipsec whack --listen"
    )
    return Path(
        name="libreswan and VXLAN",
        up=f"{configure}{start}; {vxlan}; ip link set bench1 mtu {MTU_ESP_VXLAN}; {bridged('bench1')}",
        begin="ipsec auto --up bench",
        down=f"ipsec whack --shutdown; ip link del {BRIDGE}; ip link del bench1; ip xfrm policy flush; "
        "ip xfrm state flush",
        mtu=MTU_ESP_VXLAN,
        carried=_SA_PACKETS,
    )


def wireguard_vxlan(private: Mapping[int, str], public: Mapping[int, str]) -> Path:
    """Keys in base64, by the number of the host that has them."""
    keys = "; ".join(f"[ {{n}} = {number} ] && echo '{key}' > /run/wg.key" for number, key in sorted(private.items()))
    peers = "; ".join(f"[ {{p}} = {number} ] && peer='{key}'" for number, key in sorted(public.items()))
    vxlan = _VXLAN.format(local="10.78.0.{n}", remote="10.78.0.{p}")
    return Path(
        name="WireGuard and VXLAN",
        up=f"umask 077; {keys}; {peers}; ip link add wgbench type wireguard; "
        'wg set wgbench listen-port 51820 private-key /run/wg.key peer "$peer" endpoint 192.0.2.{p}:51820 '
        "allowed-ips 10.78.0.{p}/32; ip addr add 10.78.0.{n}/24 dev wgbench; ip link set wgbench mtu 1420 up; "
        f"{vxlan}; ip link set bench1 mtu {MTU_WIREGUARD_VXLAN}; {bridged('bench1')}",
        down=f"ip link del {BRIDGE}; ip link del bench1; ip link del wgbench; rm -f /run/wg.key",
        mtu=MTU_WIREGUARD_VXLAN,
        carried="wg show wgbench transfer | awk '{{print $3}}'",
    )


def ends(mtu: int, namespace: int) -> tuple[str, str]:
    """The veth pair between a bridge to come and the namespace that this process holds: made, and removed. The inner
    end has an address of its own on each host: udev would give it one by machine and name, and the hosts are one
    image."""
    inside = f"nsenter -t {namespace} -n"
    made = (
        f"ip link add {TAP} type veth peer name end0 address 02:00:00:00:00:0{{n}}; ip link set {TAP} mtu {mtu}; "
        f"ip link set end0 netns {namespace}; "
        f"{inside} ip addr add {INNER.format('{n}')}/24 dev end0; {inside} ip link set end0 mtu {mtu} up"
    )
    return made, f"ip link del {TAP}"
