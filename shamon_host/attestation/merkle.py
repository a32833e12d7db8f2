"""The Merkle tree that lets one quote stand for all the handshakes of a moment.

The Attester (`attester`) gathers the leaves of its handshakes, quotes over the root and gives each peer the path from
its leaf; the Verifier (`appraisal`) computes the root from leaf and path and demands it as the quote's qualifyingData.
Inner nodes are H(0x01 ‖ left ‖ right) and leaves H(0x00 ‖ ...), so that neither passes for the other. The shape of the
tree is the Attester's choice and does not matter: every path starts at a leaf that the Verifier made itself.

Source: RFC 6962, section 2.1 (domain separation of leaves and nodes).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from shamon_host.domain.errors import BadInput

MAX_DEPTH = 10
"""At most 1024 leaves share a quote."""
MAX_LEAVES = 1 << MAX_DEPTH
_DIGEST_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class MerkleTree:
    """A tree over leaves of 32 bytes. `levels[0]` holds the leaves, the last level the root alone."""

    levels: tuple[tuple[bytes, ...], ...]

    @classmethod
    def over(cls, leaves: Sequence[bytes]) -> "MerkleTree":
        """Raises BadInput for no leaves, more than MAX_LEAVES, or one that is not a digest."""
        if not 0 < len(leaves) <= MAX_LEAVES or any(len(leaf) != _DIGEST_BYTES for leaf in leaves):
            raise BadInput("bad leaves", expected=f"1 to {MAX_LEAVES} leaves of 32 bytes", found=str(len(leaves)))
        levels = [tuple(leaves)]
        while len(levels[-1]) > 1:
            # The last of an odd number of nodes is paired with itself, so that every path has the tree's full depth.
            below = levels[-1] + levels[-1][-1:] if len(levels[-1]) % 2 else levels[-1]
            levels.append(tuple(node(below[i], below[i + 1]) for i in range(0, len(below), 2)))
        return cls(levels=tuple(levels))

    @property
    def root(self) -> bytes:
        """32 bytes; the leaf itself where there is only one."""
        return self.levels[-1][0]

    def path(self, index: int) -> tuple[bytes, ...]:
        """Sibling digests from leaf `index` up. Raises BadInput for an index without a leaf."""
        if not 0 <= index < len(self.levels[0]):
            raise BadInput("no such leaf", expected=f"0-{len(self.levels[0]) - 1}", found=str(index))
        siblings = []
        for level in self.levels[:-1]:
            sibling = index ^ 1
            siblings.append(level[sibling] if sibling < len(level) else level[index])
            index >>= 1
        return tuple(siblings)


def node(left: bytes, right: bytes) -> bytes:
    """An inner node."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def root_from_path(leaf: bytes, index: int, path: Sequence[bytes]) -> bytes:
    """The root of the tree in which `leaf` stands at `index` with these siblings.

    Raises BadInput for a path that is too long, siblings that are no digests, or an index beyond the path's depth.
    """
    if len(path) > MAX_DEPTH or any(len(sibling) != _DIGEST_BYTES for sibling in path):
        raise BadInput("malformed Merkle path", expected=f"at most {MAX_DEPTH} digests of 32 bytes")
    if not 0 <= index < 1 << len(path):
        raise BadInput("the leaf's index is not in the tree", expected=f"0-{(1 << len(path)) - 1}", found=str(index))
    value = leaf
    for sibling in path:
        value = node(sibling, value) if index & 1 else node(value, sibling)
        index >>= 1
    return value
