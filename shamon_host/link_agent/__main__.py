"""``python3 -m shamon_host.link_agent``: the program of a MAC VM, started by its init. It ends with the VM.

The composition root of the MAC VM: the only place in it that knows the real kernel.
"""

import asyncio
import socket
import sys
import threading
from contextlib import closing
from pathlib import Path

from shamon_host.attestation.guest_messages import GUEST_PORT, MAX_REQUEST_BYTES
from shamon_host.attestation.linux_logs import LinuxMeasurementLogs
from shamon_host.attestation.tpm_bare import DEVICE, open_bare_tpm
from shamon_host.domain.errors import BackendFailed, BadInput, ShamonError
from shamon_host.guest_agent.answering import Answering
from shamon_host.guest_agent.vsock import listen, serve
from shamon_host.link_agent.agent import LinkAgent
from shamon_host.link_agent.interfaces import MacVmInterfaces
from shamon_host.link_agent.kernel_log import denials
from shamon_host.link_agent.relay import Relay
from shamon_host.link_agent.setup import (
    AGENT_PORT,
    CONTROL_INTERFACE,
    CONTROL_PREFIX,
    MAC_VM_ADDRESS,
    PROXY_PORT,
)
from shamon_host.links.linux_interfaces import name_interface
from shamon_host.links.linux_kernel import LinuxLinkKernel

_CMDLINE, _BOOT_ID = Path("/proc/cmdline"), Path("/proc/sys/kernel/random/boot_id")
_CONTROL_WORD = "shamon.control="


def main() -> int:
    """Serve until the end. Returns the exit code; says on standard error why it ended."""
    try:
        asyncio.run(_serve())
    except ShamonError as error:
        print(f"link-agent: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    return 1


async def _serve() -> None:
    address = f"{MAC_VM_ADDRESS}/{CONTROL_PREFIX}"
    await asyncio.to_thread(name_interface, _control_mac(), CONTROL_INTERFACE, address=address)
    relay = Relay()
    with closing(LinuxLinkKernel(environment={})) as kernel:
        interfaces = MacVmInterfaces(name=name_interface, loop=asyncio.get_running_loop(), relay=relay)
        agent = LinkAgent(kernel, interfaces.set_up, _BOOT_ID.read_text(encoding="ascii").strip(), denials)
        agent.start()
        asked = await asyncio.start_server(agent.serve, sock=_on_control_wire(AGENT_PORT))
        out = await asyncio.start_server(relay.proxied, sock=_on_control_wire(PROXY_PORT))
        print("link-agent: ready", flush=True)
        async with asked, out:
            await asyncio.gather(
                asked.serve_forever(), out.serve_forever(), *([_attested()] if DEVICE.exists() else [])
            )


def _attested() -> asyncio.Future[None]:
    """Show the host what runs here, in a thread of its own; done with the error by which that ends."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()

    def answer() -> None:
        try:
            with listen(GUEST_PORT) as listening, open_bare_tpm() as tpm:
                answering = Answering(tpm=tpm, logs=LinuxMeasurementLogs())
                serve(listening, answering.answer, most=MAX_REQUEST_BYTES)
        except ShamonError as error:
            found = error
        else:
            found = BackendFailed("nobody answers the host any more")
        loop.call_soon_threadsafe(ended.set_exception, found)

    threading.Thread(target=answer, name="answers to the host", daemon=True).start()
    return ended


def _control_mac() -> str:
    words = [word for word in _CMDLINE.read_text(encoding="ascii").split() if word.startswith(_CONTROL_WORD)]
    if len(words) != 1:
        raise BadInput("the kernel's command line does not name the control wire", expected=f"one {_CONTROL_WORD}MAC")
    return words[0].removeprefix(_CONTROL_WORD)


def _on_control_wire(port: int) -> socket.socket:
    """Whoever comes over any other interface, under whatever address, does not get here (SO_BINDTODEVICE)."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, CONTROL_INTERFACE.encode())
    listener.bind((MAC_VM_ADDRESS, port))
    listener.listen(128)
    return listener


if __name__ == "__main__":
    sys.exit(main())
