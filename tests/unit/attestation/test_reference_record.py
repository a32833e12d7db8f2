"""Recording: a known-good boot becomes Reference Values, and a boot that is not good is not recorded."""

import hashlib
from dataclasses import replace
from typing import Any

import pytest

from shamon_host.attestation.event_log import encode_event_log
from shamon_host.attestation.ima_log import ImaEntry, ima_sig_entry
from shamon_host.attestation.pcr import Bank
from shamon_host.attestation.reference_record import Demanded, not_in_manifest, record
from shamon_host.attestation.reference_values import ReferenceValues
from shamon_host.attestation.xen_image import pcr_values as xen_pcr_values
from shamon_host.domain.errors import NotTrusted
from shamon_host.testing.machine import IMA_POLICY, BootImage, MeasuredMachine
from tests.unit.attestation.appraised_world import Attested, without_files
from tests.unit.attestation.xen_images import xen_image

GOOD = BootImage()
CODE = "/opt/shamon/lib/python3.11/site-packages/shamon_host/__init__.py"


@pytest.fixture
def machine() -> MeasuredMachine:
    machine = MeasuredMachine()
    machine.boot()
    return machine


def taken(machine: MeasuredMachine, **more: Any) -> ReferenceValues:
    return record(
        **{
            "pcrs": machine.tpm.pcrs,
            "event_log": machine.logs.event_log(),
            "ima_log": machine.logs.ima_log(0),
            **more,
        }
    )


def hexdigest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_boot_recorded_is_a_boot_trusted(machine: MeasuredMachine) -> None:
    reference = taken(machine, uki=GOOD.file())
    assert Attested(reference=reference).attest().trusted
    assert [event.description for event in reference.pcrs[9][0].events] == [
        "PCR 9 EV_EVENT_TAG: LOADED_IMAGE::LoadOptions",
        "PCR 9 EV_EVENT_TAG: Linux initrd",
    ]
    assert reference.code.entries == (CODE,)
    assert list(reference.buffers) == ["kernel_version"]


def test_entries_behind_the_quote_are_not_recorded(machine: MeasuredMachine) -> None:
    pcrs = dict(machine.tpm.pcrs)
    machine.run_program("/usr/bin/late", b"late")
    assert "/usr/bin/late" not in taken(machine, pcrs=pcrs).files


def test_the_manifest_says_what_else_may_run(machine: MeasuredMachine) -> None:
    manifest = {"/usr/bin/ls": ["ab" * 32], "/usr/sbin/libvirtd": [hexdigest(b"\x7fELF libvirtd")]}
    reference = taken(machine, manifest=manifest)
    assert reference.files["/usr/bin/ls"] == {"ab" * 32}
    alone = not_in_manifest(reference, manifest)
    assert "/usr/sbin/libvirtd" not in alone
    assert alone[IMA_POLICY] == reference.files[IMA_POLICY]


def test_the_image_is_the_one_that_was_booted(machine: MeasuredMachine) -> None:
    with pytest.raises(NotTrusted) as caught:
        taken(machine, uki=replace(GOOD, initrd=b"another").file())
    assert caught.value.where == "PCR 4"


def test_what_the_image_determines_needs_no_log(machine: MeasuredMachine) -> None:
    """A PCR that the log does not explain is refused, unless the image does."""
    events = [event for event in machine.logs.events if event.pcr not in {4, 9, 11}]
    log = encode_event_log(events)
    assert taken(machine, event_log=log, uki=GOOD.file()).pcrs[11][0].events == ()
    with pytest.raises(NotTrusted) as caught:
        taken(machine, event_log=log)
    assert caught.value.where == "PCR 4"


def test_the_ima_log_must_lead_to_the_quote(machine: MeasuredMachine) -> None:
    with pytest.raises(NotTrusted):
        taken(machine, pcrs={**machine.tpm.pcrs, 10: bytes(32)[:-1] + b"\1"})


@pytest.mark.parametrize("path", [IMA_POLICY, *Demanded().early.values()])
def test_what_every_boot_must_measure(path: str) -> None:
    machine = MeasuredMachine()
    machine.boot(without_files(GOOD, path))
    with pytest.raises(NotTrusted) as caught:
        taken(machine)
    assert caught.value.expected == path


def test_shamons_code_comes_from_the_boot_or_the_manifest() -> None:
    machine = MeasuredMachine()
    machine.boot(without_files(GOOD, CODE))
    with pytest.raises(NotTrusted) as caught:
        taken(machine)
    assert "shamon_host/__init__.py" in caught.value.expected
    compiled = CODE.replace("__init__.py", "__pycache__/__init__.cpython-311.pyc")
    reference = taken(machine, manifest={CODE: ["ab" * 32], compiled: ["cd" * 32]})
    assert reference.code.entries == (CODE, compiled)


def test_a_permissive_boot_is_not_recorded(machine: MeasuredMachine) -> None:
    machine.setenforce(False)
    with pytest.raises(NotTrusted) as caught:
        taken(machine)
    assert "enforcing" in caught.value.what


def test_a_boot_with_an_unreliable_measurement_is_not_recorded(machine: MeasuredMachine) -> None:
    machine.race("/var/log/messages")
    with pytest.raises(NotTrusted) as caught:
        taken(machine)
    assert "/var/log/messages" in caught.value.found


def test_early_data_is_not_recorded(machine: MeasuredMachine) -> None:
    machine.boot(replace(GOOD, early_files=(*GOOD.early_files, ("/var/lib/seed/random", b"1"))))
    machine.run_program("/var/lib/seed/late", b"2")
    reference = taken(machine, demanded=Demanded(early_data=("/var/lib/seed/*",)))
    assert "/var/lib/seed/random" not in reference.files
    assert "/var/lib/seed/late" in reference.files
    assert reference.early_data == ("/var/lib/seed/*",)


def test_a_boot_that_loaded_its_ima_policy_late_is_not_recorded(machine: MeasuredMachine) -> None:
    machine.boot(replace(GOOD, files=(GOOD.files[1], GOOD.files[0], *GOOD.files[2:])))
    with pytest.raises(NotTrusted, match="went on without the IMA policy"):
        taken(machine)


def test_a_host_that_measures_with_another_hash(machine: MeasuredMachine) -> None:
    """`ima_hash=sha512`: what is recorded is what is judged by."""
    content = b"\x7fELF long"
    entry = ima_sig_entry("/usr/bin/long", hashlib.sha512(content).digest(), algorithm="sha512")
    buffer = ima_sig_entry("dm", hashlib.sha512(b"table").digest(), algorithm="sha512")
    measured = buffer.measured[:-4] + len(b"table").to_bytes(4, "little") + b"table"
    for made in (entry, ImaEntry(10, "ima-buf", hashlib.sha1(measured).digest(), measured)):
        machine.tpm.extend(10, made.pcr_digest(Bank.SHA256))
        machine.logs.entries.append(made)
    reference = taken(machine)
    assert reference.files["/usr/bin/long"] == {f"sha512:{hashlib.sha512(content).hexdigest()}"}
    assert reference.buffers["dm"] == {hashlib.sha256(b"table").hexdigest()}


def test_a_host_with_xen_is_recorded_by_its_image(machine: MeasuredMachine) -> None:
    """It has no event log; what the image determines is computed, the rest is taken as it is."""
    image = xen_image()
    pcrs = {**machine.tpm.pcrs, **xen_pcr_values(image)}
    reference = taken(machine, pcrs=pcrs, event_log=b"", uki=image)
    assert {pcr: [known.value for known in values] for pcr, values in reference.pcrs.items()} == {
        pcr: [pcrs[pcr]] for pcr in reference.pcrs
    }


def test_another_image_of_xen_is_not_recorded(machine: MeasuredMachine) -> None:
    pcrs = {**machine.tpm.pcrs, **xen_pcr_values(xen_image())}
    with pytest.raises(NotTrusted, match="not booted from this image") as caught:
        taken(machine, pcrs=pcrs, event_log=b"", uki=xen_image(policy=b"another"))
    assert caught.value.where == "PCR 4"


@pytest.mark.parametrize("image", [None, GOOD.file()])
def test_any_other_host_needs_its_event_log(machine: MeasuredMachine, image: bytes | None) -> None:
    with pytest.raises(NotTrusted, match="there is no event log"):
        taken(machine, event_log=b"", uki=image)
