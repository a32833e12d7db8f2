"""The history of results: runs instead of repetitions, bounded whatever a peer does; and the Evidence that is kept."""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shamon_host.attestation.appraisal import appraise
from shamon_host.attestation.evidence_file import EvidenceFile, decode_file
from shamon_host.attestation.ima_log import ImaEntry
from shamon_host.attestation.reference_model import merged_digests
from shamon_host.attestation.verifier_state import VerifierState
from shamon_host.daemon.database import Database
from shamon_host.daemon.result_history import MAX_HOST_BYTES, ResultHistory, Retention
from shamon_host.domain.errors import BackendFailed, BadInput
from shamon_host.domain.labels import HostName
from shamon_host.domain.results import AttestationResult, ClaimName, ClaimStatus
from shamon_host.testing.machine import sha256
from tests.unit.attestation.appraised_world import GOOD_LABELS, GOOD_NETWORK, Attested, claim_of
from tests.unit.attestation.result_records import ALPHA, BETA, PASSING, failing, kept, record_of

DAY_S = 86_400.0
T0 = 1_700_000_000.0
FILE = kept(Attested())
STATE = VerifierState.unseen()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "shamon.sqlite")
    yield database
    database.close()


def note(history: ResultHistory, result: AttestationResult, at_s: float, *, host: HostName = BETA) -> None:
    record = record_of(replace(result, host=host), appraised_s=at_s)
    history.note(replace(FILE, record=record), STATE)


def test_equal_verdicts_are_one_run_with_its_first_and_last(database: Database) -> None:
    history = ResultHistory(database)
    for second in range(100):
        note(history, PASSING, T0 + second)
    for second in range(100, 103):
        note(history, failing(reason=f"for the {second}th time", found="x"), T0 + second)
    note(history, PASSING, T0 + 103)
    back, bad, good = history.runs(BETA)
    assert [run.trusted for run in (back, bad, good)] == [True, False, True]
    assert [run.count for run in (back, bad, good)] == [1, 3, 100]
    assert (good.first_s, good.last_s) == (T0, T0 + 99)
    assert good.first == record_of(appraised_s=T0)
    assert good.last == record_of(appraised_s=T0 + 99)
    assert [run.result.failures[0].reason for run in (bad.first, bad.last)] == [
        "for the 100th time",
        "for the 102th time",
    ]
    assert history.newest(BETA) == back.last
    assert [run.number for run in history.runs(BETA, limit=2)] == [back.number, bad.number]


def test_hosts_are_kept_apart(database: Database) -> None:
    history = ResultHistory(database)
    note(history, PASSING, T0)
    note(history, PASSING, T0, host=ALPHA)
    note(history, PASSING, T0 + 1)
    assert history.hosts() == (ALPHA, BETA)
    assert [run.count for run in history.runs(BETA)] == [2]
    with pytest.raises(BadInput) as caught:
        history.newest(HostName("gamma"))
    assert caught.value.expected == "alpha, beta"


def test_it_goes_on_where_it_was_after_a_restart(tmp_path: Path) -> None:
    for second in range(3):
        database = Database(tmp_path / "shamon.sqlite")
        note(ResultHistory(database), PASSING, T0 + second)
        database.close()
    database = Database(tmp_path / "shamon.sqlite")
    assert [run.count for run in ResultHistory(database).runs(BETA)] == [3]
    database.close()


def test_a_host_that_says_something_new_each_time_pushes_out_its_own_alone(database: Database) -> None:
    history = ResultHistory(database, Retention(runs=5))
    note(history, PASSING, T0, host=ALPHA)
    for second in range(50):
        note(history, failing() if second % 2 else PASSING, T0 + second)
    assert [run.first_s for run in history.runs(BETA, limit=100)] == [T0 + second for second in range(49, 44, -1)]
    assert [run.count for run in history.runs(ALPHA)] == [1]


def test_the_largest_documents_are_bounded_in_bytes(database: Database) -> None:
    history = ResultHistory(database, Retention(runs=1000, evidence_bytes=0))
    for boot in range(60):
        claims = tuple(
            replace(
                claim, status=ClaimStatus.FAIL, reason="\u20ac" * 1000, where="\u20ac" * 1000, found="\u20ac" * 1000
            )
            for claim in PASSING.claims
        )
        note(history, replace(PASSING, reset_count=boot, claims=claims), T0 + boot)
    rows = database.read(
        lambda connection: connection.execute(
            "SELECT sum(length(first) + length(last)), count(*) FROM result"
        ).fetchall()
    )
    total, count = rows[0]
    assert isinstance(total, int)
    assert isinstance(count, int)
    assert 1 < count < 60
    assert total <= MAX_HOST_BYTES
    assert history.newest(BETA).result.reset_count == 59


def test_what_is_old_is_forgotten_with_its_evidence(database: Database) -> None:
    history = ResultHistory(database, Retention(days=2))
    note(history, PASSING, T0, host=ALPHA)
    note(history, PASSING, T0)
    note(history, PASSING, T0 + DAY_S)
    note(history, failing(), T0 + 2.5 * DAY_S)
    assert history.hosts() == (BETA,)
    assert len(history.runs(BETA)) == 2
    fresh = ResultHistory(database)
    with pytest.raises(BadInput, match="no Evidence is kept"):
        fresh.evidence(ALPHA, trusted=True)
    assert decode_file(fresh.evidence(BETA, trusted=True)).record.appraised_s == T0 + DAY_S


def test_a_result_that_was_changed_is_not_shown(database: Database) -> None:
    history = ResultHistory(database)
    note(history, failing(), T0)
    with database.transaction() as connection:
        connection.execute("""UPDATE result SET last = replace(last, '"trusted":false', '"trusted":true')""")
    with pytest.raises(BackendFailed, match="stored result 1 is corrupt"):
        history.runs(BETA)


# Evidence, as real handshakes bring it


class Verifier:
    """A Verifier with a history, and the host that attests to it."""

    def __init__(self, database: Database, *, most_bytes: int = 1 << 20) -> None:
        self.world = Attested()
        self.database = database
        self.most_bytes = most_bytes
        self.now_s = T0
        self.restart()

    def restart(self) -> None:
        """Memory is lost, the database is not."""
        self.history = ResultHistory(self.database, Retention(evidence_bytes=self.most_bytes))

    def attest(self, *, offset: int | None = None) -> EvidenceFile:
        """One handshake; what went into the history."""
        file = kept(self.world, offset=offset)
        self.now_s += 1
        file = replace(file, record=replace(file.record, appraised_s=self.now_s))
        assert self.world.state is not None
        self.history.note(file, self.world.state)
        return file

    def load(self, *, trusted: bool) -> EvidenceFile:
        return decode_file(self.history.evidence(BETA, trusted=trusted))

    def whole_log(self) -> bytes:
        return self.world.machine.logs.ima_log(0)

    def pieces(self) -> list[tuple[object, ...]]:
        return self.database.read(
            lambda connection: connection.execute("SELECT start, length(data) FROM ima_piece ORDER BY start").fetchall()
        )


def known_program(world: Attested, number: int) -> None:
    """The host runs something new that its Reference Values know."""
    path, content = "/usr/bin/known", b"known %d" % number
    new = {path: frozenset({sha256(b"known %d" % at).hex() for at in range(9)})}
    if path not in world.reference.files:
        world.reference = replace(world.reference, files=merged_digests(world.reference.files, new))
    world.machine.run_program(path, content)


@pytest.fixture
def verifier(database: Database) -> Verifier:
    verifier = Verifier(database)
    known_program(verifier.world, 0)
    return verifier


def test_the_log_is_whole_although_it_came_in_pieces(verifier: Verifier) -> None:
    last = verifier.attest()
    for number in range(1, 4):
        known_program(verifier.world, number)
        last = verifier.attest()
        assert last.record.result.trusted
    assert last.evidence.ima_offset > 0
    assert len(verifier.pieces()) == 4
    found = verifier.load(trusted=True)
    assert (found.evidence.ima_offset, found.evidence.ima_log) == (0, verifier.whole_log())
    assert replace(found, evidence=last.evidence) == last


def test_nothing_is_written_of_evidence_that_says_the_same(verifier: Verifier, database: Database) -> None:
    verifier.attest()

    def written() -> list[tuple[object, ...]]:
        return database.read(lambda connection: connection.execute("SELECT * FROM evidence").fetchall())

    before = (written(), verifier.pieces())
    for _ in range(5):
        verifier.attest()
    last = verifier.attest(offset=0)
    assert (written(), verifier.pieces()) == before
    assert verifier.load(trusted=True).record == last.record


def test_a_failure_keeps_itself_and_the_last_that_passed(verifier: Verifier) -> None:
    verifier.attest()
    known_program(verifier.world, 1)
    passed = verifier.attest()
    verifier.world.machine.run_program("/tmp/unknown", b"unknown")
    failed = verifier.attest()
    for _ in range(3):
        verifier.attest()
    verifier.restart()
    found = verifier.load(trusted=False)
    assert found.record == failed.record
    assert (found.evidence.ima_offset, found.evidence.ima_log) == (0, verifier.whole_log())
    assert found.evidence.quote == failed.evidence.quote
    before = verifier.load(trusted=True)
    assert before.record == passed.record
    assert verifier.whole_log().startswith(before.evidence.ima_log)
    assert before.evidence.ima_offset == 0


def test_the_evidence_of_a_failure_stays_until_it_says_more(verifier: Verifier) -> None:
    verifier.attest()
    verifier.world.machine.run_program("/tmp/unknown", b"unknown")
    first = verifier.attest()
    verifier.world.machine.run_program("/tmp/other", b"other")
    verifier.attest()
    assert verifier.load(trusted=False).record == first.record
    verifier.world.machine.setenforce(False)
    more = verifier.attest()
    assert verifier.load(trusted=False).record == more.record
    verifier.world.machine.boot()
    assert verifier.attest().record.result.trusted
    verifier.world.machine.run_program("/tmp/unknown", b"unknown")
    again = verifier.attest()
    assert verifier.load(trusted=False).record == again.record


def unbound(verifier: Verifier) -> None:
    """A handshake whose quote is not good."""
    tpm = verifier.world.machine.tpm
    good = tpm.quote
    tpm.quote = lambda qualifying_data: replace(good(qualifying_data), signature=bytes(72))  # type: ignore[method-assign]
    assert ClaimName.BINDING in {claim.name for claim in verifier.attest().record.result.failures}
    tpm.quote = good  # type: ignore[method-assign]


def astray(verifier: Verifier) -> None:
    """A handshake whose log does not lead to its quote."""
    entries = verifier.world.machine.logs.entries
    kept, entries[:] = list(entries), entries[:2]
    verifier.attest(offset=0)
    entries[:] = kept


@pytest.mark.parametrize("spoiled", [unbound, astray])
def test_what_proves_a_failure_stays_whatever_a_host_sends_before_and_after(
    verifier: Verifier, spoiled: Callable[[Verifier], None]
) -> None:
    """It would rather have Evidence kept that proves nothing."""
    verifier.attest()
    verifier.world.machine.run_program("/tmp/unknown", b"unknown")
    spoiled(verifier)
    failed = verifier.attest()
    assert claim_of(failed.record.result, ClaimName.SOFTWARE).sticky
    spoiled(verifier)
    assert verifier.load(trusted=False).record == failed.record
    verifier.restart()
    spoiled(verifier)
    found = verifier.load(trusted=False)
    assert (found.record, found.evidence.ima_log) == (failed.record, verifier.whole_log())


def test_a_new_boot_begins_a_new_log(verifier: Verifier) -> None:
    verifier.attest()
    old = verifier.attest()
    verifier.world.machine.boot()
    new = verifier.attest()
    assert verifier.load(trusted=True).record == new.record
    assert verifier.load(trusted=True).evidence.ima_log == verifier.whole_log()
    assert len(verifier.pieces()) == 1
    assert old.record.result.reset_count != new.record.result.reset_count


def test_another_boot_with_the_same_count_begins_a_new_log_as_well(verifier: Verifier) -> None:
    """The TPM was cleared, its count came up to where it was, and the host was enrolled anew."""
    old = verifier.attest()
    verifier.world.machine.tpm.clear()
    verifier.world.machine.boot()
    known_program(verifier.world, 1)
    verifier.world.state = None
    new = verifier.attest()
    assert new.record.result.trusted
    assert new.record.result.reset_count == old.record.result.reset_count
    assert verifier.load(trusted=True).evidence.ima_log == verifier.whole_log()


def test_other_reference_values_read_the_whole_log_again_and_keep_it_once(verifier: Verifier) -> None:
    verifier.attest()
    verifier.world.reference = replace(verifier.world.reference, early_data=("/var/*",))
    assert verifier.attest(offset=0).record.result.trusted
    assert len(verifier.pieces()) == 1
    assert verifier.load(trusted=True).evidence.ima_log == verifier.whole_log()


def test_evidence_that_is_not_bound_adds_nothing_to_the_log(verifier: Verifier) -> None:
    verifier.attest()
    before = verifier.pieces()
    world = verifier.world
    good = world.machine.tpm.quote
    world.machine.tpm.quote = lambda qualifying_data: replace(good(qualifying_data), signature=bytes(72))  # type: ignore[method-assign]
    bad = verifier.attest(offset=0)
    assert ClaimName.BINDING in {claim.name for claim in bad.record.result.failures}
    assert verifier.pieces() == before
    assert verifier.load(trusted=False) == bad


def test_a_log_that_its_quote_does_not_vouch_for_is_kept_as_it_came(verifier: Verifier) -> None:
    verifier.attest()
    before = verifier.pieces()
    verifier.world.machine.logs.entries.pop(3)
    bad = verifier.attest(offset=0)
    assert not bad.record.result.trusted
    assert verifier.pieces() == before
    assert verifier.load(trusted=False) == bad


def test_a_history_that_begins_in_the_midst_of_a_boot_says_where(database: Database) -> None:
    world = Attested()
    kept(world)  # appraised before there was a history
    verifier = Verifier(database)
    verifier.world = world
    last = verifier.attest()
    assert last.evidence.ima_offset > 0
    assert verifier.load(trusted=True) == last


def test_evidence_that_is_too_large_is_not_kept_and_that_is_said(database: Database) -> None:
    verifier = Verifier(database, most_bytes=1000)
    verifier.attest()
    assert verifier.pieces() == []
    verifier.world.machine.run_program("/tmp/unknown", b"unknown")
    verifier.attest()
    for trusted in (True, False):
        with pytest.raises(BadInput, match="too large to be kept") as caught:
            verifier.load(trusted=trusted)
        assert "evidence_mib" in caught.value.remedy


def test_none_is_kept_where_none_is_wanted(database: Database) -> None:
    verifier = Verifier(database, most_bytes=0)
    verifier.attest()
    assert verifier.pieces() == []
    with pytest.raises(BadInput, match="no Evidence is kept"):
        verifier.load(trusted=True)


def test_random_bytes_from_a_bad_peer_take_two_files_and_one_log(database: Database) -> None:
    verifier = Verifier(database, most_bytes=100_000)
    verifier.attest()
    sizes = set()
    for round_ in range(12):
        file = kept(verifier.world, offset=0)
        evidence = replace(file.evidence, ima_log=os.urandom(50_000), event_log=os.urandom(1000))
        bad = replace(file, record=record_of(failing(ClaimName.BINDING), appraised_s=T0 + round_), evidence=evidence)
        note(verifier.history, PASSING, T0 + round_)
        verifier.history.note(bad, STATE)
        rows = database.read(
            lambda connection: connection.execute("SELECT count(*), sum(length(data)) FROM evidence").fetchall()
        )
        sizes.add(rows[0][0])
        assert isinstance(rows[0][1], int)
        assert rows[0][1] < 200_000
    assert sizes == {2}


def test_stored_evidence_that_was_changed_is_not_shown(verifier: Verifier, database: Database) -> None:
    verifier.attest()
    verifier.restart()
    with database.transaction() as connection:
        connection.execute("UPDATE evidence SET data = x'00ff'")
    with pytest.raises(BackendFailed, match="corrupt"):
        verifier.load(trusted=True)


ACTIONS = ("known", "unknown", "permissive", "boot", "whole", "restart", "hide", "show", "reference", "nothing")


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(ACTIONS), min_size=1, max_size=14))
def test_whatever_happens_what_is_kept_proves_its_verdict_again(actions: list[str]) -> None:
    """The file of the last verdict that begins a failure, or that passed, has its whole log and gives the verdict."""
    database = Database(":memory:")
    verifier = Verifier(database)
    world = verifier.world
    known_program(world, 8)
    hidden: list[ImaEntry] = []
    for number, action in enumerate(actions):
        offset = None
        match action:
            case "known":
                known_program(world, number % 9)
            case "unknown":
                world.machine.run_program("/tmp/unknown", b"unknown %d" % number)
            case "permissive":
                world.machine.setenforce(False)
            case "boot":
                world.machine.boot()
                hidden.clear()
            case "whole":
                offset = 0
            case "restart":
                verifier.restart()
            case "hide":
                if len(world.machine.logs.entries) > 12:
                    hidden.insert(0, world.machine.logs.entries.pop())
            case "show":
                world.machine.logs.entries.extend(hidden)
                hidden.clear()
            case "reference":
                world.reference = replace(world.reference, early_data=(f"/var/{number}",))
                offset = None if number % 2 else 0  # None: from where it goes on, which is not what is asked for
            case _:
                assert action == "nothing"
        file = verifier.attest(offset=offset)
        kept_file = verifier.load(trusted=file.record.result.trusted)
        if file.record.result.trusted:
            assert kept_file.record == file.record
        assert kept_file.evidence.ima_offset == 0 or hidden or not file.record.result.trusted
        result, _ = appraise(
            kept_file.evidence,
            role=kept_file.role,
            transcript=kept_file.transcript,
            host=BETA,
            ak_public=kept_file.ak_public,
            enrolled_tpm_kind=kept_file.tpm,
            demands=world.demands,
            reference=world.reference,
            state=None,
            check_hypervisor_report=GOOD_LABELS,
            check_network_state=GOOD_NETWORK,
        )
        if kept_file.evidence.ima_offset == 0 and kept_file.record.reference_digest == world.reference.digest:
            assert result.trusted is kept_file.record.result.trusted
    database.close()
