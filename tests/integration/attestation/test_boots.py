"""Reference Values that one boot of one host gave hold for the next boot, and for the other host.

Boots hosts of its own: about three minutes without hardware virtualisation, hence not in every run.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from shamon_host.attestation.reference_model import ReferenceValues
from shamon_host.attestation.reference_values import parse_reference_values
from tests.integration.lab import Lab, LabHost

SHAMON = "/opt/shamon/bin/shamon"

pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def own_hosts(images: Path) -> Iterator[list[LabHost]]:
    with Lab(images) as lab:
        yield lab.boot("alpha", "beta")


def recorded(host: LabHost, *options: str) -> ReferenceValues:
    """What `shamon reference record` makes of the host's boot."""
    out = "/run/reference.json"
    host.run(f"{SHAMON} reference record --host {host.name} --out {out} {' '.join(options)}", timeout_s=300)
    return parse_reference_values(host.get(out))


def ak(host: LabHost) -> bytes:
    host.run(f"{SHAMON} coalition ak --out /run/ak", timeout_s=120)
    return host.get("/run/ak")


def test_one_recording_holds_for_all_good_boots(own_hosts: list[LabHost], images: Path) -> None:
    alpha, beta = own_hosts
    alpha.put("/run/manifest.json", images / "manifest.json")
    alpha.put("/run/host.efi", images / "host.efi")
    reference = recorded(alpha, "--manifest /run/manifest.json", "--uki /run/host.efi")
    key = ak(alpha)
    assert ak(beta) != key
    alpha.reboot()
    assert ak(alpha) == key
    beta.reboot(clean=False)
    for host in (alpha, beta):
        # The entry module is only known to have been read where the daemon's domain has run.
        host.run(f"systemd-run -q --wait {SHAMON} --version", timeout_s=120)
        found = recorded(host)
        assert found.pcrs == reference.pcrs
        assert found.selinux == reference.selinux
        assert found.buffers == reference.buffers
        strange = {path: known for path, known in found.files.items() if not known <= reference.files.get(path, set())}
        assert strange == {}
