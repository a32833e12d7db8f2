"""MAC VMs that are attested: recorded, attested, refused by Reference Values that they do not meet, and back.

A test's module has a class that inherits the proofs, and a fixture `pair` of hosts that can give TPMs to their VMs,
whose daemons run, with MAC VMs, and whose red VMs talk.
"""

import json
import re
from dataclasses import dataclass, field
from typing import Any

import pytest

from shamon_host.attestation.guest_reference import GuestReference, read_guest_reference
from shamon_host.domain.policy_file import parse_policy
from tests.integration.lab.coalition import SHAMON
from tests.integration.lab.errors import LabError
from tests.integration.lab.host import LabHost
from tests.integration.lab.link_pair import RED, LinkPair
from tests.integration.lab.waiting import wait_until

_REFERENCES = "/etc/shamon/reference/guests"
_LEASE_S = 240
"""A VM in an emulated host takes long for its first answer."""


@dataclass
class Published:
    """The policy of alpha and beta, changed by hand from version to version, in which their MAC VMs are attested."""

    pair: LinkPair
    text: str = field(init=False)
    references: dict[str, GuestReference] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=lambda: {"alpha": "0" * 64, "beta": "0" * 64})

    def __post_init__(self) -> None:
        plain = self.pair.alpha.get("/etc/shamon/policy.toml").decode()
        for host in self.digests:
            demand = f'[guests.{host}]\nsha256 = "{host} is named here"\nperiod_s = 5\nlease_s = {_LEASE_S}\n\n'
            named = f'[vms.{host}-mac]\nlabel = "unlabelled"\nimage = "mac-vm"\nhost = "{host}"\n'
            assert named in plain
            plain = plain.replace(named, f'{demand}{named}attest = "{host}"\nquarantine = "ports-down"\n')
        self.before = parse_policy(self.pair.alpha.get("/etc/shamon/policy.toml"), source="policy.toml")
        self.text = plain

    def publish(self) -> None:
        """The next version, with the digests as they are, on both hosts."""
        text = re.sub(
            r"version = \d+\n(parent = .*\n)?",
            f'version = {self.before.version + 1}\nparent = "{self.before.digest}"\n',
            self.text,
            count=1,
        )
        for host, digest in self.digests.items():
            text = text.replace(f"{host} is named here", digest)
        for each in self.pair.hosts:
            each.put("/etc/shamon/policy.toml", text)
            each.run("restorecon -RF /etc/shamon; systemctl restart shamon.service", timeout_s=300)
        for each in self.pair.hosts:
            self.pair.until_answers(each)
        self.before = parse_policy(text.encode(), source="policy.toml")

    def record(self, host: LabHost) -> None:
        """Of the MAC VM that runs, as the known-good one."""
        host.run(f"mkdir -p {_REFERENCES}")
        host.put("/run/mac-manifest.json", self.pair.lab.images / "mac/mac-manifest.json")
        command = (
            f"{SHAMON} reference record-vm {host.name}-mac --out {_REFERENCES}/{host.name}.json "
            "--manifest /run/mac-manifest.json --json"
        )
        said = ""

        def recorded() -> bool:
            nonlocal said
            told = host.run(command, check=False, timeout_s=120)
            said = told.stdout + told.stderr
            return told.status == 0

        try:
            wait_until(recorded, timeout_s=300, what=f"{host.name}'s MAC VM is recorded", every_s=5)
        except LabError as error:
            raise LabError(f"{error}: {said[-2000:]}") from error
        told = json.loads(said)
        print(f"{host.name}, in no manifest:", told["boot_alone"])
        self.digests[host.name] = told["digest"]
        data = host.get(f"{_REFERENCES}/{host.name}.json")
        self.references[host.name] = read_guest_reference(data, where=host.name)

    def use(self, host: LabHost, reference: GuestReference) -> None:
        host.put(f"{_REFERENCES}/{host.name}.json", json.dumps(reference.to_document()))
        self.digests[host.name] = reference.digest

    def attestation(self, host: LabHost) -> Any:
        return (self.pair.ask(host, "mac-vm", check=False) or {}).get("attestation")

    def claims(self, host: LabHost) -> str:
        """What this host holds of the other one."""
        other = self.pair.peer(host).name
        (row,) = (row for row in self.pair.ask(host, "peers") if row["host"] == other)
        return f"{row['state']}: {' '.join(row['claims'])} {row['reason']} {row['last_error']}"

    def until_said(self, host: LabHost, *words: str) -> None:
        """Of the other one, by this host."""

        def said() -> bool:
            found = self.claims(host)
            return all(word in found for word in words)

        try:
            wait_until(said, timeout_s=300, what=f"{host.name} says {words}", every_s=3)
        except LabError as error:
            raise LabError(f"{error}: {self.claims(host)}; {self.attestation(self.pair.peer(host))}") from error


class MacVmAttestationProofs:
    """One after the other: each goes on from the policy that the one before left."""

    @pytest.fixture(scope="class")
    @classmethod
    def published(cls, pair: LinkPair) -> Published:
        return Published(pair)

    def test_mac_vms_are_attested_and_their_peers_say_so(self, published: Published) -> None:
        pair = published.pair
        published.publish()
        for host in pair.hosts:
            published.record(host)
            published.until_said(pair.peer(host), "is not attested yet")
            assert not published.claims(host).startswith("admitted")
        published.publish()
        for host in pair.hosts:
            published.until_said(host, "macvm.runtime pass")
        pair.until_carried([RED])
        for host in pair.hosts:
            told = pair.ask(host, "mac-vm")
            print(host.name, "denials:", told["denials"], "lease:", told["attestation"]["lease_s"])
            assert [line for line in told["denials"] if "polmatch" not in line] == []

    def test_one_that_ran_what_the_policys_reference_values_do_not_have_is_refused_with_the_reason(
        self, published: Published
    ) -> None:
        """One file that it measured has another digest in them."""
        pair, good = published.pair, published.references["alpha"]
        document = good.to_document()
        document["values"]["files"]["/usr/sbin/init"] = ["0" * 64]
        published.use(pair.alpha, read_guest_reference(json.dumps(document).encode(), where="alpha"))
        published.publish()
        published.until_said(pair.beta, "attestation failed", "/usr/sbin/init")
        print("beta of alpha:", published.claims(pair.beta)[:400])
        assert not published.claims(pair.beta).startswith("admitted")
        assert not pair.talk(RED)

    def test_with_the_right_ones_and_a_clean_one_it_is_back(self, published: Published) -> None:
        pair = published.pair
        published.use(pair.alpha, published.references["alpha"])
        published.publish()
        pair.ask(pair.alpha, "vm", "replace", "alpha-mac", timeout_s=400)
        pair.until_carried([RED], timeout_s=400)
        assert "macvm.runtime pass" in published.claims(pair.beta)
