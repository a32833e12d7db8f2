"""Whether the part of a policy about organisations, departments and signing keys hangs together."""

import base64
import binascii
from collections.abc import Iterator

from shamon_host.domain.findings import Finding, quoted, unknown
from shamon_host.domain.policy import MAX_DEPTH, Policy

_SPKI_FORMS = {
    44: bytes.fromhex("302a300506032b6570032100"),
    91: bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004"),
}
"""Length of a DER SubjectPublicKeyInfo → how it begins: Ed25519 (RFC 8410), P-256 with an uncompressed point
(RFC 5480). Each key has one form, so that none counts twice."""


def owner_mistakes(policy: Policy) -> Iterator[Finding]:
    """Every mistake about organisations and departments, and who owns a type."""
    for name, department in sorted(policy.departments.items()):
        key = f'departments."{name}".of'
        if department.of not in policy.organisations and department.of not in policy.departments:
            yield unknown(
                key, "organisation or department", department.of, sorted([*policy.organisations, *policy.departments])
            )
            continue
        above = _above(policy, name)
        if len(above) >= MAX_DEPTH:
            yield Finding(
                key=key,
                what="too many departments above it",
                expected=f"an organisation after at most {MAX_DEPTH - 1}",
            )
        elif name in above:
            yield Finding(
                key=key,
                what="a department is part of itself",
                expected="an organisation at the end",
                found=" of ".join([name, *above[: above.index(name) + 1]]),
            )
        elif above[-1] in policy.organisations and name.partition("/")[0] != above[-1]:
            yield Finding(
                key=key,
                what="its name begins with another organisation than its own",
                expected=f"{above[-1]}/...",
                found=name,
            )
    taken = policy.types & policy.departments.keys()
    for name in sorted(taken):
        yield Finding(key=f'departments."{name}"', what="a type has the same name", expected="a name of its own")
    for name in sorted(policy.walls & (policy.organisations.keys() | policy.departments.keys())):
        yield Finding(key="walls", what="an owner of types is a Chinese Wall type anyway", found=name)
    owners = policy.organisations.keys() | policy.departments.keys()
    for type_name, definition in sorted(policy.definitions.items()):
        if definition.owner is None:
            if policy.organisations:
                first = type_name.partition("/")[0]
                yield unknown(f'types."{type_name}"', "organisation", first, sorted(policy.organisations))
        elif definition.owner not in owners:
            yield unknown(f'types."{type_name}".owner', "organisation or department", definition.owner, sorted(owners))


def signing_mistakes(policy: Policy) -> Iterator[Finding]:
    """Every mistake about keys and who signs."""
    known = sorted(policy.keys)
    seen: dict[bytes, str] = {}
    for name, public in sorted(policy.keys.items()):
        data = _decoded(public)
        if data is None:
            yield Finding(
                key=f"keys.{quoted(name)}.public",
                what="not a public key",
                expected="base64 of a DER SubjectPublicKeyInfo, as `shamon policy keygen` prints it",
                found=public[:40],
            )
            continue
        first = seen.setdefault(data, name)
        if first != name:
            yield Finding(
                key=f"keys.{quoted(name)}.public", what=f"the key {first} too", expected="one name for each key"
            )
    for name, organisation in sorted(policy.organisations.items()):
        if organisation.key is not None and organisation.key not in policy.keys:
            yield unknown(f"organisations.{quoted(name)}.key", "signing key", organisation.key, known)
    if policy.signing is None:
        return
    for name in sorted(set(policy.signing.keys) - policy.keys.keys()):
        yield unknown("signing.keys", "signing key", name, known)
    if not policy.signing.keys:
        yield Finding(key="signing.keys", what="nobody may sign", expected="at least one key")
    elif not 1 <= policy.signing.threshold <= len(policy.signing.keys):
        yield Finding(
            key="signing.threshold",
            what="a threshold that cannot be met, or that nobody has to meet",
            expected=f"1 to {len(policy.signing.keys)}, the number of keys",
            found=str(policy.signing.threshold),
        )


def _above(policy: Policy, name: str) -> list[str]:
    """What the department is part of, upwards, until an organisation, a name unknown, one seen before, or MAX_DEPTH."""
    above: list[str] = []
    current = name
    while current in policy.departments and len(above) < MAX_DEPTH:
        current = policy.departments[current].of
        if current in above:
            break
        above.append(current)
    return above


def _decoded(public: str) -> bytes | None:
    try:
        data = base64.b64decode(public, validate=True)
    except (binascii.Error, ValueError):
        return None
    form = _SPKI_FORMS.get(len(data))
    right = form is not None and data.startswith(form) and base64.b64encode(data).decode() == public
    return data if right else None
