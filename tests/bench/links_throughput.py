"""How fast frames get from host to host: through a labelled link, and through what else one could take.

Two lab hosts with one cable between them, no switch. In each round every path is made, measured and taken away again,
one after the other, so that each has the hosts for itself and all meet the same noise.
"""

import base64
import json
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from tests.bench.answers import WrongAnswer
from tests.bench.links_parts import PartReport
from tests.bench.measuring import Measurement, Unit
from tests.bench.throughput_link import NAME as LABELLED
from tests.bench.throughput_link import LabelledLink
from tests.bench.throughput_paths import (
    INNER,
    MTU_ESP_VXLAN,
    MTU_WIREGUARD_VXLAN,
    bare_wire,
    ends,
    libreswan_vxlan,
    plain_l2tp,
    unlabelled_esp,
    wireguard_vxlan,
)
from tests.bench.throughput_paths import (
    Path as Way,
)
from tests.integration.lab.accelerator import accelerator
from tests.integration.lab.errors import LabError
from tests.integration.lab.host import LabHost
from tests.integration.lab.waiting import wait_until
from tests.integration.lab.wire import Cable
from vm_images.cache import in_use

GOAL = 1.05
"""Times what the same L2TP through unlabelled ESP takes, at most."""
_STREAM_S = 5.0
_ENOUGH_PACKETS = 100
_PROGRAM = Path(__file__).with_name("throughput_ends.py")
_REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What one path did in one round; everything in seconds."""

    byte_s: float
    """Of one byte of a TCP stream."""
    request_p50_s: float
    request_p99_s: float
    datagram_p50_s: float
    datagram_p99_s: float

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> "Sample":
        """Of what the asking end printed. Raises WrongAnswer where too little came back to say anything."""
        requests, datagrams = told["request_s"], told["datagram_s"]
        if told["bytes_s"] <= 0 or len(requests) < 100 or len(datagrams) < 100:
            raise WrongAnswer(f"{told['bytes_s']} bytes/s, {len(requests)} answers, {len(datagrams)} echoes")
        return cls(
            byte_s=1 / told["bytes_s"],
            request_p50_s=statistics.median(requests),
            request_p99_s=p99(requests),
            datagram_p50_s=statistics.median(datagrams),
            datagram_p99_s=p99(datagrams),
        )


def p99(values: Sequence[float]) -> float:
    """The value that 99 of 100 do not exceed."""
    return sorted(values)[-(-len(values) * 99 // 100) - 1]


def measurements(samples: Mapping[str, Sequence[Sample]], esp: str) -> tuple[Measurement, ...]:
    """The labelled link against `esp`, with the goal; everything else against the labelled link."""
    figures: tuple[tuple[str, Unit, Callable[[Sample], float], bool], ...] = (
        ("TCP stream, bytes", Unit.RATE, lambda sample: sample.byte_s, True),
        ("request and answer, p50", Unit.SECONDS, lambda sample: sample.request_p50_s, True),
        ("request and answer, p99", Unit.SECONDS, lambda sample: sample.request_p99_s, False),
        ("datagram and echo, p50", Unit.SECONDS, lambda sample: sample.datagram_p50_s, True),
        ("datagram and echo, p99", Unit.SECONDS, lambda sample: sample.datagram_p99_s, False),
    )
    return tuple(
        Measurement(
            name=f"{what}: {path}",
            unit=unit,
            costs_s=tuple(map(cost, samples[path])),
            baseline=esp if path == LABELLED else LABELLED,
            baseline_costs_s=tuple(map(cost, samples[esp if path == LABELLED else LABELLED])),
            ratio_goal=GOAL if goal and path == LABELLED else None,
        )
        for what, unit, cost, goal in figures
        for path in samples
    )


def measure(rounds: int) -> PartReport:
    """Boot the hosts, and measure every path so many times. Raises WrongAnswer, LabError."""
    images = _images()
    with _booted(images) as hosts:
        bench = _Bench(hosts)
        bench.prepare()
        ways = (bare_wire(), plain_l2tp(), _esp(), _libreswan(), _wireguard())
        samples: dict[str, list[Sample]] = {LABELLED: [], **{way.name: [] for way in ways}}
        for number in range(rounds):
            samples[LABELLED].append(bench.labelled())
            for way in ways:
                samples[way.name].append(bench.through(way))
            print(f"round {number + 1} of {rounds} is measured", file=sys.stderr, flush=True)
    found = measurements(samples, ways[2].name)
    notes = (
        f"Two hosts of one processor each under {accelerator(images / 'app')}, one stream of {_STREAM_S:.0f} s.",
        "Frames of 1,500 bytes, which the L2TP paths cut below in two; VXLAN as it is set up to avoid that: "
        f"{MTU_ESP_VXLAN} bytes through libreswan, {MTU_WIREGUARD_VXLAN} through WireGuard.",
        "Ciphers that are emulated rank nothing: between different ones the ratios say little. Labelled and unlabelled "
        "ESP have the same.",
    )
    return PartReport(
        clock="wall-clock time of the asking end",
        measurements=tuple(each.as_json() for each in found),
        notes=notes,
    )


def _esp() -> Way:
    return unlabelled_esp({number: secrets.token_bytes(36) for number in (1, 2)})


def _libreswan() -> Way:
    return libreswan_vxlan(secrets.token_hex(24))


def _wireguard() -> Way:
    keys = {number: X25519PrivateKey.generate() for number in (1, 2)}
    raw = (Encoding.Raw, PrivateFormat.Raw, NoEncryption())
    return wireguard_vxlan(
        {number: _text(key.private_bytes(*raw)) for number, key in keys.items()},
        {number: _text(key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)) for number, key in keys.items()},
    )


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


class _Bench:
    """Both hosts, a namespace on each, and what is asked of them."""

    def __init__(self, hosts: tuple[LabHost, LabHost]) -> None:
        self.hosts = hosts
        self.link = LabelledLink(hosts)
        self._namespaces: dict[int, int] = {}

    def prepare(self) -> None:
        """The namespaces, and the answering end in the second host's."""
        for host in self.hosts:
            host.put("/run/bench/ends.py", _PROGRAM)
            held = host.run("nohup unshare -n sleep infinity </dev/null >/dev/null 2>&1 & echo $!").stdout
            self._namespaces[host.number] = int(held)
        _, answering = self.hosts
        inside = f"nsenter -t {self._namespaces[answering.number]} -n"
        answering.run(f"nohup {inside} python3 /run/bench/ends.py serve </dev/null >/run/bench/log 2>&1 &")
        self.link.start()

    def labelled(self) -> Sample:
        with self._ends(1500):
            self.link.up()
            try:
                sample = self._sample(LABELLED)
                self.link.check()
            finally:
                self.link.down()
        return sample

    def through(self, way: Way) -> Sample:
        with self._ends(way.mtu):
            try:
                for host in self.hosts:
                    self._say(host, way.up)
                if way.begin:
                    self._say(self.hosts[0], way.begin)
                sample = self._sample(way.name)
                self._check(way)
            finally:
                for host in self.hosts:
                    self._say(host, way.down, check=False)
        return sample

    def _check(self, way: Way) -> None:
        """What is said to be protected was, and what is not, was not. Raises WrongAnswer."""
        for host in self.hosts:
            states = self._say(host, "ip xfrm state").strip()
            if not way.carried and states:
                raise WrongAnswer(f"{way.name}: there are SAs on {host.name}")
            if way.carried and (carried := int(self._say(host, way.carried).strip() or 0)) < _ENOUGH_PACKETS:
                raise WrongAnswer(f"{way.name}: {carried} packets were protected on {host.name}")

    def _sample(self, name: str) -> Sample:
        """Until the path is there it may take a moment: a bridge's port learns, a key is agreed on."""
        asking = self.hosts[0]
        inside = f"nsenter -t {self._namespaces[asking.number]} -n python3 /run/bench/ends.py"
        address = INNER.format(self.hosts[1].number)
        probe = f"nsenter -t {self._namespaces[asking.number]} -n ping -q -c 1 -W 1 {address}"
        wait_until(lambda: asking.run(probe, check=False).status == 0, timeout_s=30, what=f"answers through {name}")
        told = asking.run(f"{inside} ask {address} {_STREAM_S}", timeout_s=_STREAM_S + 180)
        return Sample.of(json.loads(told.stdout))

    @contextmanager
    def _ends(self, mtu: int) -> Iterator[None]:
        """The veth pairs that the path is to connect."""
        try:
            for host in self.hosts:
                made, _ = ends(mtu, self._namespaces[host.number])
                self._say(host, made)
            yield
        finally:
            for host in self.hosts:
                _, removed = ends(mtu, self._namespaces[host.number])
                self._say(host, removed, check=False)

    def _say(self, host: LabHost, script: str, *, check: bool = True) -> str:
        said = script.format(n=host.number, p=3 - host.number)
        return host.run(f"set -e\n{said}" if check else said, check=check, timeout_s=120).stdout


@contextmanager
def _booted(images: Path) -> Iterator[tuple[LabHost, LabHost]]:
    """Two hosts of the bench's image, with a cable between them."""
    directory = Path(tempfile.mkdtemp(prefix="bench-"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        stack.enter_context(in_use(images))
        cable = Cable(directory)
        first, second = (
            LabHost(
                name=name,
                number=number,
                images=images,
                directory=directory,
                wire=cable,
                accelerator=accelerator(images / "app"),
            )
            for number, name in enumerate(("alpha", "beta"), 1)
        )
        for host in (first, second):
            stack.callback(host.kill)
        first.start()
        wait_until(cable.listens, timeout_s=60, what="the cable's first end", every_s=0.1)
        second.start()
        for host in (first, second):
            host.wait_ready()
        yield first, second


def _images() -> Path:
    """Built if they are missing. Raises LabError."""
    command = [sys.executable, "-m", "vm_images.build", "bench"]
    built = subprocess.run(command, cwd=_REPOSITORY, stdout=subprocess.PIPE, text=True, check=False)
    if built.returncode != 0:
        raise LabError("the bench's images could not be built: see the lines above")
    return Path(built.stdout.strip().splitlines()[-1])
