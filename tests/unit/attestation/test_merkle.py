"""The Merkle tree over leaves: every leaf's path leads to the root, and nothing else does."""

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shamon_host.attestation.merkle import MAX_DEPTH, MAX_LEAVES, MerkleTree, node, root_from_path
from shamon_host.domain.errors import BadInput


def _leaves(count: int) -> list[bytes]:
    return [hashlib.sha256(b"\x00" + number.to_bytes(4, "big")).digest() for number in range(count)]


@settings(deadline=None)
@given(st.integers(1, 70))
def test_every_path_leads_to_the_root(count: int) -> None:
    tree = MerkleTree.over(_leaves(count))
    for index, leaf in enumerate(_leaves(count)):
        assert root_from_path(leaf, index, tree.path(index)) == tree.root


def test_a_single_leaf_is_its_own_root() -> None:
    (leaf,) = _leaves(1)
    tree = MerkleTree.over([leaf])
    assert tree.root == leaf
    assert tree.path(0) == ()


def test_two_leaves_as_written_down() -> None:
    left, right = _leaves(2)
    assert MerkleTree.over([left, right]).root == hashlib.sha256(b"\x01" + left + right).digest()


@settings(deadline=None)
@given(st.integers(2, 40), st.data())
def test_no_other_leaf_index_or_sibling_leads_to_the_root(count: int, data: st.DataObject) -> None:
    leaves = _leaves(count)
    tree = MerkleTree.over(leaves)
    index = data.draw(st.integers(0, count - 1))
    path = tree.path(index)
    other = data.draw(st.integers(0, count - 1).filter(lambda number: number != index))
    assert root_from_path(leaves[other], index, path) != tree.root
    broken = list(path)
    broken[data.draw(st.integers(0, len(path) - 1))] = bytes(32)
    assert root_from_path(leaves[index], index, broken) != tree.root


def test_an_inner_node_is_no_leaf() -> None:
    """A path that starts in the middle of the tree starts at bytes that no leaf hashes to."""
    leaves = _leaves(4)
    tree = MerkleTree.over(leaves)
    inner = node(leaves[0], leaves[1])
    assert root_from_path(inner, 0, tree.path(0)[1:]) == tree.root
    assert inner not in leaves


@pytest.mark.parametrize(("index", "depth"), [(1, 0), (2, 1), (-1, 1), (0, MAX_DEPTH + 1)])
def test_index_and_depth_are_bounded(index: int, depth: int) -> None:
    with pytest.raises(BadInput):
        root_from_path(bytes(32), index, [bytes(32)] * depth)


def test_a_sibling_is_a_digest() -> None:
    with pytest.raises(BadInput):
        root_from_path(bytes(32), 0, [bytes(31)])


@pytest.mark.parametrize("leaves", [[], [b"short"], [bytes(32)] * (MAX_LEAVES + 1)])
def test_leaves_are_bounded(leaves: list[bytes]) -> None:
    with pytest.raises(BadInput):
        MerkleTree.over(leaves)


def test_no_path_from_a_leaf_that_is_not_there() -> None:
    with pytest.raises(BadInput):
        MerkleTree.over(_leaves(3)).path(3)
