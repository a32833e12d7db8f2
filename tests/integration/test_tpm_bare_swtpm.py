"""Quotes without the software stack, by a software TPM of its own on this machine: no root, no lab, no such stack."""

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from shamon_host.attestation.pcr import Bank
from shamon_host.attestation.quote import verify_quote
from shamon_host.attestation.quoting import SELECTION
from shamon_host.attestation.tpm_bare import MAX_RESPONSE, BareTpm
from shamon_host.attestation.tpm_public import TpmPublic
from tests.integration.swtpm import Swtpm

if shutil.which("swtpm") is None or shutil.which("swtpm_setup") is None:
    pytest.skip("swtpm is not installed (Debian: swtpm, swtpm-tools)", allow_module_level=True)

NONCE = bytes(range(32))


@pytest.fixture
def swtpm(tmp_path: Path) -> Iterator[Swtpm]:
    tpm = Swtpm(tmp_path)
    yield tpm
    tpm.stop()


def connected(swtpm: Swtpm) -> tuple[BareTpm, socket.socket]:
    """Its socket takes commands, and gives responses, as the kernel's device does."""
    connection = socket.create_connection(("127.0.0.1", int(swtpm.tcti.rpartition("=")[2])))

    def exchange(command: bytes) -> bytes:
        connection.sendall(command)
        return connection.recv(MAX_RESPONSE)

    return BareTpm(exchange, where="swtpm"), connection


def test_a_quote_verifies_and_the_key_stays_the_same(swtpm: Swtpm) -> None:
    keys = []
    for _ in range(2):
        tpm, connection = connected(swtpm)
        with connection:
            keys.append(tpm.ak_public())
            TpmPublic.parse(tpm.ak_public()).require_attestation_key()
            for _ in range(2):
                quote = tpm.quote(NONCE)
                pcrs = {Bank.SHA256: quote.pcr_values}
                verified = verify_quote(quote.attest, quote.signature, tpm.ak_public(), NONCE, SELECTION, pcrs)
                assert set(verified.pcrs[Bank.SHA256]) == set(range(15))
        swtpm.stop()
        swtpm.start()
    assert keys[0] == keys[1]


def test_it_is_the_key_that_the_software_stack_makes(swtpm: Swtpm) -> None:
    pytest.importorskip("tpm2_pytss", reason="the TPM2 software stack's Python package is not installed")
    from shamon_host.attestation.tpm_device import DeviceTpm

    with DeviceTpm(swtpm.tcti) as other:
        wanted = other.ak_public()
    tpm, connection = connected(swtpm)
    with connection:
        assert tpm.ak_public() == wanted
