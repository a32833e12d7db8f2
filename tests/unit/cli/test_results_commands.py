"""`shamon results`, `explain`, `evidence` and `appraise`, on a world that has happened: words, JSON and exit codes."""

import json
import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from shamon_host.attestation.evidence_file import decode_file
from shamon_host.cli import appraising, registry
from shamon_host.cli.api_client import ApiClient, _error
from shamon_host.cli.main import main
from shamon_host.interchange.schema import result_schema
from shamon_host.peer.coalition_ca import read_ca_certificates
from shamon_host.peer.host_record import authorities_of, read_host_record, sign_host_record, write_record
from shamon_host.peer.ports import Membership
from shamon_host.testing.memory_ca import memory_key
from tests.unit.cli.results_world import Happened, ca_key, certificate_of, happened

ROOT = Path(__file__).resolve().parents[3]
DOCUMENT = ROOT / "docs/results.md"


@pytest.fixture(scope="module")
def past() -> Happened:
    return happened()


@pytest.fixture
def shamon(
    past: Happened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[str], tuple[int, str, str]]:
    """Runs a command line in a directory with the files of an operator; exit code, and what it printed."""

    def request(client: ApiClient, method: str, target: str, body: str | None) -> Any:
        answer = past.answer(target)
        if answer.status != 200:
            raise _error(answer.body)
        return answer.body

    past.files(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ApiClient, "_request", request)
    monkeypatch.setattr(appraising, "DEFAULT_POLICY", tmp_path / "none.toml")
    monkeypatch.setattr(appraising, "DEFAULT_REGISTRY", tmp_path / "none")
    monkeypatch.setattr(registry, "DEFAULT_CA", tmp_path / "ca.pem")

    def run(line: str) -> tuple[int, str, str]:
        code = main(shlex.split(line))
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


Shamon = Callable[[str], tuple[int, str, str]]
APPRAISE = "appraise --evidence beta.evidence --reference reference.json"
ALL = f"{APPRAISE} --policy policy.toml --registry registry"


def test_the_page_shows_what_the_commands_print(shamon: Shamon) -> None:
    commands = 0
    for block in re.findall(r"^```text\n(.*?)^```", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL):
        lines = block.splitlines()
        for number, line in enumerate(lines):
            if line.startswith("# shamon "):
                shown = list(takewhile(lambda each: not each.startswith("# "), lines[number + 1 :]))
                _, out, err = shamon(line.removeprefix("# shamon "))
                assert words(out + err) == words("\n".join(shown)), line
                commands += 1
    assert commands >= 6


def words(text: str) -> list[str]:
    """Without line breaks, digests and numbers: those are of one run."""
    return re.sub(r"\d+", "N", re.sub(r"\b[0-9a-f]{16,64}\b", "HEX", text)).split()


def test_the_history(shamon: Shamon) -> None:
    code, out, _ = shamon("results show beta")
    assert code == 0
    heading, bad, good = out.splitlines()
    assert heading.split() == ["NUMBER", "VERDICT", "FIRST", "LAST", "COUNT", "WHY"]
    assert "not trusted" in bad
    assert "software: an unknown program or file was measured" in bad
    assert "every claim passes" in good
    code, out, _ = shamon("results show beta --limit 1 --json")
    (run,) = json.loads(out)
    assert (run["host"], run["trusted"]) == ("beta", False)
    assert run["count"] > 1
    for which in ("first", "last"):
        Draft202012Validator(result_schema()).validate(run[which])
    assert shamon("results show gamma")[1] == "gamma was never appraised by this host\n"
    assert shamon("results show delta")[0] == 2


def test_the_story(shamon: Shamon) -> None:
    code, out, _ = shamon("explain beta")
    assert code == 3
    assert re.match(r"beta: not trusted since 2023-11-14T\S+Z\n", out)
    for needle in (
        "Failed first: software (fail)",
        "where     IMA entry 13, /usr/local/bin/unknown",
        "expected  no such file",
        "found     sha256:",
        "What followed:",
        "its links of acme/red were closed",
        "web was replaced by a clean one",
        "What clears it:",
        "only a clean boot",
        "Before:",
        "trusted, ",
    ):
        assert needle in out
    code, out, _ = shamon("explain beta --json")
    assert (code, json.loads(out)["verdict"]) == (3, "not trusted")
    assert shamon("explain gamma")[0] == 3
    for host in ("alpha", "delta"):
        assert shamon(f"explain {host}")[0] == 2


def test_a_signed_result_is_kept_and_verified_elsewhere(shamon: Shamon, tmp_path: Path) -> None:
    code, out, _ = shamon("results save beta --out beta.result")
    assert (code, out) == (0, "beta.result: a signed result of beta\n")
    for by in ("--registry registry", "--certificate alpha.pem"):
        code, out, _ = shamon(f"results verify beta.result {by}")
        assert code == 3  # authentic, and it says that beta is not trusted
        assert out.startswith(
            "beta.result: signed by alpha, and not changed since.\nbeta: not trusted by alpha at 2023-"
        )
        assert "  fail    software: an unknown program or file was measured\n" in out
        code, out, _ = shamon(f"results verify beta.result {by} --json")
        answer = json.loads(out)
        assert (code, answer["signed_by"]) == (3, "alpha")
        Draft202012Validator(result_schema()).validate(answer["result"])
    code, _, err = shamon("results verify beta.result --certificate gamma.pem")
    assert code == 3
    assert "not by a Verifier whose key is known" in err
    text = (tmp_path / "beta.result").read_text()
    payload = json.loads(text)["payload"]
    (tmp_path / "changed").write_text(text.replace(payload, payload[:40] + "A" + payload[41:]))
    code, out, err = shamon("results verify changed --registry registry")
    assert code in (2, 3)
    assert "trusted by" not in out
    assert shamon("results save beta --out beta.result")[0] == 2  # never over another file
    assert shamon("results save gamma --out gamma.result")[0] == 2
    for ca in ("ca.pem", "ca"):
        assert shamon(f"results verify beta.result --registry registry --ca {ca}")[0] == 3
    assert "with --ca" in shamon("results verify beta.result --registry registry --ca none")[2]
    assert "HOST.record" in shamon("results verify beta.result --registry none")[2]
    assert shamon("results verify none --registry registry")[0] == 2
    assert shamon("results verify policy.toml --registry registry")[0] == 2


def test_the_schema(shamon: Shamon) -> None:
    code, out, _ = shamon("results schema")
    assert (code, json.loads(out)) == (0, result_schema())


def test_a_verdict_is_repeated_offline(shamon: Shamon) -> None:
    assert shamon("evidence save beta --out beta.evidence")[:2] == (0, "beta.evidence: Evidence of beta that failed\n")
    code, out, _ = shamon(ALL)
    assert code == 3
    assert "  fail    software: an unknown program or file was measured\n" in out
    assert "where     IMA entry 13, /usr/local/bin/unknown" in out
    assert out.endswith("note: the verdict is that of then\n")
    shamon("evidence save beta --which passed --out good.evidence")
    good = ALL.replace("beta.evidence", "good.evidence")
    code, out, _ = shamon(good)
    assert code == 0
    assert out.startswith("beta: trusted by the Evidence that alpha had at 2023-11-14T22:14:")
    code, out, _ = shamon(f"{good} --json")
    answer = json.loads(out)
    assert (code, answer["result"]["trusted"], answer["notes"][-1]) == (0, True, "the verdict is that of then")
    assert (answer["result"]["verifier"], answer["then"]["verifier"]) == ("offline", "alpha")
    Draft202012Validator(result_schema()).validate(answer["result"])
    assert shamon(good.replace("--registry registry", "--ak beta.ak"))[0] == 0
    code, out, _ = shamon(good.replace("--registry registry", "--ak alpha.ak"))
    assert code == 3
    assert "fail    binding" in out
    code, out, _ = shamon(good.replace(" --registry registry", ""))
    assert code == 3
    assert "absent  binding: the quote is signed by the AK that the file names" in out
    code, out, _ = shamon("appraise --evidence good.evidence --reference reference.json --json")
    statuses = {claim["name"]: claim["status"] for claim in json.loads(out)["result"]["claims"]}
    assert code == 3
    assert {name for name, status in statuses.items() if status == "absent"} == {
        "binding",
        "running-labels",
        "network-state",
        "tpm-kind",
    }


def test_the_same_files_say_what_a_host_would_fail_on(shamon: Shamon, tmp_path: Path) -> None:
    """What `evidence save` writes, and Reference Values that are signed."""
    shamon("evidence save beta --out beta.evidence")
    code, out, _ = shamon("reference diff --reference reference.json --evidence beta.evidence --out part.json")
    assert code == 3
    assert out.startswith("IMA entry 13, /usr/local/bin/unknown: an unknown program or file was measured\n")
    assert shamon("reference merge reference.json part.json --out next.json")[0] == 0
    assert shamon("reference diff --reference next.json --evidence beta.evidence")[0] == 0
    assert shamon("policy keygen anna --out anna.key")[0] == 0
    assert shamon("reference sign next.json --key anna.key --out signed.json")[0] == 0
    assert shamon(ALL.replace("reference.json", "signed.json"))[0] == 0
    code, _, err = shamon(ALL.replace("reference.json", "part.json"))
    assert code == 2
    assert "a part, where whole Reference Values are wanted" in err


def test_on_a_host_of_the_coalition_its_policy_and_registry_are_taken(
    shamon: Shamon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(appraising, "DEFAULT_POLICY", tmp_path / "policy.toml")
    monkeypatch.setattr(appraising, "DEFAULT_REGISTRY", tmp_path / "registry")
    shamon("evidence save beta --which passed --out good.evidence")
    code, out, _ = shamon("appraise --evidence good.evidence --reference reference.json")
    assert code == 0
    assert f"note: by the policy {tmp_path}/policy.toml\nnote: by the registry {tmp_path}/registry\n" in out
    code, out, _ = shamon("appraise --evidence good.evidence --reference reference.json --ak alpha.ak")
    assert code == 3
    assert "by the registry" not in out


def test_the_evidence_file_is_the_daemons(shamon: Shamon, tmp_path: Path) -> None:
    shamon("evidence save beta --out beta.evidence")
    file = decode_file((tmp_path / "beta.evidence").read_bytes())
    assert file.record.result.host == "beta"
    assert file.evidence.ima_offset == 0
    assert shamon("evidence save beta --out beta.evidence")[0] == 2
    assert shamon("evidence save gamma --out gamma.evidence")[0] == 2


@pytest.mark.parametrize(
    "arguments",
    [
        "--evidence none --reference reference.json",
        "--evidence reference.json --reference reference.json",
        "--evidence beta.evidence --reference policy.toml",
        "--evidence beta.evidence --reference none",
        "--evidence beta.evidence --reference reference.json --policy reference.json",
        "--evidence beta.evidence --reference reference.json --ak policy.toml",
        "--evidence beta.evidence --reference reference.json --registry none",
    ],
)
def test_what_is_no_such_file_is_bad_input(arguments: str, shamon: Shamon) -> None:
    shamon("evidence save beta --out beta.evidence")
    code, out, err = shamon(f"appraise {arguments}")
    assert (code, out) == (2, "")
    assert err.startswith("shamon: ")
    assert shamon(f"appraise {arguments} --json")[0] == 2


def test_a_host_that_was_expelled_since_is_no_verifier(shamon: Shamon, tmp_path: Path) -> None:
    shamon("results save beta --out beta.result")
    ca = authorities_of(read_ca_certificates(tmp_path / "ca.pem"))
    path = tmp_path / "registry/alpha.record"
    peer = read_host_record(path.read_bytes(), ca, source="alpha").peer
    out = replace(peer, serial=peer.serial + 1, membership=Membership.EXPELLED, reason="it was told to go")
    write_record(path.parent, sign_host_record(out, certificate_of(peer.host, memory_key(peer.host)), ca_key(tmp_path)))
    assert shamon("results verify beta.result --registry registry")[0] == 3
