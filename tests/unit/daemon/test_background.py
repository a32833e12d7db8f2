"""Work that outlives its caller: cancelled or awaited at the end, and never failing unnoticed."""

import asyncio

import pytest

from shamon_host.daemon.background import Background
from shamon_host.domain.errors import BackendFailed
from shamon_host.testing.clock import run_virtual


def test_a_failure_ends_whoever_watches() -> None:
    async def fail() -> None:
        await asyncio.sleep(5)
        raise BackendFailed("the database failed")

    async def main() -> None:
        background = Background()
        running = asyncio.create_task(background.run())
        other = background.spawn(asyncio.sleep(1000), "other")
        background.spawn(fail(), "fail")
        with pytest.raises(BackendFailed):
            await running
        assert other.cancelled()
        assert asyncio.get_running_loop().time() < 10

    run_virtual(main())


def test_what_must_finish_is_awaited_and_the_rest_cancelled() -> None:
    async def main() -> None:
        background, done = Background(), []

        async def work(name: str) -> None:
            await asyncio.sleep(10)
            done.append(name)

        background.spawn(work("may go"), "may go")
        background.spawn(work("must finish"), "must finish", finish=True)
        await asyncio.sleep(1)
        await background.close()
        assert done == ["must finish"]

    run_virtual(main())


def test_a_failure_before_anybody_watches_is_kept() -> None:
    async def fail() -> None:
        raise BackendFailed("the database failed")

    async def main() -> None:
        background = Background()
        background.spawn(fail(), "fail")
        await asyncio.sleep(1)
        with pytest.raises(BackendFailed):
            await background.run()

    run_virtual(main())
