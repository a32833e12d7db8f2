"""What of a text from outside may be shown, and what is a digest."""

import pytest

from shamon_host.domain.text import is_sha256, printable


@pytest.mark.parametrize(
    "text",
    ["", "a" * 63, "a" * 65, "A" * 64, "g" * 64, "a" * 64 + "\n", "a" * 63 + "١", None, 64, b"a" * 64, ["a" * 64]],
)
def test_no_digest(text: object) -> None:
    assert not is_sha256(text)


def test_a_digest() -> None:
    assert is_sha256("0123456789abcdef" * 4)


def test_what_a_terminal_would_take_for_more_than_text() -> None:
    assert printable("a\x1b[2J\nb\u202e c é") == "a?[2J?b? c é"
