"""The README's examples do what they say, in namespaces of the tests in the place of its own."""

import ast
import contextlib
import errno
import re
from pathlib import Path
from types import CodeType
from typing import Any

import pytest

from shamon_host import pyxfrm
from shamon_host.pyxfrm import XfrmError
from shamon_host.pyxfrm.client import Xfrm
from tests.integration.pyxfrm.namespaces import HERE, Namespace

_README = (Path(pyxfrm.__file__).parent / "README.md").read_text()


def _example(heading: str) -> tuple[str, str]:
    """The code below a heading, and what it is shown to print."""
    section = _README.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    (code,) = re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    shown = section.partition(code)[2].partition("\n```\n")[2].partition("```\n")[0]
    return code, shown


def _compiled(code: str, here: Namespace, there: Namespace) -> CodeType:
    own = code.replace('"blue"', f'"{here.name}"').replace("/run/netns/green", f"/run/netns/{there.name}")
    compiled: CodeType = compile(own, "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    return compiled


def test_an_sa_and_a_policy(xfrm: Xfrm, here: Namespace, there: Namespace) -> None:
    code, _ = _example("An SA and a policy")
    try:
        exec(_compiled(code, here, there), {})
    except XfrmError as error:
        without_esp = (errno.ENOSYS, errno.EPROTONOSUPPORT, errno.EINVAL)
        if error.errno not in without_esp or not error.operation.startswith("update SA"):
            raise
        pytest.skip(f"needs ESP and rfc4106(gcm(aes)) in the kernel: {error}")
    assert xfrm.dump_sas() == ()
    assert xfrm.dump_policies() == ()


async def test_acquires_and_other_news(
    xfrm: Xfrm, here: Namespace, there: Namespace, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _ = _example("Acquires and other news")

    def send_something_to(address: str) -> None:
        with here.udp_socket() as sender:
            sender.bind((str(HERE), 0))
            sender.setblocking(False)
            with contextlib.suppress(OSError):  # the packet itself may be refused at once
                sender.sendto(b"x", (address, 9))

    names: dict[str, Any] = {"send_something_to": send_something_to}
    await eval(_compiled(code, here, there), names)
    assert capsys.readouterr().out == "an SA to 192.0.2.2 is wanted\n"
    assert names["larval"].spi != 0
    assert xfrm.dump_policies() == ()


def test_batches(xfrm: Xfrm, here: Namespace, there: Namespace, capsys: pytest.CaptureFixture[str]) -> None:
    code, shown = _example("Batches")
    exec(_compiled(code, here, there), {})
    assert capsys.readouterr().out == shown
    assert xfrm.dump_policies() == ()


def test_namespaces_counters_defaults(
    peer: Xfrm, here: Namespace, there: Namespace, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _ = _example("Namespaces, counters, defaults")
    before = peer.default_policy()
    try:
        exec(_compiled(code, here, there), {})
        assert capsys.readouterr().out.splitlines()[-1] == "BLOCK"
    finally:
        peer.set_default_policy(before)
