"""`shamon reference sign` and `verify`: what people do with signing keys, away from the hosts.

Keys are made with `shamon policy keygen`. Who must sign is in each host's own configuration (`[reference_signing]`).
"""

import argparse
from pathlib import Path
from typing import Any

from shamon_host.cli.output import print_json, printable
from shamon_host.domain.errors import BadInput


def add_parsers(actions: Any) -> None:
    """Add these commands to those of `shamon reference`."""
    sign = actions.add_parser("sign", help="sign Reference Values, or add a signature to signed ones")
    sign.add_argument("file", type=Path, metavar="FILE", help="Reference Values, or an envelope around them")
    sign.add_argument("--key", type=Path, required=True, metavar="KEY", help="private key, PEM")
    sign.add_argument("--passphrase-fd", type=int, metavar="N", help="read the key's passphrase from file descriptor N")
    sign.add_argument("--out", type=Path, required=True, metavar="FILE", help="where the envelope goes")
    sign.set_defaults(run=_sign)
    verify = actions.add_parser("verify", help="whether a host would take them, by its configuration's signers")
    verify.add_argument("file", type=Path, metavar="FILE", help="signed Reference Values")
    verify.add_argument("--config", type=Path, required=True, metavar="HOST_TOML", help="the host's configuration")
    verify.set_defaults(run=_verify)
    for parser in (sign, verify):
        parser.add_argument("--json", action="store_true", help="print JSON")


def _sign(arguments: argparse.Namespace) -> int:
    from shamon_host.cli.reference_files import open_values, require_replaceable
    from shamon_host.cli.signing_keys import read_key
    from shamon_host.daemon.files import read_limited
    from shamon_host.peer.coalition_ca import write_atomically
    from shamon_host.peer.reference_envelope import MAX_ENVELOPE_BYTES, is_envelope, read_envelope, sign
    from shamon_host.peer.signed_record import public_text

    reference = open_values(arguments.file)
    data = read_limited(arguments.file, MAX_ENVELOPE_BYTES, "file of Reference Values")
    before = read_envelope(data, source=str(arguments.file)) if is_envelope(data) else None
    require_replaceable(arguments.out)
    key = read_key(arguments.key, arguments.passphrase_fd)
    envelope = sign(before or reference, key)
    write_atomically(arguments.out, envelope.encode(), mode=0o644)
    public = public_text(key)
    if arguments.json:
        print_json(
            {"version": reference.version, "digest": reference.digest, "public": public, "out": str(arguments.out)}
        )
    else:
        print(
            f"{printable(arguments.out)}: version {reference.version}, digest {reference.digest}, "
            f"{len(envelope.signatures)} signatures, the last one by {public}"
        )
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from shamon_host.daemon.config import load_config
    from shamon_host.daemon.files import read_limited
    from shamon_host.peer.reference_envelope import MAX_ENVELOPE_BYTES, opened

    signers = load_config(arguments.config).reference_signers
    if signers is None:
        raise BadInput("this host demands no signatures", where=str(arguments.config), expected="[reference_signing]")
    data = read_limited(arguments.file, MAX_ENVELOPE_BYTES, "file of Reference Values")
    reference = opened(data, signers, source=str(arguments.file))
    if arguments.json:
        print_json({"version": reference.version, "digest": reference.digest, "signed": True})
    else:
        print(
            f"{printable(arguments.file)}: version {reference.version}, digest {reference.digest}, signed as demanded"
        )
    return 0
