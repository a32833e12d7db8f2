"""The bench of links' throughput, as far as it is arithmetic and words: figures of samples, and what hosts are told."""

import re
from pathlib import Path as File

import pytest

from tests.bench.answers import WrongAnswer
from tests.bench.links_throughput import GOAL, Sample, measurements, p99
from tests.bench.measuring import Unit
from tests.bench.throughput_link import NAME as LABELLED
from tests.bench.throughput_paths import (
    TAP,
    Path,
    bare_wire,
    ends,
    libreswan_vxlan,
    plain_l2tp,
    unlabelled_esp,
    wireguard_vxlan,
)
from tests.integration.lab.errors import LabError
from tests.integration.lab.wire import Cable

ESP = unlabelled_esp({1: bytes(36), 2: bytes(range(36))})
PATHS = (
    bare_wire(),
    plain_l2tp(),
    ESP,
    libreswan_vxlan("s3cret"),
    wireguard_vxlan({1: "own1", 2: "own2"}, {1: "pub1", 2: "pub2"}),
)


def _sample(byte_s: float, request_s: float = 1.0) -> Sample:
    return Sample(
        byte_s=byte_s, request_p50_s=request_s, request_p99_s=2.0, datagram_p50_s=request_s, datagram_p99_s=2.0
    )


def test_p99_is_what_one_in_a_hundred_exceeds() -> None:
    assert p99(range(1, 101)) == 99
    assert p99([5.0]) == 5.0
    assert p99([1.0] * 199 + [9.0]) == 1.0
    assert p99([1.0] * 198 + [9.0, 9.0, 9.0]) == 9.0


def test_a_sample_is_made_of_what_the_asking_end_says() -> None:
    sample = Sample.of({"bytes_s": 4.0, "request_s": [0.1, 0.2, 0.3] * 100, "datagram_s": [0.5] * 300})
    assert (sample.byte_s, sample.request_p50_s, sample.request_p99_s, sample.datagram_p50_s) == (0.25, 0.2, 0.3, 0.5)
    with pytest.raises(WrongAnswer):
        Sample.of({"bytes_s": 4.0, "request_s": [0.1] * 300, "datagram_s": [0.5] * 99})
    with pytest.raises(WrongAnswer):
        Sample.of({"bytes_s": 0.0, "request_s": [0.1] * 300, "datagram_s": [0.5] * 300})


def test_the_labelled_link_is_held_against_unlabelled_esp_and_all_else_against_it() -> None:
    samples = {
        LABELLED: [_sample(1.04), _sample(1.10)],
        ESP.name: [_sample(1.0), _sample(1.0)],
        "bare wire": [_sample(0.5), _sample(0.5)],
    }
    found = {each.name: each for each in measurements(samples, ESP.name)}
    link = found[f"TCP stream, bytes: {LABELLED}"]
    assert (link.baseline, link.unit, link.ratio_goal) == (ESP.name, Unit.RATE, GOAL)
    assert link.ratio == pytest.approx(1.07)
    assert link.met is False
    wire = found["TCP stream, bytes: bare wire"]
    assert (wire.baseline, wire.met) == (LABELLED, None)
    assert wire.median == pytest.approx(2.0)
    assert found[f"request and answer, p50: {LABELLED}"].met is True
    assert found[f"request and answer, p99: {LABELLED}"].ratio_goal is None


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
def test_every_script_names_host_and_peer(path: Path) -> None:
    for script in (path.up, path.down, path.begin, path.carried):
        for number in (1, 2):
            said = script.format(n=number, p=3 - number)
            assert not re.search(r"\{[a-z]", said.replace("{print", "")), said
    assert f"ip link set {TAP} master" in path.up


def test_unlabelled_esp_is_the_same_l2tp_with_what_links_have() -> None:
    assert plain_l2tp().up in ESP.up
    said = ESP.up.format(n=1, p=2)
    assert "src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x1002 reqid 9 mode transport replay-window 256 flag esn" in said
    assert bytes(range(36)).hex() in said
    assert "dir out tmpl src 192.0.2.1 dst 192.0.2.2" in said
    assert "dir in tmpl src 192.0.2.2 dst 192.0.2.1" in said
    assert "ctx" not in said


def test_a_host_is_told_its_own_private_key_and_the_other_ones_public_key() -> None:
    said = PATHS[4].up.format(n=2, p=1)
    assert "[ 2 = 2 ] && echo 'own2'" in said
    assert "[ 1 = 1 ] && peer='pub1'" in said
    assert "endpoint 192.0.2.1:51820" in said


def test_the_ends_are_put_into_the_namespace_and_removed() -> None:
    made, removed = ends(1400, 77)
    assert "nsenter -t 77 -n ip addr add 10.77.0.2/24 dev end0" in made.format(n=2)
    assert "mtu 1400" in made
    assert removed == f"ip link del {TAP}"


def test_a_cable_has_two_ends(tmp_path: File) -> None:
    cable = Cable(tmp_path)
    assert "server=on" in cable.attach("alpha")
    assert "server=off" in cable.attach("beta")
    with pytest.raises(LabError, match="two ends"):
        cable.attach("gamma")
    assert not cable.listens()
