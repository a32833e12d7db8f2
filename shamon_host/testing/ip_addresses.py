"""IP addresses as text and as bytes, each worked out once: a world in memory has few, and every packet needs them."""

from functools import lru_cache
from ipaddress import ip_address

_MANY = 4096


@lru_cache(_MANY)
def packed(address: str) -> bytes:
    """4 or 16 bytes. Raises ValueError for what is no address."""
    return ip_address(address).packed


@lru_cache(_MANY)
def unpacked(address: bytes) -> str:
    """The text of 4 or 16 bytes. Raises ValueError for any other number of them."""
    return str(ip_address(address))


@lru_cache(_MANY)
def family(address: str) -> int:
    """4 or 6. Raises ValueError for what is no address."""
    return ip_address(address).version
