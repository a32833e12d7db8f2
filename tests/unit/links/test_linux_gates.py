"""Gates through nft: all in one transaction, and each by itself where that fails."""

import pytest

from shamon_host.domain.errors import BackendFailed
from shamon_host.links.linux_gates import Gates
from shamon_host.links.linux_nft import Nft, Object

FIRST, SECOND, SIXTH = "192.0.2.2", "192.0.2.3", "2001:db8::2"


class PlayedNft(Nft):
    """Runs no program: understands the scripts of gates, refuses those that name an address of `refused`."""

    def __init__(self, refused: tuple[str, ...] = ()) -> None:
        super().__init__(program="/nonexistent")
        self.refused = refused
        self.scripts: list[str] = []
        self.elements: dict[str, float] = {}

    def run_script(self, script: str, operation: str, *, absent_is_fine: bool = False) -> None:
        self.scripts.append(script)
        if any(f"{{ {address} " in script for address in self.refused):
            raise BackendFailed("nft refused", where=operation)
        for line in script.splitlines():
            verb, _, _, _, _, _, address, *rest = line.split()
            if verb == "delete":
                del self.elements[address]
            else:
                self.elements[address] = float(rest[1].removesuffix("ms").removesuffix("s")) / (
                    1000 if rest[1].endswith("ms") else 1
                )

    def read(self) -> tuple[Object, ...]:
        def listed(version: int) -> Object:
            elements = [
                {"elem": {"val": address, "timeout": 60, "expires": int(seconds)}}
                for address, seconds in self.elements.items()
                if (":" in address) is (version == 6)
            ]
            return {"set": {"family": "inet", "table": "shamon", "name": f"gate{version}", "elem": elements}}

        return listed(4), listed(6)


def test_gates_open_and_close_in_one_transaction_each() -> None:
    nft = PlayedNft()
    gates = Gates(nft=nft)
    assert gates.open({FIRST: 30.0, SIXTH: 60.5}) == {}
    assert nft.elements == {FIRST: 30.0, SIXTH: 60.5}
    assert gates.close([FIRST, SECOND]) == {}
    assert nft.elements == {SIXTH: 60.5}
    assert len(nft.scripts) == 2


def test_one_that_fails_keeps_no_other_from_being_tried() -> None:
    nft = PlayedNft(refused=(SECOND,))
    gates = Gates(nft=nft)
    assert set(gates.open({FIRST: 30.0, SECOND: 30.0, SIXTH: 0.0})) == {SECOND, SIXTH}
    assert set(nft.elements) == {FIRST}
    nft.elements[SECOND] = 30.0
    failures = gates.close([FIRST, SECOND])
    assert set(failures) == {SECOND}
    assert nft.elements == {SECOND: 30.0}


def test_a_gate_that_reads_back_otherwise_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    nft = PlayedNft()
    gates = Gates(nft=nft)
    monkeypatch.setattr(nft, "run_script", lambda *_, **__: None)
    nft.elements[SECOND] = 90.0
    failures = gates.open({FIRST: 30.0, SECOND: 30.0, SIXTH: 1.5})
    assert set(failures) == {FIRST, SECOND}
    assert "still open" in str(gates.close([SECOND])[SECOND])


def test_nothing_is_run_for_nothing() -> None:
    nft = PlayedNft()
    assert Gates(nft=nft).open({}) == {}
    assert nft.scripts == []
