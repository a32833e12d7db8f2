"""`shamon policy export` and `shamon policy schema`: each form goes to the terminal or into a new file, and says so."""

import json
from pathlib import Path

import pytest
from defusedxml.ElementTree import fromstring

from shamon_host.cli.main import main
from shamon_host.domain.labels import HostName
from shamon_host.interchange.flask import flask_source
from shamon_host.interchange.flow_graph import flow_graph
from shamon_host.interchange.graphviz import dot_text
from shamon_host.interchange.schema import policy_schema
from shamon_host.interchange.selinux_map import FRESH, fresh_label_map, selinux_document
from shamon_host.interchange.svg import svg_text
from tests.unit.domain.policy_text import FINANCE_TEXT, parse

FINANCE = parse(FINANCE_TEXT)


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "finance.toml"
    path.write_text(FINANCE_TEXT)
    return path


@pytest.fixture
def output(capsys: pytest.CaptureFixture[str]) -> "Output":
    return Output(capsys)


class Output:
    """Runs `shamon policy` and gives what it printed."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def of(self, *arguments: str | Path, code: int = 0) -> str:
        """What is on stdout; on stderr where `code` is not 0."""
        assert main(["policy", *map(str, arguments)]) == code
        printed = self._capsys.readouterr()
        return printed.err if code else printed.out


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("flask", flask_source(FINANCE)),
        ("dot", dot_text(flow_graph(FINANCE))),
        ("svg", svg_text(flow_graph(FINANCE))),
    ],
    ids=lambda value: value[:5],
)
def test_a_form_is_printed_as_it_is_or_in_json(form: str, text: str, policy: Path, output: Output) -> None:
    assert output.of("export", policy, "--to", form) == text
    assert json.loads(output.of("export", policy, "--to", form, "--json")) == {form: text}


def test_contexts_of_a_host_that_never_had_a_policy(policy: Path, output: Output) -> None:
    beta = HostName("beta")
    table = output.of("export", policy, "--to", "selinux", "--host", "beta")
    assert FRESH in " ".join(line.removeprefix("# ") for line in table.splitlines())
    assert "shamon_link_t:s0:c2" in table
    document = json.loads(output.of("export", policy, "--to", "selinux", "--host", "beta", "--json"))
    assert document == {"note": FRESH, **selinux_document(FINANCE, beta, fresh_label_map(FINANCE, beta))}


def test_it_is_written_into_a_new_file_and_over_an_old_one_only_by_force(
    policy: Path, tmp_path: Path, output: Output
) -> None:
    out = tmp_path / "flows.svg"
    assert output.of("export", policy, "--to", "svg", "--out", out) == f"{out}: written\n"
    assert fromstring(out.read_text()).tag.endswith("svg")
    refused = output.of("export", policy, "--to", "dot", "--out", out, code=2)
    assert "there already" in refused
    assert "--force" in refused
    assert out.read_text().startswith("<svg")
    assert json.loads(output.of("export", policy, "--to", "dot", "--out", out, "--force", "--json")) == {
        "file": str(out)
    }
    assert out.read_text() == dot_text(flow_graph(FINANCE))


def test_json_of_contexts_goes_into_the_file(policy: Path, tmp_path: Path, output: Output) -> None:
    out = tmp_path / "alpha.json"
    output.of("export", policy, "--to", "selinux", "--host", "alpha", "--json", "--out", out)
    assert json.loads(out.read_text())["host"] == "alpha"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--to", "selinux"], "--host NAME"),
        (["--to", "selinux", "--host", "betta"], "Did you mean beta?"),
        (["--to", "svg", "--host", "beta"], "no --host"),
        (["--to", "svg", "--force"], "--out FILE"),
        (["--to", "svg", "--out", "/no/such/directory/flows.svg"], "No such file or directory"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: list[str], words: str, policy: Path, output: Output) -> None:
    assert words in output.of("export", policy, *arguments, code=1 if "such" in arguments[-1] else 2)


def test_a_bad_policy_is_not_exported(policy: Path, tmp_path: Path, output: Output) -> None:
    policy.write_text(FINANCE_TEXT.replace('host = "beta"', 'host = "betta"'))
    out = tmp_path / "out.dot"
    assert "betta" in output.of("export", policy, "--to", "dot", "--out", out, code=2)
    assert not out.exists()


def test_the_schema(output: Output) -> None:
    assert json.loads(output.of("schema")) == policy_schema()
    assert json.loads(output.of("schema", "--json")) == policy_schema()
