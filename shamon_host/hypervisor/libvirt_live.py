"""Live migration of QEMU's machines, past libvirt's own: no host gets a connection to the libvirtd of another one.

libvirt starts the machine on both hosts, from this host's own XML, and labels it; what moves it is said to QEMU's
monitor, through libvirt. The memory is QEMU's own migration stream, the disk a mirror into an NBD export of the QEMU
that waits there: each writes only its own files, under its own label, and the daemon in between sees neither. QEMU has
one end of a socket pair for each, made under the machine's own label, and the other end is relayed.

The order is that of libvirt's own migrations with disks (QEMU, docs/interop/live-block-operations.rst, "NBD server and
drive-mirror"): mirror until both are alike, memory until little is left, which stops the machine
(`pause-before-switchover`), end the mirror, then what is left of the memory.
"""

import contextlib
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import libvirt_qemu

from shamon_host.domain.errors import BackendFailed
from shamon_host.domain.labels import SelinuxContext, VmContext, VmName
from shamon_host.domain.streams import Stream
from shamon_host.hypervisor.answers import Unanswered, answered
from shamon_host.hypervisor.libvirt_qemu import LibvirtQemu
from shamon_host.hypervisor.ports import (
    RUNNING_STATES,
    DomainReport,
    Receiving,
    Sending,
    SendingProgress,
    SendingState,
    VmSpec,
)
from shamon_host.hypervisor.qemu_monitor import QemuMonitor
from shamon_host.hypervisor.relay import Relay
from shamon_host.selinux.sockcreate import creating_under

_PREFIX = "shamon-"
_DAEMON_TYPE = "shamon_t"
_EXPORT = "shamon"
_POLL_S = 0.01
_ANSWER_S = 20.0
"""For one answer of a machine's monitor: less than the 30 s after which libvirt refuses a second question."""
_END_S = 120.0
"""For what is left when the machine has stopped."""
_CANCEL_S = 20.0
_DOWNTIME_MS = 300
_OVER = ("completed", "failed", "cancelled", "none")


@dataclass(frozen=True, kw_only=True)
class LibvirtLive:
    """`hypervisor.ports.LiveMigration`. `directory`: for root alone, where sockets are for a moment."""

    qemu: LibvirtQemu
    directory: Path

    def start_incoming(self, spec: VmSpec) -> DomainReport:
        return self.qemu.start_incoming(spec)

    def receive(self, spec: VmSpec, *, disk: Stream, memory: Stream) -> Receiving:
        monitor = self._monitor(spec.name)
        receiving = _LibvirtReceiving(monitor=monitor)
        try:
            near = self._exported(monitor, spec)
            receiving.disk = Relay(near=near, far=disk)
            receiving.disk.start()
            near, theirs = _pair(spec.context)
            receiving.memory = Relay(near=near, far=memory, near_speaks=False)
            with theirs:
                monitor.give(theirs.fileno(), f"{_PREFIX}memory")
            monitor.ask("migrate-incoming", {"uri": f"fd:{_PREFIX}memory"})
            receiving.memory.start()
        except BaseException:
            receiving.close()
            disk.close()
            memory.close()
            raise
        return receiving

    def send(self, domain: DomainReport, *, disk: Stream, memory: Stream) -> Sending:
        monitor = self._monitor(domain.name)
        sending = _LibvirtSending(
            monitor=monitor,
            name=f"{_PREFIX}{secrets.token_hex(4)}",
            context=domain.context,
            memory_stream=memory,
        )
        try:
            _remove_left(monitor)
            sending.start_disk(domain.disk, disk)
        except BaseException:
            with contextlib.suppress(BackendFailed):
                sending.cancel()
            disk.close()
            raise
        return sending

    def abandon(self, name: VmName) -> None:
        if any(report.name == name and report.state in RUNNING_STATES for report in self.qemu.domains()):
            _abandon(self._monitor(name))

    def _monitor(self, name: VmName) -> QemuMonitor:
        silent: list[Unanswered] = []

        def command(text: str, descriptor: int = -1, /) -> str:
            """What did not answer once is not waited for again."""
            if silent:
                raise silent[0]
            # The thread may be left behind, and whoever gives the file closes it then.
            given = -1 if descriptor < 0 else os.dup(descriptor)
            try:
                return answered(lambda: asked(text, given), _ANSWER_S, where=name)
            except Unanswered as error:
                silent.append(error)
                raise

        def asked(text: str, descriptor: int) -> str:
            with _closing(descriptor), self.qemu.connected() as connection:
                domain = connection.lookupByName(name)
                if descriptor < 0:
                    return str(libvirt_qemu.qemuMonitorCommand(domain, text, 0))
                answer, files = libvirt_qemu.qemuMonitorCommandWithFiles(domain, text, [descriptor])
                for file in files:
                    file.close()
                return str(answer)

        return QemuMonitor(command)

    def _exported(self, monitor: QemuMonitor, spec: VmSpec) -> socket.socket:
        """Let QEMU serve its disk to whoever has this socket, and to nobody else: the address is gone when it is
        connected. Raises BackendFailed."""
        address = self.directory / f"nbd-{secrets.token_hex(8)}"
        try:
            with _under(spec.context):
                listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            with listening:
                listening.bind(os.fspath(address))
                listening.listen(1)
                monitor.give(listening.fileno(), f"{_PREFIX}nbd")
                server = {"type": "fd", "data": {"str": f"{_PREFIX}nbd"}}
                monitor.ask("nbd-server-start", {"addr": server, "max-connections": 1})
                export = {"type": "nbd", "id": _EXPORT, "name": _EXPORT, "writable": True}
                monitor.ask("block-export-add", {**export, "node-name": monitor.node_of(spec.disk)})
            with _under(_asking(spec.context)):
                connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            try:
                connected.connect(os.fspath(address))
            except OSError:
                connected.close()
                raise
            return connected
        except OSError as error:
            raise BackendFailed("no socket for QEMU's disk", where=str(self.directory), found=str(error)) from None
        finally:
            address.unlink(missing_ok=True)


@dataclass(kw_only=True)
class _LibvirtReceiving:
    """`ports.Receiving`."""

    monitor: QemuMonitor
    disk: Relay | None = None
    memory: Relay | None = None

    def failed(self) -> str:
        status = self.monitor.migration()
        if status.status == "failed":
            return f"QEMU cannot load the memory: {status.error}"
        broken = next((relay.broken for relay in (self.disk, self.memory) if relay is not None and relay.broken), "")
        return f"a stream broke: {broken}" if broken else ""

    def finish(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        if self.disk is None or self.memory is None:
            raise BackendFailed("nothing of the machine came")
        while (status := self.monitor.migration().status) != "completed" or not self.disk.far_ended.is_set():
            if (why := self.failed()) or time.monotonic() > deadline:
                raise BackendFailed(
                    "the machine did not arrive whole", expected="its memory and disk", found=why or status
                )
            time.sleep(_POLL_S)
        self.monitor.ask("nbd-server-stop")
        self.close()

    def close(self) -> None:
        for relay in (self.disk, self.memory):
            if relay is not None:
                relay.close()


@dataclass(kw_only=True)
class _LibvirtSending:
    """`ports.Sending`. `name`: of the job, and of the block node that is the other host's export."""

    monitor: QemuMonitor
    name: str
    context: VmContext | None
    memory_stream: Stream
    _disk: Relay | None = field(init=False, default=None)
    _memory: Relay | None = field(init=False, default=None)
    _cancelled: bool = field(init=False, default=False)

    def start_disk(self, path: str, stream: Stream) -> None:
        node = self.monitor.node_of(path)
        near, theirs = _pair(self.context)
        self._disk = Relay(near=near, far=stream)
        self._disk.start()
        with theirs:
            self.monitor.give(theirs.fileno(), f"{_PREFIX}disk")
        server = {"type": "fd", "str": f"{_PREFIX}disk"}
        self.monitor.ask("blockdev-add", {"driver": "nbd", "node-name": self.name, "server": server, "export": _EXPORT})
        self.monitor.ask(
            "blockdev-mirror",
            {
                "job-id": self.name,
                "device": node,
                "target": self.name,
                "sync": "top",
                "filter-node-name": f"{self.name}-filter",
                "on-source-error": "report",
                "on-target-error": "report",
                "auto-dismiss": False,
            },
        )

    def progress(self) -> SendingProgress:
        job = self.monitor.jobs().get(self.name)
        if job is None or job.status in ("concluded", "aborting", "null"):
            return self._failed(f"the disk: {job.error if job else 'its copy ended'}")
        sent = self._sent(job.done_bytes)
        if self._memory is None:
            if job.status == "ready":
                self._start_memory()
            return sent
        status = self.monitor.migration()
        if status.status == "pre-switchover":
            return self._sent(job.done_bytes, status.sent_bytes, SendingState.STOPPED)
        if status.status in _OVER:
            return self._failed(f"the memory: {status.status} {status.error}")
        return self._sent(job.done_bytes, status.sent_bytes)

    def end_disk(self) -> None:
        self.monitor.ask("block-job-cancel", {"device": self.name})

        def concluded() -> bool:
            job = self.monitor.jobs().get(self.name)
            if job is None or job.error:
                raise BackendFailed("the disk was not sent to its end", found=job.error if job else "no such job")
            return job.status == "concluded"

        _until(concluded, _END_S, "the disk is sent")
        self.monitor.ask("job-dismiss", {"id": self.name})
        self.monitor.ask("blockdev-del", {"node-name": self.name})
        if self._disk is None or not self._disk.near_ended.wait(_END_S) or self._disk.broken:
            raise BackendFailed("the disk was not sent to its end", found=self._disk.broken if self._disk else "")

    def end_memory(self) -> None:
        self.monitor.ask("migrate-continue", {"state": "pre-switchover"})

        def over() -> bool:
            status = self.monitor.migration()
            if status.status in ("failed", "cancelled"):
                raise BackendFailed("the memory was not sent to its end", found=f"{status.status} {status.error}")
            return status.status == "completed"

        _until(over, _END_S, "the memory is sent")
        if self._memory is None or not self._memory.near_ended.wait(_END_S) or self._memory.broken:
            raise BackendFailed("the memory was not sent to its end", found=self._memory.broken if self._memory else "")

    def cancel(self) -> None:
        if self._cancelled:
            return
        self._cancelled = True
        try:
            _abandon(self.monitor)
        finally:
            self.close()

    def close(self) -> None:
        for relay in (self._disk, self._memory):
            if relay is not None:
                relay.close()
        self.memory_stream.close()

    def _start_memory(self) -> None:
        self.monitor.set_capabilities(dict.fromkeys(_CAPABILITIES, True))
        self.monitor.ask("migrate-set-parameters", {"downtime-limit": _DOWNTIME_MS})
        near, theirs = _pair(self.context)
        self._memory = Relay(near=near, far=self.memory_stream, far_speaks=False)
        self._memory.start()
        with theirs:
            self.monitor.give(theirs.fileno(), f"{_PREFIX}memory")
        self.monitor.ask("migrate", {"uri": f"fd:{_PREFIX}memory"})

    def _sent(
        self, disk_bytes: int, memory_bytes: int = 0, state: SendingState = SendingState.COPYING
    ) -> SendingProgress:
        return SendingProgress(state=state, disk_bytes=disk_bytes, memory_bytes=memory_bytes)

    def _failed(self, found: str) -> SendingProgress:
        broken = next((relay.broken for relay in (self._disk, self._memory) if relay is not None and relay.broken), "")
        return SendingProgress(state=SendingState.FAILED, found=f"{found} {broken}".strip())


_CAPABILITIES = ("pause-before-switchover", "auto-converge")


def _abandon(monitor: QemuMonitor) -> None:
    """End a migration however far it came. QEMU lets a machine run on that it had stopped itself, but for one that was
    sent whole; until this, no machine that it stopped before the switchover can be resumed. Raises BackendFailed."""
    monitor.ask("migrate_cancel")
    _until(lambda: monitor.migration().status in _OVER, _CANCEL_S, "the migration is over")
    monitor.set_capabilities(dict.fromkeys(_CAPABILITIES, False))
    _remove_left(monitor)


def _remove_left(monitor: QemuMonitor) -> None:
    """Jobs and nodes of an attempt that was cut short. Raises BackendFailed."""

    def ours() -> list[str]:
        jobs = {name: job for name, job in monitor.jobs().items() if name.startswith(_PREFIX)}
        for name, job in jobs.items():
            with contextlib.suppress(BackendFailed):  # it may conclude meanwhile
                if job.status == "concluded":
                    monitor.ask("job-dismiss", {"id": name})
                else:
                    monitor.ask("block-job-cancel", {"device": name, "force": True})
        return list(jobs)

    _until(lambda: not ours(), _CANCEL_S, "an earlier copy of the disk ends")
    for node in monitor.nodes():
        if node.startswith(_PREFIX):
            monitor.ask("blockdev-del", {"node-name": node})


def _asking(context: VmContext | None) -> VmContext | None:
    """Of a socket of the daemon's own that connects to one of the machine's: the machine's end of the connection gets
    the categories of the one that connects (selinux_socket_unix_stream_connect), and has to have its own."""
    return replace(context, type=_DAEMON_TYPE) if isinstance(context, SelinuxContext) else context


def _under(context: VmContext | None) -> contextlib.AbstractContextManager[None]:
    """Raises BackendFailed."""
    if not isinstance(context, SelinuxContext):
        raise BackendFailed("the machine has no label of SELinux", found=str(context))
    return creating_under(context)


def _pair(context: VmContext | None) -> tuple[socket.socket, socket.socket]:
    """Both ends under the machine's own label: for the daemon all the same, and the machine may use no others. Raises
    BackendFailed."""
    try:
        with _under(context):
            return socket.socketpair()
    except OSError as error:
        raise BackendFailed("no socket can be made under the label", where=str(context), found=str(error)) from None


@contextlib.contextmanager
def _closing(descriptor: int) -> Iterator[None]:
    """Afterwards, where there is one."""
    try:
        yield
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _until(holds: Callable[[], bool], within_s: float, what: str) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        if time.monotonic() > deadline:
            raise BackendFailed("QEMU does not come to an end", expected=what, found=f"not within {within_s:.0f} s")
        time.sleep(_POLL_S)
