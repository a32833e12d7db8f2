"""`shamon policy keygen`, `sign` and `verify`: what people do with signing keys, away from the hosts.

An envelope travels from one signer to the next, each of whom adds a signature; nothing in it is secret. What only
these commands need is imported when they run: every other command starts without it.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shamon_host.cli.output import print_json, print_table, printable
from shamon_host.daemon.files import read_limited
from shamon_host.domain.errors import BadInput, NotTrusted
from shamon_host.domain.labels import plain_name

if TYPE_CHECKING:
    from shamon_host.domain.policy import Policy
    from shamon_host.peer.policy_envelope import Assessment
    from shamon_host.peer.signed_record import Envelope


def add_parsers(actions: Any) -> None:
    """Add these commands to those of `shamon policy`."""
    keygen = actions.add_parser("keygen", help="make a key that signs policies, and print what the policy needs of it")
    keygen.add_argument("name", metavar="NAME", help="what the policy calls it")
    keygen.add_argument("--out", type=Path, required=True, metavar="FILE", help="where the private key goes")
    keygen.add_argument("--algorithm", choices=("ed25519", "p256"), default="ed25519", help="default: ed25519")
    protect = keygen.add_mutually_exclusive_group()
    protect.add_argument("--passphrase", action="store_true", help="ask for a passphrase that protects it")
    protect.add_argument("--passphrase-fd", type=int, metavar="N", help="read the passphrase from file descriptor N")
    keygen.set_defaults(run=_keygen)
    sign = actions.add_parser("sign", help="sign a policy, or add a signature to a signed one")
    sign.add_argument("file", type=Path, metavar="FILE", help="a policy (TOML), or an envelope")
    sign.add_argument("--key", type=Path, required=True, metavar="KEY", help="private key, PEM")
    sign.add_argument("--passphrase-fd", type=int, metavar="N", help="read the key's passphrase from file descriptor N")
    sign.add_argument("--envelope", type=Path, metavar="ENVELOPE", help="signatures of others on the same policy")
    sign.add_argument("--out", type=Path, required=True, metavar="FILE", help="where the envelope goes")
    sign.set_defaults(run=_sign)
    verify = actions.add_parser("verify", help="say who must sign a policy, and who did")
    verify.add_argument("envelope", type=Path, metavar="ENVELOPE", help="as `policy sign` wrote it")
    verify.add_argument("--current", type=Path, metavar="FILE", help="the version in force: a policy, or an envelope")
    verify.set_defaults(run=_verify)
    for parser in (keygen, sign, verify):
        parser.add_argument("--json", action="store_true", help="print JSON")


def _keygen(arguments: argparse.Namespace) -> int:
    from shamon_host.cli.signing_keys import make_key, new_passphrase, passphrase_from
    from shamon_host.peer.policy_envelope import key_id

    name = plain_name(arguments.name, "name of a key")
    passphrase = None
    if arguments.passphrase_fd is not None:
        passphrase = passphrase_from(arguments.passphrase_fd)
    elif arguments.passphrase:
        passphrase = new_passphrase()
    public = make_key(arguments.out, arguments.algorithm, passphrase)
    if arguments.json:
        print_json({"name": name, "public": public, "id": key_id(public), "key": str(arguments.out)})
    else:
        print(f'# private key: {printable(arguments.out)}\n[keys.{_toml_key(name)}]\npublic = "{public}"')
    return 0


def _sign(arguments: argparse.Namespace) -> int:
    from shamon_host.cli.signing_keys import read_key
    from shamon_host.peer.coalition_ca import write_atomically
    from shamon_host.peer.policy_envelope import POLICY_TYPE, public_text, sign
    from shamon_host.peer.signed_record import Envelope

    policy, payload, before = _read(arguments.file)
    if policy.signing is None:
        raise BadInput(
            "the policy does not say who signs it", where=str(arguments.file), expected="[signing] and [keys]"
        )
    signatures = list(before.signatures if before else ())
    if arguments.envelope is not None:
        others = _read_envelope(arguments.envelope)
        if others.payload != payload:
            raise BadInput(
                "it is around another policy than the one to be signed",
                where=str(arguments.envelope),
                expected=_which(policy),
                found=_which(_policy_of(others, arguments.envelope)),
            )
        signatures += [pair for pair in others.signatures if pair not in signatures]
    if arguments.out.exists():
        _read_envelope(arguments.out)  # nothing else is ever replaced
    key = read_key(arguments.key, arguments.passphrase_fd)
    envelope = sign(Envelope(payload=payload, payload_type=POLICY_TYPE, signatures=tuple(signatures)), key)
    write_atomically(arguments.out, envelope.encode(), mode=0o644)
    public = public_text(key)
    name = next((name for name, known in policy.keys.items() if known == public), None)
    if arguments.json:
        print_json({"digest": policy.digest, "signed_by": name, "public": public, "envelope": str(arguments.out)})
    else:
        who = name or "a key that this policy does not name (one of the version before?)"
        print(f"{printable(arguments.out)}: {_which(policy)}, signed by {who}")
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from shamon_host.domain.authority import required_signatures
    from shamon_host.peer.policy_envelope import assess

    envelope = _read_envelope(arguments.envelope)
    policy = _policy_of(envelope, arguments.envelope)
    current = None if arguments.current is None else _read(arguments.current)[0]
    _require_successor(policy, current, arguments)
    assessments = assess(envelope, required_signatures(policy, current))
    if not assessments:
        raise NotTrusted("nobody has to sign this policy", where=str(arguments.envelope), expected="[signing]")
    met = all(each.met for each in assessments)
    rows = [_row(each) for each in assessments]
    if arguments.json:
        print_json(
            {"coalition": policy.coalition, "version": policy.version, "digest": policy.digest, "met": met}
            | {"requirements": rows}
        )
    else:
        print(f"{printable(arguments.envelope)}: {_which(policy)}")
        print_table(
            [row | {"met": "yes" if row["met"] else "NO"} for row in rows],
            ("met", "signed", "threshold", "signed_by", "missing", "requirement"),
            empty="",
        )
    return 0 if met else NotTrusted.exit_code


def _row(assessment: "Assessment") -> dict[str, Any]:
    requirement = assessment.requirement
    return {
        "met": assessment.met,
        "signed": len(assessment.signed),
        "threshold": requirement.threshold,
        "signed_by": requirement.who(assessment.signed),
        "missing": "" if assessment.met else requirement.who(requirement.keys - assessment.signed),
        "requirement": requirement.reason,
    }


def _require_successor(policy: "Policy", current: "Policy | None", arguments: argparse.Namespace) -> None:
    """Who must sign follows from the version before: any other one would give a wrong answer. Raises BadInput."""
    if current is None:
        if policy.version > 1:
            raise BadInput(
                "who must sign it depends on the version before",
                where=str(arguments.envelope),
                found=f"version {policy.version}",
                remedy="Give that with --current.",
            )
    elif policy.parent != current.digest or policy.coalition != current.coalition:
        raise BadInput(
            "it does not follow this version",
            where=str(arguments.current),
            expected=f"the version whose digest is {policy.parent or 'none: the first one'}",
            found=_which(current),
        )


# Files


def _read(path: Path) -> "tuple[Policy, bytes, Envelope | None]":
    """A policy from TOML, or from an envelope; its canonical form; and the envelope. Raises BadInput."""
    from shamon_host.daemon.policy_source import read_policy_or_envelope
    from shamon_host.domain.policy_form import policy_bytes
    from shamon_host.peer.policy_envelope import read_envelope

    policy, data = read_policy_or_envelope(path)
    return policy, policy_bytes(policy), read_envelope(data, source=str(path)) if data else None


def _read_envelope(path: Path) -> "Envelope":
    from shamon_host.peer.policy_envelope import MAX_ENVELOPE_BYTES, read_envelope

    return read_envelope(read_limited(path, MAX_ENVELOPE_BYTES, "envelope"), source=str(path))


def _policy_of(envelope: "Envelope", path: Path) -> "Policy":
    from shamon_host.domain.policy_file import parse_canonical

    return parse_canonical(envelope.payload, source=str(path))


def _which(policy: "Policy") -> str:
    return f"{policy.coalition}, version {policy.version}, digest {policy.digest}"


def _toml_key(name: str) -> str:
    """A name as a part of a TOML key: one with a dot has to be quoted."""
    return f'"{name}"' if "." in name else name
