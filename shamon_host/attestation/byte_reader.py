"""A bounds-checked cursor over bytes that a stranger sent.

TPM structures are big-endian, event logs and PE files little-endian; both are length-prefixed in every place, and every
length is an attacker's. All parsers of this package read through this one class, so that an over-long length, a short
buffer or trailing bytes end in the parser's own error type, never in an IndexError or a silent short slice.
"""

from typing import Literal

from shamon_host.domain.errors import ShamonError


class ByteReader:
    """Reads integers and byte strings in order; raises `error` when the bytes run out."""

    __slots__ = ("_data", "_error", "_order", "_where", "offset")

    def __init__(
        self,
        data: bytes,
        *,
        order: Literal["big", "little"],
        error: type[ShamonError],
        where: str,
        offset: int = 0,
    ) -> None:
        self._data = data
        self._order: Literal["big", "little"] = order
        self._error = error
        self._where = where
        self.offset = offset

    @property
    def remaining(self) -> int:
        """Number of bytes that have not been read."""
        return len(self._data) - self.offset

    def take(self, count: int, what: str) -> bytes:
        """The next `count` bytes. Raises the reader's error if fewer are left."""
        if count > self.remaining:
            raise self._error(
                f"{what} does not fit",
                where=f"{self._where}, byte {self.offset}",
                expected=f"{count} bytes",
                found=f"{self.remaining} left",
            )
        start = self.offset
        self.offset += count
        return self._data[start : self.offset]

    def rest(self) -> bytes:
        """All bytes that are left."""
        return self.take(self.remaining, "rest")

    def uint(self, size: int, what: str) -> int:
        """An unsigned integer of `size` bytes."""
        return int.from_bytes(self.take(size, what), self._order)

    def u8(self, what: str) -> int:
        return self.uint(1, what)

    def u16(self, what: str) -> int:
        return self.uint(2, what)

    def u32(self, what: str) -> int:
        return self.uint(4, what)

    def u64(self, what: str) -> int:
        return self.uint(8, what)

    def sized(self, size_bytes: int, what: str, *, limit: int) -> bytes:
        """A byte string behind its own length of `size_bytes` bytes; longer than `limit` is refused."""
        size = self.uint(size_bytes, f"length of {what}")
        if size > limit:
            raise self._error(
                f"{what} is too long",
                where=f"{self._where}, byte {self.offset}",
                expected=f"at most {limit} bytes",
                found=f"{size}",
            )
        return self.take(size, what)

    def end(self) -> None:
        """Raises if bytes are left: a structure is what it says, with nothing behind it."""
        if self.remaining:
            raise self._error(
                "bytes follow the end of the structure", where=self._where, found=f"{self.remaining} extra bytes"
            )
