"""`LinkAgent`: what runs in a MAC VM. It carries out, on the VM's own kernel, what the host's daemon asks.

Calls go one after the other, each in a worker thread; what the kernel tells goes to whoever asked for it.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from shamon_host.domain.errors import BackendFailed, BadInput, ShamonError
from shamon_host.link_agent.frames import CALLS, EVENTS, HEADER, document_in, failure_words, frame, frame_length
from shamon_host.link_agent.setup import MacVmSetup
from shamon_host.link_agent.values import from_json, to_json
from shamon_host.links.ports import KernelEvent, LinkKernel

_MAX_WAITING_EVENTS = 1000


class LinkAgent:
    """One for the MAC VM. `set_up` is called with what the host says of the interfaces, and returns when they are so;
    raises BackendFailed. `boot_id`: of this kernel; `denials`: lines of its log."""

    def __init__(
        self,
        kernel: LinkKernel,
        set_up: Callable[[MacVmSetup], None],
        boot_id: str,
        denials: Callable[[], tuple[str, ...]],
    ) -> None:
        self._kernel = kernel
        self._denials = denials
        self._set_up = set_up
        self._boot_id = boot_id
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="kernel")
        self._listeners: set[asyncio.Queue[KernelEvent]] = set()

    def start(self) -> None:
        """Listen to the kernel. Call from the event loop. Raises BackendFailed."""
        self._kernel.subscribe(self._tell)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until it ends."""
        try:
            while True:
                length = frame_length(await reader.readexactly(HEADER.size))
                document = document_in(await reader.readexactly(length))
                name = document.get("ask")
                if name == EVENTS:
                    await self._tell_all(reader, writer)
                    return
                writer.write(await asyncio.get_running_loop().run_in_executor(self._worker, self._answer, document))
                await writer.drain()
        except (asyncio.IncompleteReadError, OSError, BadInput):
            pass  # the host comes again
        finally:
            writer.close()

    def _answer(self, document: dict[str, Any]) -> bytes:
        try:
            name = document.get("ask")
            call = CALLS.get(name) if isinstance(name, str) else None
            if call is None or set(document) != {"ask", "with"}:
                raise BackendFailed("the MAC VM is asked for what it does not know", found=str(name)[:80])
            argument = from_json(call.takes, document["with"]) if call.takes is not None else None
            return frame({"answer": to_json(self._carry_out(str(name), argument))}, call.most)
        except BackendFailed as error:
            return frame({"failed": list(failure_words(error))})
        except ShamonError as error:
            return frame({"failed": list(failure_words(BackendFailed("the MAC VM cannot", found=str(error))))})

    def _carry_out(self, name: str, argument: Any) -> Any:
        match name:
            case "set up":
                self._set_up(argument)
                return self._boot_id
            case "read":
                return self._kernel.read()
            case "apply":
                return self._kernel.apply(argument)
            case "attempt":
                return [failure_words(error) for error in self._kernel.attempt(argument)]
            case "allocate SPI":
                source, destination = argument
                return self._kernel.allocate_spi(source=source, destination=destination)
            case "counters":
                return self._kernel.counters()
            case "traffic":
                return self._kernel.traffic()
            case "denials":
                return self._denials()
            case _:
                raise AssertionError(f"{name} is no call")

    def _tell(self, event: KernelEvent) -> None:
        for queue in self._listeners:
            if queue.qsize() < _MAX_WAITING_EVENTS:
                queue.put_nowait(event)

    async def _tell_all(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        queue: asyncio.Queue[KernelEvent] = asyncio.Queue()
        self._listeners.add(queue)
        ended = asyncio.ensure_future(reader.read(1))
        try:
            while True:
                event = asyncio.ensure_future(queue.get())
                done, _ = await asyncio.wait({event, ended}, return_when=asyncio.FIRST_COMPLETED)
                if event not in done:
                    event.cancel()
                    return
                writer.write(frame({"answer": to_json(event.result())}, CALLS[EVENTS].most))
                await writer.drain()
        finally:
            ended.cancel()
            self._listeners.discard(queue)
