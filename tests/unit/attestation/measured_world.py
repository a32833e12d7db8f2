"""Logs of a machine that ran this and that, and Reference Values that know some of it, for the property tests."""

import hashlib
from dataclasses import dataclass
from functools import cache

from hypothesis import strategies as st

from shamon_host.attestation.ima_entry import ImaEntry, template_fields
from shamon_host.attestation.ima_log import ima_buf_entry, ima_sig_entry, violation_entry
from shamon_host.attestation.pcr import Bank
from shamon_host.attestation.reference_model import ReferencePart, ReferenceValues, SelinuxReference
from shamon_host.testing.machine import IMA_POLICY, MeasuredMachine
from tests.unit.attestation.appraised_world import recorded

STATE = "initialized=1;enforcing=1;checkreqprot=0;network_peer_controls={};"
LIBC = "/usr/lib/x86_64-linux-gnu/libc.so.6"
CODE = "/opt/shamon/lib/late.py"
PATHS = ("/usr/bin/a", "/usr/bin/b", "/var/lib/app/data", "/var/log/[x]", "/srv/é", LIBC, IMA_POLICY, CODE, "memfd:x")
CONTENTS = (b"0", b"1", b"2")


@dataclass(frozen=True)
class Boot:
    """The entries of a good boot, and the PCRs before anything else."""

    entries: tuple[ImaEntry, ...]
    pcrs: dict[int, bytes]


@cache
def good_boot() -> Boot:
    machine = MeasuredMachine()
    machine.boot()
    return Boot(tuple(machine.logs.entries), dict(machine.tpm.pcrs))


@cache
def good_reference() -> ReferenceValues:
    return recorded()


def hexdigest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def pcr10(entries: tuple[ImaEntry, ...]) -> bytes:
    """What a TPM has after these entries."""
    value = bytes(32)
    for entry in entries:
        value = Bank.SHA256.digest(value + entry.pcr_digest(Bank.SHA256))
    return value


def of_template(template: str, entry: ImaEntry, kind: str = "ima") -> ImaEntry:
    """The `ima-sig` entry as a kernel makes it under another template; `kind` is that of a `d-ngv2` digest."""
    raw = dict(entry.fields().raw)
    raw["d-ngv2"] = (b"verity:" if kind == "verity" else b"ima:") + raw["d-ng"]
    fields = [raw[field] for field in template_fields(template)]
    measured = b"".join(len(field).to_bytes(4, "little") + field for field in fields)
    return ImaEntry(entry.pcr, template, Bank.SHA1.digest(measured), measured)


def file_entries() -> st.SearchStrategy[ImaEntry]:
    return st.builds(
        lambda path, content, algorithm, signature: ima_sig_entry(
            path, hashlib.new(algorithm, content).digest(), algorithm=algorithm, signature=signature
        ),
        st.sampled_from(PATHS),
        st.sampled_from(CONTENTS),
        st.sampled_from(("sha256", "sha256", "sha512", "sha1")),
        st.sampled_from((b"", b"", b"\x03\x02\x04sig")),
    )


def entries() -> st.SearchStrategy[ImaEntry]:
    """One more entry behind a boot: a file, critical data, SELinux's, a violation, one of another form."""
    return st.one_of(
        file_entries(),
        st.builds(violation_entry, st.sampled_from(PATHS)),
        st.builds(ima_buf_entry, st.sampled_from(("kernel_version", "dm")), st.sampled_from(CONTENTS)),
        st.builds(lambda n: ima_buf_entry("selinux-state", STATE.format(n).encode()), st.integers(0, 2)),
        st.builds(
            lambda c: ima_buf_entry("selinux-policy-hash", hashlib.sha256(c).digest()), st.sampled_from(CONTENTS)
        ),
        st.builds(
            of_template,
            st.sampled_from(("ima-ng", "ima-ngv2", "ima-sigv2", "n-ng|d-ng")),
            file_entries(),
            st.sampled_from(("ima", "verity")),
        ),
        st.builds(lambda e: ImaEntry(e.pcr, "ima-ng", Bank.SHA1.digest(e.measured), e.measured), file_entries()),
    )


def file_digests() -> list[str]:
    """Of all contents, as Reference Values write them."""
    plain = [hexdigest(content) for content in CONTENTS]
    long = [f"sha512:{hashlib.sha512(content).hexdigest()}" for content in CONTENTS]
    return [*plain, *long, *(f"verity:sha256:{digest}" for digest in plain), *(f"verity:{digest}" for digest in long)]


def digest_tables(
    names: tuple[str, ...], known: list[str], *, least: int = 0
) -> st.SearchStrategy[dict[str, frozenset[str]]]:
    digests = st.frozensets(st.sampled_from(known), min_size=1)
    return st.dictionaries(st.sampled_from(names), digests, min_size=least, max_size=4)


def parts() -> st.SearchStrategy[ReferencePart]:
    """Parts that know some of what `entries` makes."""
    hexes = [hexdigest(content) for content in CONTENTS]
    patterns = st.sampled_from(("/var/lib/app/*", "/var/log/[[]x[]]", "/srv/app/*", "/var/lib/*/data"))
    return st.builds(
        ReferencePart,
        files=digest_tables(PATHS, file_digests()),
        packages=st.dictionaries(
            st.sampled_from(("app 1", "app 2", "libc6 1")),
            digest_tables(PATHS[:5], file_digests(), least=1),
            max_size=2,
        ),
        digests=st.frozensets(st.sampled_from(file_digests()), max_size=2),
        patterns=st.lists(patterns, max_size=2, unique=True).map(tuple),
        violations=st.lists(patterns, max_size=2, unique=True).map(tuple),
        buffers=digest_tables(("kernel_version", "dm"), hexes),
        selinux=st.builds(
            SelinuxReference,
            states=st.sampled_from(((), (STATE.format(2),))),
            policy_digests=st.frozensets(st.sampled_from(hexes), max_size=2),
        ),
        early_data=st.sampled_from(((), ("/var/lib/*",))),
    )


def references() -> st.SearchStrategy[ReferenceValues]:
    return parts().map(lambda part: good_reference().merged(part))


def logs() -> st.SearchStrategy[tuple[ImaEntry, ...]]:
    """A boot, good or with an entry early on, and what came after it."""
    boot = good_boot().entries
    more = st.lists(entries(), max_size=8)
    early = st.builds(lambda at, entry: (*boot[:at], entry, *boot[at:]), st.integers(1, len(boot)), entries())
    return st.builds(lambda first, then: (*first, *then), st.one_of(st.just(boot), early), more)


def with_pcr10(entries_: tuple[ImaEntry, ...]) -> dict[int, bytes]:
    return good_boot().pcrs | {10: pcr10(entries_)}
