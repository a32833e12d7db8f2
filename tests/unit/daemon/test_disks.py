"""Disks beside VMs' own, from the policy to the peer that checks their labels, and what an operator sees of them."""

from typing import Any

from shamon_host.daemon.api import Api
from shamon_host.testing.images import sha256_of
from tests.unit.daemon.daemon_world import Change, DaemonWorld, daemon, play, records

BOOK = b"the book that red and blue read"
WITH_DISKS: tuple[Change, ...] = (
    ('[vms.web]\nlabel = "red"', '[vms.web]\nlabel = "red"\nresources = ["book", "cache"]'),
    ('[vms.shop]\nlabel = "blue"', '[vms.shop]\nlabel = "blue"\nresources = ["book"]'),
    (
        "[vms.probe]",
        '[resources.cache]\ntypes = ["acme/red"]\n\n'
        f'[resources.book]\ntypes = ["acme/red", "rival/blue"]\nsha256 = "{sha256_of(BOOK)}"\n\n[vms.probe]',
    ),
)


async def ask(world: DaemonWorld, method: str, path: str, status: int = 200) -> Any:
    answer = await Api(daemon=daemon(world.alpha)).handle(method, path, {})
    assert answer.status == status, answer.body
    return answer.body


def put_disks(world: DaemonWorld) -> None:
    world.alpha.disks.add("cache")
    world.alpha.disks.add("book", BOOK)


def test_vms_with_disks_are_admitted_by_peers_and_an_attached_disk_ends_one() -> None:
    async def test(world: DaemonWorld) -> None:
        put_disks(world)
        await world.pair_with_link()
        vms = {row["name"]: row for row in await ask(world, "GET", "/v1/vms")}
        assert vms["web"]["disks"] == [
            {"path": "/disks/book.raw", "read_only": True, "format": "raw"},
            {"path": "/disks/cache.raw", "read_only": False, "format": "raw"},
        ]
        await world.start("alpha", "shop")
        rows = {row["name"]: row for row in await ask(world, "GET", "/v1/disks")}
        assert {name: (row["state"], row["users"], row["pinned"]) for name, row in rows.items()} == {
            "book": ("ready", ("shop", "web"), True),
            "cache": ("ready", ("web",), False),
        }
        world.alpha.hypervisor.attach(*_cache_for_shop(world))
        await world.until(lambda: _stopped(world, "shop"), within_s=30, what="shop is stopped")
        assert "/disks/cache.raw" in records(world.alpha, "vm.other-disks", "shop")[0]["found"]
        assert await world.web_reaches_db()

    play(test, *WITH_DISKS)


def test_another_file_is_used_only_when_an_operator_adopts_it() -> None:
    async def test(world: DaemonWorld) -> None:
        put_disks(world)
        await world.boot("alpha")
        await world.start("alpha", "web")
        await ask(world, "POST", "/v1/vms/web/stop")
        world.alpha.disks.add("cache", b"from somewhere else")
        refusal = await ask(world, "POST", "/v1/vms/web/start", status=403)
        assert "shamon disk adopt" in refusal["error"]["remedy"]
        assert records(world.alpha, "label.resource", "cache")[-1]["permitted"] is False
        row = await ask(world, "POST", "/v1/disks/cache/adopt")
        assert (row["name"], row["state"]) == ("cache", "new")
        assert records(world.alpha, "disk.adopt", "cache")
        await world.start("alpha", "web")

    play(test, *WITH_DISKS)


def test_a_dry_run_says_what_a_start_would_of_its_disks() -> None:
    async def test(world: DaemonWorld) -> None:
        put_disks(world)
        await world.boot("alpha")

        async def told(disk: str) -> tuple[bool, str]:
            answer = await Api(daemon=daemon(world.alpha)).handle("GET", "/v1/policy/dry-run", {"vm": "web"})
            (row,) = [row for row in answer.body if (row["check"], row["subject"]) == ("label.resource", disk)]
            return row["permitted"], row["reason"]

        assert (await told("cache"))[0]
        await world.start("alpha", "web")
        assert (await told("cache"))[0]
        await ask(world, "POST", "/v1/vms/web/stop")
        world.alpha.disks.add("cache", b"another")
        permitted, reason = await told("cache")
        assert not permitted
        assert "virt_image_t:s0" in reason
        del world.alpha.disks.files["/disks/cache.raw"]
        assert await told("cache") == (
            False,
            "/disks/cache.raw: cannot use the file of a disk; found No such file or directory",
        )
        assert (await told("book"))[0]

    play(test, *WITH_DISKS)


def test_what_is_no_disk_of_this_host() -> None:
    async def test(world: DaemonWorld) -> None:
        put_disks(world)
        await world.boot("alpha")
        for name in ("ledger", "..", "\x1b[2J", ""):
            assert (await ask(world, "POST", f"/v1/disks/{name}/adopt", status=400))["error"]["exit_code"] == 2
        for method, path in (("GET", "/v1/disks/cache"), ("POST", "/v1/disks"), ("POST", "/v1/disks/cache/remove")):
            await ask(world, method, path, status=400)
        assert not records(world.alpha, "disk.adopt")

    play(test, *WITH_DISKS)


def test_labels_of_disks_are_kept_over_a_restart() -> None:
    async def test(world: DaemonWorld) -> None:
        put_disks(world)
        await world.pair_with_link()
        before = world.alpha.disks.inspect("cache").label, daemon(world.alpha).own.enforced.label_map
        await world.alpha.kill_daemon()
        await world.alpha.start_daemon()
        assert (world.alpha.disks.inspect("cache").label, daemon(world.alpha).own.enforced.label_map) == before
        assert not records(world.alpha, "vm.other-disks")
        assert len(records(world.alpha, "disk.label", "cache")) == 1
        await world.until(world.web_reaches_db, within_s=60, what="web reaches db")

    play(test, *WITH_DISKS)


def _cache_for_shop(world: DaemonWorld) -> Any:
    (web,) = [report for report in world.alpha.hypervisor.domains() if report.name == "web"]
    (shop,) = [report for report in world.alpha.hypervisor.domains() if report.name == "shop"]
    return shop.name, web.disks[1]


async def _stopped(world: DaemonWorld, vm: str) -> bool:
    return vm not in {report.name for report in world.alpha.hypervisor.domains()}
