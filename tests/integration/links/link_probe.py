"""Runs inside a lab host, as a service in the daemon's SELinux domain: holds a `LinuxLinkKernel` for a test.

A request on its socket is Python source; `kernel`, `events` and the links' model are at hand, and what the source
leaves in `answer` goes back as JSON, or the error in words. Usage: link_probe.py SOCKET
"""

import asyncio
import json
import sys
import traceback
from pathlib import Path
from typing import Any

from shamon_host.daemon.systemd import notify
from shamon_host.links import desired, model
from shamon_host.links.linux_kernel import LinuxLinkKernel
from shamon_host.links.ports import KernelEvent


async def serve(socket: Path) -> None:
    """Until the service is stopped."""
    kernel = LinuxLinkKernel()
    events: list[KernelEvent] = []
    kernel.subscribe(events.append)
    names: dict[str, Any] = {**vars(model), **vars(desired), "kernel": kernel, "events": events}

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        source = (await reader.read()).decode()
        names["answer"] = None
        try:
            exec(source, names)
            told = {"answer": names["answer"]}
        except Exception as error:  # noqa: BLE001 whatever it is, the test wants to know
            told = {"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}
        writer.write(json.dumps(told, default=str).encode())
        writer.close()

    socket.unlink(missing_ok=True)
    server = await asyncio.start_unix_server(answer, socket)
    notify("READY=1")
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
