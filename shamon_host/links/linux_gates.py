"""The lease gates in this kernel, opened and closed through the nft program: several in one transaction."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from ipaddress import ip_address

from shamon_host.domain.errors import BackendFailed
from shamon_host.links.linux_nft import Nft, gate_element, gates_of

_SOON_S = 2.0
"""A shorter gate may be closed again when it is read back on a busy host."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gates:
    """See `linux_nft`. Addresses are canonical. Both methods return what failed, by address; each gate is tried."""

    nft: Nft

    def open(self, seconds: Mapping[str, float]) -> dict[str, BackendFailed]:
        """Set what is left of each gate, rounded down to milliseconds."""
        failures: dict[str, BackendFailed] = {}
        scripts: dict[str, str] = {}
        for address, left_s in seconds.items():
            milliseconds = math.floor(left_s * 1000) if math.isfinite(left_s) else 0
            if milliseconds < 1:
                # A timeout of 0 means none at all.
                failures[address] = BackendFailed(
                    "a gate cannot be opened for this long", where=address, found=f"{left_s} s"
                )
                continue
            scripts[address] = _remove(address) + _add(address, f"{milliseconds}ms")
        failures |= self._run(scripts, "open", absent_is_fine=False)
        gates = gates_of(self.nft.read()) if len(failures) < len(seconds) else {}
        for address, left_s in seconds.items():
            found_s = gates.get(address, 0.0)
            if address not in failures and (found_s > left_s or (found_s == 0.0 and left_s > _SOON_S)):
                failures[address] = BackendFailed(
                    "the gate reads back otherwise", where=address, expected=f"{left_s} s", found=f"{found_s} s"
                )
        return failures

    def close(self, addresses: Collection[str]) -> dict[str, BackendFailed]:
        """No error for one that is closed, or where there is no table."""
        failures = self._run({address: _remove(address) for address in addresses}, "close", absent_is_fine=True)
        still_open = gates_of(self.nft.read())
        for address in addresses:
            if address in still_open:
                failures.setdefault(address, BackendFailed("the gate is still open", where=address))
        return failures

    def _run(self, scripts: Mapping[str, str], verb: str, *, absent_is_fine: bool) -> dict[str, BackendFailed]:
        """All in one transaction; where that fails each by itself, so that one keeps no other from being tried."""
        if not scripts:
            return {}
        operation = f"{verb} the gates of {', '.join(scripts)}"[:300]
        try:
            self.nft.run_script("".join(scripts.values()), operation, absent_is_fine=absent_is_fine)
            return {}
        except BackendFailed as error:
            if len(scripts) == 1:
                return dict.fromkeys(scripts, error)
        failures: dict[str, BackendFailed] = {}
        for address, script in scripts.items():
            failures |= self._run({address: script}, verb, absent_is_fine=absent_is_fine)
        return failures


def canonical(address: str) -> str:
    """As nft lists it. Raises ValueError."""
    return str(ip_address(address))


def _add(address: str, timeout: str) -> str:
    return f"add element {gate_element(address)} timeout {timeout} }}\n"


def _remove(address: str) -> str:
    """Added so that it is there to be deleted."""
    return _add(address, "1s") + f"delete element {gate_element(address)} }}\n"
