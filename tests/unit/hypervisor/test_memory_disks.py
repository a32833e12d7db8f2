"""Files of disks in memory pass the contract."""

from dataclasses import dataclass, field

import pytest

from shamon_host.testing.contracts.disks import CONTENT, DATA, OTHER, DisksContract
from shamon_host.testing.disks import MemoryDisks


@dataclass(kw_only=True)
class MemoryRack:
    disks: MemoryDisks = field(default_factory=MemoryDisks)

    def __post_init__(self) -> None:
        for disk in (DATA, OTHER):
            self.disks.add(disk, CONTENT)

    def move(self, disk: str, onto: str) -> None:
        files = self.disks.files
        files[self.disks.path(onto)] = files.pop(self.disks.path(disk))

    def change(self, disk: str) -> None:
        file = self.disks.files[self.disks.path(disk)]
        file.content = file.content[:-1] + b"!"

    def remove(self, disk: str) -> None:
        del self.disks.files[self.disks.path(disk)]


class TestMemoryDisks(DisksContract):
    @pytest.fixture
    def rack(self) -> MemoryRack:
        return MemoryRack()
