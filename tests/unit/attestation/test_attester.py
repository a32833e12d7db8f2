"""The Attester: one quote for all leaves of a moment, each root once, logs from where they are wanted."""

import asyncio
import hashlib
from collections.abc import Coroutine
from typing import Any

import pytest

from shamon_host.attestation.attester import GATHER_S, Attester
from shamon_host.attestation.evidence import Evidence, Role, leaf
from shamon_host.attestation.merkle import root_from_path
from shamon_host.attestation.ports import Quote
from shamon_host.attestation.tpm_structures import QuoteAttest
from shamon_host.domain.errors import BackendFailed, BadInput, Refused
from shamon_host.testing.clock import run_virtual
from shamon_host.testing.machine import MeasuredMachine


@pytest.fixture
def machine() -> MeasuredMachine:
    machine = MeasuredMachine()
    machine.boot()
    return machine


@pytest.fixture
def attester(machine: MeasuredMachine) -> Attester:
    return Attester(tpm=machine.tpm, logs=machine.logs)


def ask(attester: Attester, number: int, **fields: Any) -> Coroutine[Any, Any, Evidence]:
    return attester.evidence(
        **{
            "role": Role.INITIATOR,
            "transcript": hashlib.sha256(b"%d" % number).digest(),
            "hypervisor_report": b"report",
            "network_state": b"state",
            "audit_head": bytes(32),
            **fields,
        }
    )


def root_of(evidence: Evidence, number: int) -> bytes:
    own = leaf(
        Role.INITIATOR,
        hashlib.sha256(b"%d" % number).digest(),
        hypervisor_report=b"report",
        network_state=b"state",
        audit_head=bytes(32),
    )
    return root_from_path(own, evidence.merkle_index, evidence.merkle_path)


def quoted(evidence: Evidence) -> bytes:
    return QuoteAttest.parse(evidence.quote.attest).extra_data


def test_one_quote_for_all_leaves_of_a_moment(machine: MeasuredMachine, attester: Attester) -> None:
    async def main() -> list[Evidence]:
        return await asyncio.gather(*(ask(attester, number) for number in range(5)))

    found = run_virtual(main())
    assert machine.tpm.quotes == 1
    assert [root_of(evidence, number) for number, evidence in enumerate(found)] == [quoted(found[0])] * 5


def test_leaves_gather_for_50_ms_and_no_longer(machine: MeasuredMachine, attester: Attester) -> None:
    async def late(number: int, after_s: float) -> tuple[Evidence, float]:
        await asyncio.sleep(after_s)
        evidence = await ask(attester, number)
        return evidence, asyncio.get_running_loop().time()

    async def main() -> tuple[tuple[Evidence, float], ...]:
        return await asyncio.gather(late(0, 0), late(1, 0.04), late(2, 0.06))

    (first, at), (second, _), (third, _) = run_virtual(main())
    assert at == pytest.approx(GATHER_S)
    assert quoted(first) == quoted(second) != quoted(third)
    assert machine.tpm.quotes == 2


def test_a_root_is_used_once(machine: MeasuredMachine, attester: Attester) -> None:
    async def main() -> None:
        await ask(attester, 1)
        with pytest.raises(Refused):
            await ask(attester, 1)
        await ask(attester, 2)

    run_virtual(main())
    assert machine.tpm.quotes == 2


def test_the_same_leaf_twice_in_one_moment_is_one_leaf(machine: MeasuredMachine, attester: Attester) -> None:
    async def main() -> tuple[Evidence, Evidence]:
        return await asyncio.gather(ask(attester, 1), ask(attester, 1))

    first, second = run_virtual(main())
    assert first == second
    assert first.merkle_path == ()


def test_a_failed_quote_reaches_all_who_wait_and_the_next_works(machine: MeasuredMachine, attester: Attester) -> None:
    async def main() -> None:
        machine.tpm.out_of_reach = True
        found = await asyncio.gather(ask(attester, 1), ask(attester, 2), return_exceptions=True)
        assert [type(item) for item in found] == [BackendFailed, BackendFailed]
        machine.tpm.out_of_reach = False
        await ask(attester, 3)

    run_virtual(main())


def test_no_logs_is_a_failed_backend() -> None:
    machine = MeasuredMachine()
    with pytest.raises(BackendFailed):
        run_virtual(ask(Attester(tpm=machine.tpm, logs=machine.logs), 1))


def test_one_who_gives_up_takes_the_quote_from_no_other(attester: Attester) -> None:
    async def main() -> Evidence:
        impatient = asyncio.create_task(ask(attester, 1))
        patient = asyncio.create_task(ask(attester, 2))
        await asyncio.sleep(0.01)
        impatient.cancel()
        return await patient

    evidence = run_virtual(main())
    assert root_of(evidence, 2) == quoted(evidence)


def test_a_bad_leaf_harms_no_other(attester: Attester) -> None:
    async def main() -> Any:
        return await asyncio.gather(ask(attester, 1, transcript=b"short"), ask(attester, 2), return_exceptions=True)

    bad, fine = run_virtual(main())
    assert isinstance(bad, BadInput)
    assert root_of(fine, 2) == quoted(fine)


def test_the_log_starts_where_it_is_wanted_within_one_boot(machine: MeasuredMachine, attester: Attester) -> None:
    async def main() -> None:
        whole = (await ask(attester, 1)).ima_log
        count = machine.tpm.reset_count
        machine.run_program("/usr/bin/ls", b"ls")
        later = await ask(attester, 2, ima_offset=len(whole), ima_reset_count=count)
        assert (later.ima_offset, whole + later.ima_log) == (len(whole), machine.logs.ima_log(0))
        machine.boot()
        fresh = await ask(attester, 3, ima_offset=len(whole), ima_reset_count=count)
        assert (fresh.ima_offset, fresh.ima_log) == (0, machine.logs.ima_log(0))

    run_virtual(main())


def test_the_log_is_read_behind_the_quote(machine: MeasuredMachine) -> None:
    """What is measured between the two is in the log, so that the log never lags behind its quote."""

    attester = Attester(tpm=machine.tpm, logs=machine.logs)
    quote = machine.tpm.quote

    def quote_then_measure(qualifying_data: bytes) -> Quote:
        made = quote(qualifying_data)
        machine.run_program("/usr/bin/late", b"late")
        return made

    machine.tpm.quote = quote_then_measure  # type: ignore[method-assign]
    evidence = run_virtual(ask(attester, 1))
    assert evidence.ima_log == machine.logs.ima_log(0)
    assert b"/usr/bin/late" in evidence.ima_log
