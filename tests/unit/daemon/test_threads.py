"""Calls in threads are waited for, whatever becomes of who asked."""

import asyncio
import threading

import pytest

from shamon_host.daemon.threads import in_thread


def test_results_and_errors_come_back() -> None:
    async def main() -> None:
        assert await in_thread(lambda: 7) == 7
        with pytest.raises(ZeroDivisionError):
            await in_thread(lambda: 1 // 0)

    asyncio.run(main())


def test_a_call_that_has_begun_ends_before_its_cancellation_does() -> None:
    began, go, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        began.set()
        go.wait(10)
        ended.set()

    async def main() -> None:
        asking = asyncio.create_task(in_thread(work))
        await asyncio.to_thread(began.wait, 10)
        for _ in range(3):
            asking.cancel()
            await asyncio.sleep(0)
        assert not asking.done()
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert ended.is_set()

    asyncio.run(main())


def test_its_error_is_no_warning_when_nobody_asks_any_more() -> None:
    began, go = threading.Event(), threading.Event()

    def fail() -> None:
        began.set()
        go.wait(10)
        raise KeyError

    async def main() -> None:
        asking = asyncio.create_task(in_thread(fail))
        await asyncio.to_thread(began.wait, 10)
        asking.cancel()
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await asking

    asyncio.run(main())
