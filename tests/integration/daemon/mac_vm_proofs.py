"""What becomes of a MAC VM that ends, and of one that is not what the policy pins. A test's module has a class that
inherits the proofs, and a fixture `pair`: hosts whose daemons run, with MAC VMs, and whose red VMs talk.
"""

from typing import Any

import pytest

from shamon_host.domain.policy import HypervisorKind
from tests.integration.lab.link_pair import RED, LinkPair
from tests.integration.lab.waiting import wait_until

_IMAGE = "/var/lib/libvirt/images/mac"
_NAME = "alpha-mac"
_FLIP = """
import sys
with open(sys.argv[1], "r+b") as file:
    file.seek(int(sys.argv[2]))
    byte = file.read(1)
    file.seek(int(sys.argv[2]))
    file.write(bytes([byte[0] ^ 1]))
"""


class MacVmProofs:
    """alpha's MAC VM is the one that something happens to."""

    def test_nothing_was_denied_but_what_the_story_tried(self, pair: LinkPair) -> None:
        """The denial of polmatch is of the SA with the wrong category, if this is the MAC VM that it came to."""
        assert [line for line in _mac_vm(pair)["denials"] if "polmatch" not in line] == []

    def test_one_that_ends_is_started_again(self, pair: LinkPair) -> None:
        before = _mac_vm(pair)["boot_id"]
        _destroy(pair)
        wait_until(
            lambda: _mac_vm(pair)["boot_id"] not in ("", before),
            timeout_s=240,
            what="another MAC VM answers",
            every_s=2,
        )
        pair.until_carried([RED])

    @pytest.mark.parametrize(("file", "place"), [("root.img", 1 << 20), ("initrd", 1 << 20), ("vmlinuz", 1 << 20)])
    def test_one_of_which_one_byte_was_changed(self, pair: LinkPair, file: str, place: int) -> None:
        """It is not started, the host says why, its peer cuts it off; with the byte as it was everything is back."""
        _flip(pair, file, place)
        since = pair.audit_end(pair.alpha)
        _destroy(pair)

        def refused() -> bool:
            entries = pair.audit_since(pair.alpha, since)
            return any("pinned one" in str(entry["detail"]) and file in str(entry["detail"]) for entry in entries)

        def cut_off() -> bool:
            (peer,) = (row for row in pair.ask(pair.beta, "peers") if row["host"] == "alpha")
            return bool(peer["state"] != "admitted")

        wait_until(refused, timeout_s=120, what="the digest is not the pinned one", every_s=2)
        assert _mac_vm(pair)["boot_id"] == ""
        wait_until(cut_off, timeout_s=180, what="beta cuts alpha off", every_s=2)
        _flip(pair, file, place)
        wait_until(lambda: _mac_vm(pair)["boot_id"] != "", timeout_s=240, what="the MAC VM answers", every_s=2)
        pair.until_carried([RED])


def _mac_vm(pair: LinkPair) -> dict[str, Any]:
    told: dict[str, Any] = pair.ask(pair.alpha, "mac-vm", check=False)
    return told


def _destroy(pair: LinkPair) -> None:
    uri = "xen:///system" if pair.alpha.platform is HypervisorKind.XEN else "qemu:///system"
    pair.alpha.run(f"virsh -q -c {uri} destroy {_NAME}", timeout_s=60)


def _flip(pair: LinkPair, file: str, place: int) -> None:
    """Change one byte of what the MAC VM is started from, or back."""
    pair.alpha.put("/root/flip.py", _FLIP)
    pair.alpha.run(f"/usr/bin/python3 /root/flip.py {_IMAGE}/{file} {place}")
