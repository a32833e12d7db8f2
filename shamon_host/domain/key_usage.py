"""How much one key of an SA may protect, and how much it does before there is a new one.

The cipher of links is AES-GCM. What an attacker gains from seeing s blocks of 16 bytes in q packets under one key is at
most (s + q + 1)² / 2^129 (Bellare and Tackmann's bound, as in draft-irtf-cfrg-aead-limits, section 5.1.1). RFC 9001,
section 6.6, keeps that below 2^-57, RFC 8446, section 5.5, about there too; so s + q stays below 2^36. A packet fills
its last block only in part, so a key may protect half of that in whole blocks (2^39 bytes) and a quarter in packets
(2^34, each of which counts for itself and for a block that is not full).

SP 800-38D, section 8.3, has a limit of 2^32 packets for nonces that are drawn; those of RFC 4106 in Linux are counted
(salt and sequence number), and with extended sequence numbers (RFC 4303, section 2.2.1) the count does not end first.
"""

HARD_BYTES = 1 << 39
HARD_PACKETS = 1 << 34
"""At these the kernel stops using a key. Nothing sets them higher, or lower."""
MARGIN = 4
"""A new key comes at a quarter of what ends the old one, at the latest: at 100 Gbit/s there is half a minute left."""

REKEY_BYTES = range(1 << 16, HARD_BYTES // MARGIN + 1)
REKEY_PACKETS = range(100, HARD_PACKETS // MARGIN + 1)
"""What a policy may ask for. Each rekey is a handshake, and costs both hosts a quote: the lower end is for tests."""
