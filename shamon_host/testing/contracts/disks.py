"""What every `hypervisor.ports.Disks` must do: subclass `DisksContract`, give it a `rack`."""

import hashlib
from collections.abc import Callable, Iterator
from typing import Protocol

import pytest

from shamon_host.domain.errors import BackendFailed, BadInput, NotTrusted
from shamon_host.domain.labels import SelinuxContext
from shamon_host.hypervisor.ports import DiskFile, Disks

DATA, OTHER, NOWHERE = "data", "other", "nowhere"
CONTENT = b"what the policy pins\n" * 100
LABEL = SelinuxContext(user="system_u", role="object_r", type="virt_content_t", categories=frozenset({700, 701}))
SECOND_LABEL = SelinuxContext(user="system_u", role="object_r", type="svirt_image_t", categories=frozenset({7, 8}))


class Rack(Protocol):
    """A place with the files of the disks `data` and `other`, fresh in libvirt's directory; `nowhere` has no path."""

    @property
    def disks(self) -> Disks: ...

    def move(self, disk: str, onto: str) -> None:
        """Give one disk's path to another's file, which is gone from where it was."""
        ...

    def change(self, disk: str) -> None:
        """Change one byte of the file."""
        ...

    def remove(self, disk: str) -> None: ...


class DisksContract:
    """The suite. Each file holds `CONTENT`."""

    @pytest.fixture
    def rack(self) -> Iterator[Rack]:
        """A rack as described."""
        raise NotImplementedError

    def test_a_fresh_file_is_nobody_s(self, rack: Rack) -> None:
        label = rack.disks.inspect(DATA).label
        assert label is not None
        assert (label.type, label.categories) == ("virt_image_t", frozenset())

    def test_a_label_that_was_set_is_read_back(self, rack: Rack) -> None:
        for label in (LABEL, SECOND_LABEL, LABEL):
            rack.disks.relabel(DATA, rack.disks.inspect(DATA), label)
            assert rack.disks.inspect(DATA).label == label
        assert rack.disks.inspect(OTHER).label not in (LABEL, SECOND_LABEL)

    def test_a_file_is_the_same_wherever_it_is_moved_to(self, rack: Rack) -> None:
        first, second = rack.disks.inspect(DATA), rack.disks.inspect(OTHER)
        assert first.identity != second.identity
        rack.disks.relabel(OTHER, second, SECOND_LABEL)
        rack.change(OTHER)
        rack.move(OTHER, onto=DATA)
        assert rack.disks.inspect(DATA) == DiskFile(identity=second.identity, label=SECOND_LABEL)

    def test_no_other_file_is_labelled_than_the_one_that_was_seen(self, rack: Rack) -> None:
        seen = rack.disks.inspect(DATA)
        rack.move(OTHER, onto=DATA)
        with pytest.raises(NotTrusted):
            rack.disks.relabel(DATA, seen, LABEL)
        now = rack.disks.inspect(DATA)
        rack.disks.relabel(DATA, now, LABEL)
        with pytest.raises(NotTrusted):
            rack.disks.relabel(DATA, now, SECOND_LABEL)
        assert rack.disks.inspect(DATA).label == LABEL

    def test_content_is_compared_whole(self, rack: Rack) -> None:
        pin = hashlib.sha256(CONTENT).hexdigest()
        rack.disks.verify(DATA, pin)
        rack.disks.relabel(DATA, rack.disks.inspect(DATA), LABEL)
        for _ in range(2):
            rack.disks.verify(DATA, pin)
        rack.change(DATA)
        for _ in range(2):
            with pytest.raises(NotTrusted, match=pin):
                rack.disks.verify(DATA, pin)
        rack.disks.verify(OTHER, pin)

    def test_no_file(self, rack: Rack) -> None:
        rack.remove(DATA)
        for call in calls(rack, DATA):
            with pytest.raises(BackendFailed, match=rack.disks.path(DATA)):
                call()

    def test_no_path(self, rack: Rack) -> None:
        for call in (lambda: rack.disks.path(NOWHERE), *calls(rack, NOWHERE)):
            with pytest.raises(BadInput, match=NOWHERE):
                call()


def calls(rack: Rack, disk: str) -> tuple[Callable[[], object], ...]:
    """Everything that needs the file."""
    return (
        lambda: rack.disks.inspect(disk),
        lambda: rack.disks.relabel(disk, DiskFile(identity="", label=None), LABEL),
        lambda: rack.disks.verify(disk, "0" * 64),
    )
