"""Run on a lab host by root: `shamon host join` with the Endorsement Key of another host's TPM, whose public part is no
secret: `rogue_join.py EK_HEX INVITATION`.

The host's own TPM cannot open what the operator's machine makes for that key, so the secret that it sends is made up.
"""

import secrets
import sys

from shamon_host.attestation.credential import Credential
from shamon_host.attestation.tpm_device import DeviceTpm
from shamon_host.cli.main import main
from shamon_host.domain.errors import BackendFailed

EK_PUBLIC = bytes.fromhex(sys.argv[1])
_honest = DeviceTpm.activate_credential


def _activate(self: DeviceTpm, credential: Credential) -> bytes:
    try:
        return _honest(self, credential)
    except BackendFailed as error:
        print(f"this TPM does not open it: {error.what}", file=sys.stderr)
        return secrets.token_bytes(32)


def _ek_public(self: DeviceTpm) -> bytes:
    return EK_PUBLIC


def _ek_certificate(self: DeviceTpm) -> bytes:
    return b""


DeviceTpm.ek_public = _ek_public  # type: ignore[method-assign]
DeviceTpm.ek_certificate = _ek_certificate  # type: ignore[method-assign]
DeviceTpm.activate_credential = _activate  # type: ignore[method-assign]
sys.exit(main(["host", "join", sys.argv[2], "--dir", "/run/joining/shamon", "--json"]))
