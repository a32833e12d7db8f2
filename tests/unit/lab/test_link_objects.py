"""Which SAs of iproute2's listing count: those with a key."""

from tests.integration.lab.link_objects import count_keyed

LISTING = """\
src 192.0.2.1 dst 192.0.2.2
\tproto esp spi 0x3e841ea1 reqid 24577 mode transport
\treplay-window 0 flag esn
\taead rfc4106(gcm(aes)) 0x00000000 128
\tanti-replay esn context:
\tsecurity context system_u:object_r:shamon_link_t:s0:c1
src 192.0.2.2 dst 192.0.2.1
\tproto esp spi 0x59485533 reqid 24577 mode transport
\taead rfc4106(gcm(aes)) 0x00000000 128
src 192.0.2.1 dst 192.0.2.2
\tproto esp spi 0x00000000 reqid 24577 mode transport
\treplay-window 0
\tsel src 192.0.2.1/32 dst 192.0.2.2/32 proto udp sport 24577 dport 24576
src 192.0.2.2 dst 192.0.2.1
\tproto esp spi 0xee063ea4 reqid 0 mode transport
\treplay-window 0
src 192.0.2.3 dst 192.0.2.1
\tproto esp spi 0x13d612df reqid 24580 mode transport
\taead rfc4106(gcm(aes)) 0x00000000 128
"""


def test_only_sas_with_a_key_count() -> None:
    assert count_keyed(LISTING, "192.0.2.2") == 2
    assert count_keyed(LISTING, "192.0.2.3") == 1
    assert count_keyed("", "192.0.2.2") == 0
