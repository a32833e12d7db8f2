"""What is wrong with a host is told by its peer, each thing in its own words: two real hosts, SELinux enforcing.

beta is spoiled in one way after the other, and every time alpha has to say what it is: the file and its digest, the PCR
and the event, what is missing. In the end beta is as it was, boots once more, and is admitted. About twenty minutes
without hardware virtualisation, hence not in every run.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.integration.lab import Lab, LabHost
from tests.integration.lab.coalition import SHAMON, Coalition
from tests.integration.lab.host import BootImage
from tests.integration.lab.story_world import LAB_TIMING

pytestmark = pytest.mark.full

_CMDLINE = Path(__file__).parents[2] / "vm_images" / "host" / "cmdline"
_STDLIB = "/usr/lib/python3.11/json/decoder.py"
_PTH = "/opt/shamon/lib/python3.11/site-packages/stranger.pth"
_INIT = "/usr/lib/systemd/systemd"
_IMA_POLICY = "/etc/ima/ima-policy"
_UNKNOWN = "/usr/local/bin/unknown"
_REFUSED_WITHIN_S = 180
_ADMITTED_WITHIN_S = 240


@dataclass(frozen=True, slots=True, kw_only=True)
class Wrong:
    """One way to spoil beta."""

    name: str
    needles: tuple[str, ...]
    """All of them are in what alpha says."""
    spoil: str = ""
    """Run on beta before it boots again, or while the daemon runs where `live`."""
    mend: str = ""
    live: bool = False
    boot: dict[str, Any] = field(default_factory=dict)
    """How beta is switched on."""


def _replaced(path: str, change: str) -> tuple[str, str]:
    """Commands that put a changed copy in the place of a file, label and all, and that put the old one back."""
    return (
        f"cp -a {path} {path}.changed && {change.format(path + '.changed')} && mv {path} {path}.kept "
        f"&& mv {path}.changed {path} && sync",
        f"mv {path}.kept {path} && sync",
    )


_APPENDED = "printf '\\n# changed\\n' >> {}"
_SYSTEMD = _replaced(_INIT, "printf x >> {}")
_MODULE = _replaced(_STDLIB, _APPENDED)
_EMPTIED = _replaced(_IMA_POLICY, ": > {}")
WRONG = (
    Wrong(
        name="unknown program",
        live=True,
        spoil=f"cp /usr/bin/true {_UNKNOWN} && printf x >> {_UNKNOWN} && {_UNKNOWN}",
        mend=f"rm {_UNKNOWN}",
        needles=("software", "unknown program", _UNKNOWN, "sha256:"),
    ),
    Wrong(name="setenforce 0", live=True, spoil="setenforce 0", needles=("selinux", "not enforcing", "enforcing=0")),
    Wrong(
        name="another command line in the image",
        boot={"image": BootImage.OTHER},
        needles=("boot-chain", "PCR 4", "event"),
    ),
    Wrong(
        name="another command line by load options",
        boot={"load_options": f"{_CMDLINE.read_text().strip()} changed=1"},
        needles=("boot-chain", "PCR 12", "event"),
    ),
    Wrong(
        name="a credential beside the image",
        boot={"credential": b"given by somebody"},
        needles=("boot-chain", "PCR 12", "event"),
    ),
    Wrong(
        name="systemd replaced", spoil=_SYSTEMD[0], mend=_SYSTEMD[1], needles=("not the known one", _INIT, "sha256:")
    ),
    Wrong(name="IMA policy emptied", spoil=_EMPTIED[0], mend=_EMPTIED[1], needles=("ima-policy", _IMA_POLICY)),
    Wrong(
        name="a module of the standard library changed",
        spoil=_MODULE[0],
        mend=_MODULE[1],
        needles=("not the known one", _STDLIB, "sha256:"),
    ),
    Wrong(
        name="a .pth file added",
        spoil=f"echo 'import json' > {_PTH} && restorecon {_PTH} && sync",
        mend=f"rm {_PTH} && sync",
        needles=("shamon-code", _PTH),
    ),
)


class Pair:
    """alpha, which judges, and beta."""

    def __init__(self, lab: Lab) -> None:
        self.coalition = Coalition(lab, timing=LAB_TIMING, hosts=("alpha", "beta"))
        self.coalition.found()
        self.alpha, self.beta = lab.host("alpha"), lab.host("beta")
        for host in (self.alpha, self.beta):
            self.start_daemon(host)
        self.mend = ""

    def start_daemon(self, host: LabHost) -> None:
        host.run("systemctl enable --now shamon.service", timeout_s=240)

    def ask(self, *arguments: str) -> Any:
        found = self.alpha.run(f"{SHAMON} {' '.join(arguments)} --json", check=False, timeout_s=300)
        return json.loads(found.stdout)

    def beta_is(self) -> dict[str, Any]:
        """What alpha says of beta."""
        found: dict[str, Any] = next(peer for peer in self.ask("peers") if peer["host"] == "beta")
        return found

    def until(self, condition: Callable[[dict[str, Any]], bool], within_s: float, what: str) -> dict[str, Any]:
        deadline = time.monotonic() + within_s
        while not condition(said := self.beta_is()):
            assert time.monotonic() < deadline, f"{what}: not within {within_s} s, but {said}"
            time.sleep(2)
        return said

    def until_admitted(self) -> None:
        self.until(lambda said: said["state"] == "admitted", _ADMITTED_WITHIN_S, "beta is admitted")

    def boot_beta(self, **how: Any) -> None:
        """Boot beta again, with what was spoiled before mended first, and start its daemon."""
        self.beta.start(**how)
        self.beta.wait_ready()
        self.start_daemon(self.beta)


@pytest.fixture(scope="module")
def pair(images: Path) -> Iterator[Pair]:
    with Lab(images) as lab:
        made = Pair(lab)
        made.until_admitted()
        yield made


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.name.replace(" ", "-"))
def test_alpha_says_what_is_wrong_with_beta(pair: Pair, wrong: Wrong) -> None:
    beta = pair.beta
    beta.run(pair.mend or "true")
    pair.mend = ""
    if wrong.live:
        if pair.beta_is()["state"] != "admitted":
            beta.power_off()
            pair.boot_beta()
        pair.until_admitted()
        beta.run(wrong.spoil)
    else:
        beta.run(wrong.spoil or "true")
        beta.power_off()
        pair.boot_beta(**wrong.boot)
    pair.mend = wrong.mend

    def told(said: dict[str, Any]) -> bool:
        return said["state"] == "suspended" and all(needle in said["reason"] for needle in wrong.needles)

    pair.until(told, _REFUSED_WITHIN_S, f"alpha refuses beta for {wrong.name}, naming {wrong.needles}")
    story = json.dumps(pair.ask("explain", "beta"), ensure_ascii=False)
    assert [needle for needle in wrong.needles if needle not in story] == []


def test_another_tpm_is_another_host(pair: Pair) -> None:
    """Nothing that beta says with it counts, and beta's own daemon says why."""
    beta = pair.beta
    beta.run(pair.mend or "true")
    pair.mend = ""
    beta.power_off()
    kept = beta.take_tpm_out()
    beta.start()
    beta.wait_ready()
    beta.run("systemctl start shamon.service", check=False, timeout_s=240)
    time.sleep(2 * LAB_TIMING.period_s)
    assert pair.beta_is()["state"] != "admitted"
    journal = beta.run("journalctl -q -o cat -u shamon.service", check=False).stdout
    assert "AK" in journal + json.dumps(pair.beta_is())
    beta.power_off()
    beta.put_tpm_in(kept)


def test_beta_as_it_was_is_admitted_again(pair: Pair) -> None:
    pair.beta.power_off()
    pair.boot_beta()
    pair.until_admitted()
    story = pair.ask("explain", "beta")
    assert "trusted" in json.dumps(story)
