"""A VM asks its host about the hosts that enforce its types, and verifies the answer with the coalition's CA alone."""

import json
from pathlib import Path

import pytest

from shamon_host.attestation.guest_messages import EvidenceRequest, HostsRequest, raise_refusal
from shamon_host.domain.admission import AdmissionState
from shamon_host.domain.errors import Refused
from shamon_host.domain.labels import VmName
from shamon_host.guest_agent.main import guest
from shamon_host.hypervisor.ports import DomainReport
from shamon_host.hypervisor.vm_states import VmStates
from shamon_host.peer.guest_hosts import VerifiedHosts, verify_hosts
from shamon_host.testing.memory_ca import memory_authorities
from shamon_host.testing.world import Fault
from tests.unit.daemon.attested_world import WEB, cid, play_attested
from tests.unit.daemon.daemon_world import Change, DaemonWorld

BLUE_HOST: Change = ('[hosts.gamma]\naddress = "192.0.2.3"\ntypes = ["acme/red", "rival/blue"]',
                     '[hosts.gamma]\naddress = "192.0.2.3"\ntypes = ["rival/blue"]')  # fmt: skip


async def asked(world: DaemonWorld, nonce: bytes = bytes(32)) -> VerifiedHosts:
    data = await world.alpha.guests.ask_host(cid(world.alpha), HostsRequest(nonce=nonce).encode())
    return verify_hosts(data, memory_authorities(), nonce)


def test_it_learns_of_hosts_with_a_type_of_its_own() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha", "beta")
        await world.start("alpha", "web")
        told = await asked(world)
        assert (told.verifier, told.vm) == ("alpha", "web")
        (beta,) = told.hosts
        assert (beta.host, beta.state, beta.types) == ("beta", AdmissionState.ADMITTED, ("acme/red",))
        assert beta.result is not None
        assert beta.result.result.trusted
        await world.beta.inflict(Fault.PROGRAM)
        await world.suspended("alpha", "beta")
        (beta,) = (await asked(world)).hosts
        assert beta.state is AdmissionState.SUSPENDED
        assert beta.result is not None
        assert not beta.result.result.trusted

    play_attested(test, BLUE_HOST)


def test_who_is_no_vm_that_is_attested_is_refused() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha")
        await world.start("alpha", "shop")
        for stranger in (cid(world.alpha), 0, 1, 2, 3, cid(world.alpha) + 1, -1):
            data = await world.alpha.guests.ask_host(stranger, HostsRequest(nonce=bytes(32)).encode())
            with pytest.raises(Refused, match="no VM of the policy runs at this address"):
                raise_refusal(data, "")

    play_attested(test)


def test_what_is_no_question() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha")
        await world.start("alpha", "web")
        for request in (b"", b"{}", b"[" * 4000, EvidenceRequest(vm=WEB, nonce=bytes(32)).encode()):
            with pytest.raises(Refused):
                raise_refusal(await world.alpha.guests.ask_host(cid(world.alpha), request), "")

    play_attested(test)


def test_one_that_asks_without_end() -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha")
        await world.start("alpha", "web")
        for _ in range(5):
            await asked(world)
        with pytest.raises(Refused, match="asked too often"):
            await asked(world)
        await world.wait(3)
        await asked(world)

    play_attested(test)


def test_one_that_asks_too_often_costs_no_look_at_what_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha")
        await world.start("alpha", "web")
        looks, look = 0, VmStates.find

        def count(states: VmStates, vm: VmName) -> DomainReport | None:
            nonlocal looks
            looks += 1
            return look(states, vm)

        monkeypatch.setattr(VmStates, "find", count)
        for _ in range(50):
            await world.alpha.guests.ask_host(cid(world.alpha), HostsRequest(nonce=bytes(32)).encode())
        assert looks == 5

    play_attested(test)


@pytest.mark.parametrize("as_json", [False, True])
def test_the_command_in_the_guest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *, as_json: bool
) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_bytes(b"")
    monkeypatch.setattr("shamon_host.guest_agent.main.authorities_of", lambda _certificates: memory_authorities())
    monkeypatch.setattr("shamon_host.guest_agent.main.read_ca_certificates", lambda _path: ())

    async def test(world: DaemonWorld) -> None:
        await world.boot("alpha", "beta")
        await world.start("alpha", "web")

        def ask(request: bytes) -> bytes:
            """Nothing on the way waits in memory."""
            with pytest.raises(StopIteration) as done:
                world.alpha.guests.ask_host(cid(world.alpha), request).send(None)
            value: bytes = done.value.value
            return value

        assert guest(["hosts", "--ca", str(ca), *(["--json"] if as_json else [])], ask=ask) == 0

    play_attested(test)
    out = capsys.readouterr().out
    if as_json:
        document = json.loads(out)
        assert document["verifier"] == "alpha"
        assert [each["host"] for each in document["hosts"]] == ["beta", "gamma"]
        assert document["hosts"][0]["result"]["trusted"] is True
    else:
        assert "web on alpha, which says:" in out
        assert "beta: admitted, for acme/red; trusted by the last result" in out
        assert "gamma: enrolled, for acme/red; never appraised" in out


def test_the_command_without_a_ca(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert guest(["hosts", "--ca", str(tmp_path / "none.pem")], ask=lambda _request: b"") == 2
    assert "none.pem" in capsys.readouterr().err
