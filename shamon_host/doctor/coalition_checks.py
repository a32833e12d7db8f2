"""The files of a coalition. Pure. Before a host has joined there are none, which is no mistake yet."""

import hashlib
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from shamon_host.doctor.facts import HostFacts
from shamon_host.doctor.findings import Finding, Say, listed
from shamon_host.doctor.look import Judged, Look, T, require_seen
from shamon_host.peer.coalition_ca import certificate_names

_JOIN = "Let the host join: `shamon host join INVITATION` (docs/enrolment.md)."
_SOON_DAYS = 30
_PRIVATE = 0o600


def _present(say: Say, facts: HostFacts, look: Look[T], what: str, remedy: str) -> T:
    """What was looked at. Raises Judged about something that is unread, malformed or not there."""
    if look.value is not None:
        return look.value
    require_seen(say, look, what=what)
    if look.bad:
        raise Judged(say.wrong(look.bad, expected=f"{what} that can be understood", remedy=remedy))
    if facts.coalition.begun:
        raise Judged(say.wrong(f"{what} is not there", expected="there", remedy=remedy))
    words = f"{what} is not there: this host has not joined yet"
    raise Judged(say.warning(words, expected="there", remedy=remedy))


def configuration(say: Say, facts: HostFacts) -> Finding:
    remedy = "Write it: docs/operating.md, section 4."
    config = _present(say, facts, facts.coalition.config, "host.toml", remedy)
    return say.ok(f"this host is {config.name}")


def policy(say: Say, facts: HostFacts) -> Finding:
    """That it can be read, names this host, and has not expired. Signatures depend on what is in force."""
    config = facts.coalition.config.value
    remedy = "Put the coalition's policy there; `shamon policy check FILE`."
    found = _present(say, facts, facts.coalition.policy, "the policy", remedy)
    version = f"{found.coalition}, version {found.version}"
    if found.expires_s is not None and found.expires_s <= facts.clock.now.timestamp():
        return say.wrong(
            f"{version}: expired",
            expected="a version that holds still",
            remedy="Bring the next version about: docs/operating.md, when the policy expires.",
        )
    if config is None:
        return say.unknown(f"{version}; which host this is, host.toml does not say", remedy="Write host.toml.")
    own = facts.coalition.own
    if own is None:
        return say.wrong(
            f"{version} does not know the host {config.name}",
            expected=f"[hosts.{config.name}]",
            remedy="Have a version signed that has this host, or correct `name` in host.toml.",
        )
    if own.hypervisor is not config.hypervisor or (own.mac_vm is None) != (config.mac_vm is None):
        return say.wrong(
            f"{version} says another hypervisor, or MAC VM, of {config.name} than host.toml",
            expected="the same in both",
            remedy="docs/operating.md, a host with Xen; docs/mac-vm.md.",
        )
    return say.ok(version)


def ca(say: Say, facts: HostFacts) -> Finding:
    found = _present(say, facts, facts.coalition.ca, "ca.pem", _JOIN)
    wrong = [words for each in found if (words := _out_of_date(each, facts.clock.now))]
    if wrong:
        return say.wrong(
            listed(wrong),
            expected="CAs that are valid now",
            remedy="Is the clock right? Then let the operator rotate the CA (`shamon coalition rotate-ca`).",
        )
    return _valid(say, min(found, key=lambda each: each.not_valid_after_utc), facts, "rotate the CA in time")


def certificate(say: Say, facts: HostFacts) -> Finding:
    """Its dates, its name, who issued it, and that it is the one that is enrolled."""
    config = facts.coalition.config.value
    chain = _present(say, facts, facts.coalition.certificate, "host.pem", _JOIN)
    own, renew = chain[0], "Renew it: `shamon host join` with a new invitation."
    if words := _out_of_date(own, facts.clock.now):
        return say.wrong(words, expected="valid now", remedy=f"Is the clock right? {renew}")
    names = certificate_names(own)
    if config is not None and names != (config.name,):
        return say.wrong(f"it names {listed(names) or 'nobody'}", expected=config.name, remedy=renew)
    cas = facts.coalition.ca.value
    if not cas:
        return say.unknown("without ca.pem nobody knows who issued it", remedy=_JOIN)
    # Behind the host's own may stand the word of an older CA for the one that issued it.
    if not any(_issued_by(own, each) for each in (*cas, *chain[1:])):
        return say.wrong("none of the CAs in ca.pem issued it", expected="issued by the coalition's CA", remedy=renew)
    registry = facts.coalition.registry.value
    digest = hashlib.sha256(own.public_bytes(Encoding.DER)).digest()
    if registry is not None and registry.own_certificate not in (None, digest):
        return say.wrong(
            "another certificate is enrolled for this host",
            expected="the one in this host's record",
            remedy="Put certificate and record of one enrolment there, or join anew.",
        )
    return _valid(say, own, facts, renew)


def host_key(say: Say, facts: HostFacts) -> Finding:
    """Private, and the certificate's."""
    chain = facts.coalition.certificate.value
    key = _present(say, facts, facts.coalition.key, "host.key", _JOIN)
    if key.mode & ~_PRIVATE or key.owner != 0:
        return say.wrong(
            f"mode {key.mode:04o}, owner {key.owner}",
            expected="mode 0600, owner 0 (root)",
            remedy="chown root host.key; chmod 0600 host.key. If others could read it, join anew with `--new-key`.",
        )
    require_seen(say, key.public, what="host.key")
    if key.sealed:
        return say.ok("private, and sealed by the TPM: the daemon opens it when it starts")
    if key.public.value is None:
        return say.wrong(key.public.bad or "it is empty", expected="a key in PEM", remedy=_JOIN)
    if not chain:
        return say.unknown("private; without host.pem nobody knows whose it is", remedy=_JOIN)
    if chain[0].public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) != key.public.value:
        return say.wrong(
            "it is not the key of host.pem",
            expected="key and certificate of one enrolment",
            remedy="Put both from one enrolment there, or join anew.",
        )
    return say.ok("private, and the certificate's; not sealed by the TPM")


def registry(say: Say, facts: HostFacts) -> Finding:
    config = facts.coalition.config.value
    found = _present(say, facts, facts.coalition.registry, "the registry of hosts", _JOIN)
    hosts = found.hosts
    if config is not None and config.name not in hosts:
        return say.wrong(
            f"{len(hosts)} hosts, without a record of {config.name}",
            expected="this host's own record too",
            remedy=_JOIN,
        )
    policy_hosts = facts.coalition.policy.value.hosts if facts.coalition.policy.value is not None else {}
    lacking = sorted(set(policy_hosts) - hosts)
    if lacking:
        return say.warning(
            f"no record of {listed(lacking)}",
            expected="a record of every host of the policy",
            remedy="A host without one is not admitted: the others tell of it once it has joined.",
        )
    return say.ok(f"{len(hosts)} hosts, each vouched for by the CA")


def reference_values(say: Say, facts: HostFacts) -> Finding | None:
    found = facts.coalition.references
    if not found:
        return None
    require_seen(say, *found.values(), what="Reference Values")
    bad = [f"{host}: {look.bad}" for host, look in sorted(found.items()) if look.bad]
    if bad:
        return say.wrong(
            listed(bad, 2),
            expected="Reference Values that can be understood, signed where host.toml demands it",
            remedy="Record them anew, and sign them: docs/reference-values.md.",
        )
    lacking = [host for host, look in sorted(found.items()) if look.absent]
    if lacking:
        return say.warning(
            f"none of {listed(lacking)}",
            expected="a NAME.json for every host of the policy",
            remedy="Until they are there this host refuses those: `shamon reference record` on each.",
        )
    return say.ok(f"of all {len(found)} hosts")


def images(say: Say, facts: HostFacts) -> Finding | None:
    found = facts.coalition.images
    if not found:
        return None
    require_seen(say, *found.values(), what="clean images")
    wrong = [f"{name}: {look.bad or 'not there'}" for name, look in sorted(found.items()) if not look.value]
    if wrong:
        return say.wrong(
            listed(wrong),
            expected="the clean image of each [images.NAME]",
            remedy="Put it there, and `restorecon` it; `shamon image check NAME` compares it with its pin.",
        )
    return say.ok(f"{len(found)}, which `shamon image check` compares with their pins")


def _valid(say: Say, own: x509.Certificate, facts: HostFacts, remedy: str) -> Finding:
    left = (own.not_valid_after_utc - facts.clock.now).days
    if left < _SOON_DAYS:
        return say.warning(f"it expires in {left} days", expected=f"{_SOON_DAYS} days or more", remedy=remedy)
    return say.ok(f"valid for {left} days")


def _out_of_date(each: x509.Certificate, now: datetime) -> str:
    if now < each.not_valid_before_utc:
        return f"not valid before {each.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
    if now > each.not_valid_after_utc:
        return f"expired at {each.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
    return ""


def _issued_by(own: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        own.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True
