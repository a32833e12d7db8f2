"""Live migration in memory: `hypervisor.ports.LiveMigration` of a `MemoryHypervisor` and the overlays of its host.

A machine is its memory (what its guest knows of its neighbours, and a note that tests write) and what it wrote to its
disk. Both are sent as they are when it stands still, so what it did while it was copied arrives too.
"""

import json
import socket
from dataclasses import dataclass, field

from shamon_host.domain.errors import BackendFailed
from shamon_host.domain.labels import VmName
from shamon_host.domain.streams import Stream
from shamon_host.hypervisor.ports import (
    DomainReport,
    DomainState,
    Receiving,
    Sending,
    SendingProgress,
    SendingState,
    VmSpec,
)
from shamon_host.testing.hypervisor import MemoryHypervisor
from shamon_host.testing.images import MemoryImages

_PIECE = 1 << 16
_LOOKS = 3
"""Looks at the progress until a machine stops."""


@dataclass(kw_only=True)
class MemoryLive:
    """See the module."""

    hypervisor: MemoryHypervisor
    images: MemoryImages
    sending: "MemorySending | None" = None
    """The last one."""

    def start_incoming(self, spec: VmSpec) -> DomainReport:
        report = self.hypervisor.start_paused(spec)
        self.hypervisor.waiting.add(spec.name)
        return report

    def receive(self, spec: VmSpec, *, disk: Stream, memory: Stream) -> Receiving:
        if spec.name not in self.hypervisor.waiting:
            raise BackendFailed("the domain does not wait for its memory", where=spec.name)
        return MemoryReceiving(live=self, spec=spec, disk=disk, memory=memory)

    def send(self, domain: DomainReport, *, disk: Stream, memory: Stream) -> Sending:
        name, path = domain.name, domain.disk
        if self._state(name) is not DomainState.RUNNING:
            raise BackendFailed("the domain does not run", where=name)
        if path not in self.images.overlays:
            raise BackendFailed("QEMU has no such disk", where=path)
        disk.sendall(b"")
        self.sending = MemorySending(live=self, name=name, path=path, disk=disk, memory=memory)
        return self.sending

    def abandon(self, name: VmName) -> None:
        self.hypervisor.end_sending(name, whole=False)

    def _state(self, name: VmName) -> DomainState | None:
        return next((each.state for each in self.hypervisor.domains() if each.name == name), None)


@dataclass(kw_only=True)
class MemorySending:
    """`ports.Sending`."""

    live: MemoryLive
    name: VmName
    path: str
    disk: Stream
    memory: Stream
    looks: int = 0
    fails: str = ""
    """A test lets it fail for this reason."""
    _cancelled: bool = False

    def progress(self) -> SendingProgress:
        state = self.live._state(self.name)
        if state is None or self.fails:
            return SendingProgress(state=SendingState.FAILED, found=self.fails or "the machine ended")
        self.looks += 1
        if self.looks < _LOOKS:
            return SendingProgress(state=SendingState.COPYING, disk_bytes=self.looks)
        self.live.hypervisor.stop_for_the_rest(self.name)
        return SendingProgress(state=SendingState.STOPPED, disk_bytes=self.looks)

    def end_disk(self) -> None:
        self._send(self.disk, {"written": self.live.images.overlays[self.path].written})

    def end_memory(self) -> None:
        try:
            self._send(self.memory, self.live.hypervisor.guest(self.name).memory())
        except BackendFailed:
            self.live.hypervisor.end_sending(self.name, whole=False)
            raise
        self.live.hypervisor.end_sending(self.name, whole=True)

    def cancel(self) -> None:
        if self._cancelled:
            return
        self._cancelled = True
        self.close()
        self.live.abandon(self.name)

    def close(self) -> None:
        self.disk.close()
        self.memory.close()

    def _send(self, stream: Stream, content: object) -> None:
        if self.live._state(self.name) is not DomainState.PAUSED:
            raise BackendFailed("what is sent last is sent while the machine stands still", where=self.name)
        try:
            stream.sendall(json.dumps(content).encode())
            stream.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise BackendFailed("it was not sent to its end", where=self.name, found=str(error)) from None


@dataclass(kw_only=True)
class MemoryReceiving:
    """`ports.Receiving`."""

    live: MemoryLive
    spec: VmSpec
    disk: Stream
    memory: Stream
    _closed: bool = field(default=False, init=False)

    def failed(self) -> str:
        return "" if self.live._state(self.spec.name) is DomainState.PAUSED else "the machine ended"

    def finish(self, timeout_s: float) -> None:
        if self.spec.name not in self.live.hypervisor.waiting or self.failed():
            raise BackendFailed("the domain does not wait for its memory", where=self.spec.name, found=self.failed())
        disk, memory = _all_of(self.disk), _all_of(self.memory)
        self.live.images.overlays[self.spec.disk].written = str(disk["written"])
        self.live.hypervisor.guest(self.spec.name).load(memory)
        self.live.hypervisor.waiting.discard(self.spec.name)
        self.close()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self.disk.close()
            self.memory.close()


def _all_of(stream: Stream) -> dict[str, object]:
    data = b""
    try:
        while more := stream.recv(_PIECE):
            data += more
        return dict(json.loads(data))
    except (OSError, ValueError, TypeError) as error:
        raise BackendFailed("the machine did not arrive whole", found=str(error)) from None
