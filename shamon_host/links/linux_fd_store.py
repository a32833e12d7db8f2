"""systemd's file descriptor store: link sockets wait there while the daemon restarts (sd_pid_notify_with_fds(3)).

An L2TP tunnel dies with the last descriptor of its socket. The store keeps one for as long as the unit is not stopped
and gives all back to the next daemon (sd_listen_fds(3)). Without `$NOTIFY_SOCKET` there is no store, and tunnels die
with the process.
"""

import array
import os
import select
import socket
from collections.abc import MutableMapping, Sequence

from shamon_host.domain.errors import BackendFailed

_FIRST_DESCRIPTOR = 3
"""SD_LISTEN_FDS_START."""
_MAX_DESCRIPTORS = 1 << 15
_ANSWER_LIMIT_S = 10.0


class FdStore:
    """The store of the unit that this process is the main process of. `environment`: normally os.environ; what systemd
    passed in it is taken out, so that no child mistakes it for its own."""

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        self._recovered = _recover(environment)

    def recovered(self) -> tuple[tuple[str, int], ...]:
        """(name, descriptor) of each that an earlier run left; the caller owns them. Empty when called again."""
        recovered, self._recovered = self._recovered, ()
        return recovered

    def put(self, name: str, descriptor: int) -> None:
        """Have it kept. FDPOLL=0: an ICMP error that a peer caused must not make systemd throw the socket out.

        Raises BackendFailed when the service manager does not answer."""
        self._notify([f"FDSTORE=1\nFDNAME={name}\nFDPOLL=0"], descriptor)

    def remove(self, *names: str) -> None:
        """Close the store's descriptors of these names; no error if there are none. Raises BackendFailed as `put`."""
        self._notify([f"FDSTOREREMOVE=1\nFDNAME={name}" for name in names], None)

    def _notify(self, states: Sequence[str], descriptor: int | None) -> None:
        if not self._address or not states:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        reader, writer = os.pipe2(os.O_CLOEXEC)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
                channel.settimeout(_ANSWER_LIMIT_S)
                channel.connect(address)
                for state in states:
                    _send(channel, state, descriptor)
                # Messages are taken in order; the pipe is closed when this one's turn comes.
                _send(channel, "BARRIER=1", writer)
            os.close(writer)
            writer = -1
            poll = select.poll()
            poll.register(reader, 0)
            if not poll.poll(_ANSWER_LIMIT_S * 1000):
                raise BackendFailed("the service manager does not answer", where=states[0].split("\n", 1)[0])
        except OSError as error:
            raise BackendFailed(
                "the service manager's descriptor store cannot be reached", found=error.strerror or str(error)
            ) from None
        finally:
            os.close(reader)
            if writer >= 0:
                os.close(writer)


def _send(channel: socket.socket, state: str, descriptor: int | None) -> None:
    ancillary = []
    if descriptor is not None:
        ancillary.append((socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor])))
    channel.sendmsg([state.encode()], ancillary)


def _recover(environment: MutableMapping[str, str]) -> tuple[tuple[str, int], ...]:
    owner = environment.pop("LISTEN_PID", "")
    count = environment.pop("LISTEN_FDS", "")
    names = environment.pop("LISTEN_FDNAMES", "").split(":")
    if owner != str(os.getpid()) or not count.isdecimal() or int(count) > _MAX_DESCRIPTORS:
        return ()
    recovered = []
    for index in range(int(count)):
        descriptor = _FIRST_DESCRIPTOR + index
        os.set_inheritable(descriptor, False)
        recovered.append((names[index] if index < len(names) else "", descriptor))
    return tuple(recovered)
