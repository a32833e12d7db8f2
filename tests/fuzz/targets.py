"""Every parser of a stranger's bytes, with the errors that it may raise and inputs to start from.

A target takes any bytes. It returns, or raises one of its own errors; anything else is a finding. The unit suite tries
each with inputs that hypothesis changes, `make fuzz` with coverage-guided ones for as long as somebody likes.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from shamon_host.attestation import evidence as evidence_form
from shamon_host.attestation import guest_messages
from shamon_host.attestation.authenticode import PeError, PeImage, authenticode_digest
from shamon_host.attestation.byte_reader import ByteReader
from shamon_host.attestation.claims.boot_chain import boot_chain_claim
from shamon_host.attestation.device_path import DevicePathError, device_path_text
from shamon_host.attestation.ek import EkPublic
from shamon_host.attestation.ek_certificate import read_ek_certificate
from shamon_host.attestation.event_describe import describe
from shamon_host.attestation.event_log import EventLogError, parse_event_log
from shamon_host.attestation.evidence import Role
from shamon_host.attestation.evidence_file import EvidenceFile, decode_file, encode_file
from shamon_host.attestation.guest_reference import read_guest_reference
from shamon_host.attestation.ima_ascii import detect_ascii_log_bank, iter_ascii_ima_log
from shamon_host.attestation.ima_log import (
    ImaLogError,
    detect_log_bank,
    encode_ima_log,
    ima_buf_entry,
    ima_sig_entry,
    parse_ima_log,
    violation_entry,
)
from shamon_host.attestation.ima_signature import (
    ImaSignatureError,
    SigningKeyError,
    SigningKeys,
    load_signing_key,
    read_signature_header,
)
from shamon_host.attestation.ima_survey import survey_ima_log
from shamon_host.attestation.ledger import pack, unpack
from shamon_host.attestation.pcr import Bank
from shamon_host.attestation.ports import QUOTED_PCRS
from shamon_host.attestation.quote import QuoteError
from shamon_host.attestation.quote_files import read_attest, read_public, read_signatures
from shamon_host.attestation.reference_values import parse_any
from shamon_host.attestation.result_document import ResultRecord, evidence_digest
from shamon_host.attestation.signature_list import SignatureListError, signature_lists_text, signature_text
from shamon_host.attestation.tpm_public import TpmPublic
from shamon_host.attestation.tpm_structures import (
    QuoteAttest,
    TpmFormatError,
    TpmSignature,
    read_pcr_selection,
    sized_buffer,
)
from shamon_host.attestation.uki import UkiError, expected_pcr4_events, expected_pcr9_events, expected_pcr11_events
from shamon_host.attestation.verifier_state import VerifierState
from shamon_host.domain.contexts import allocate_for
from shamon_host.domain.errors import BackendFailed, BadInput, NotTrusted, Refused, ShamonError
from shamon_host.domain.flask_expected import expected_flask
from shamon_host.domain.labels import HostName, TypeName, VmName
from shamon_host.domain.policy import PinnedBoot
from shamon_host.domain.policy_file import PolicyErrors, parse_canonical, parse_policy
from shamon_host.domain.results import TpmKind
from shamon_host.guest_agent.answering import Answering
from shamon_host.hypervisor.mac_vm_report import ReportedMacVm, ReportedRuntime, RuntimeState
from shamon_host.hypervisor.ports import FlaskState
from shamon_host.hypervisor.report import check_hypervisor_report, hypervisor_report, parse_hypervisor_report
from shamon_host.link_agent.frames import CALLS, HEADER, answer_in, failure_words, frame
from shamon_host.link_agent.values import to_json
from shamon_host.links import planner
from shamon_host.links.denials import denials_of
from shamon_host.links.desired import BLOCK_ENTRIES, DesiredState
from shamon_host.links.model import Bridge, KernelState
from shamon_host.links.network_state import check_network_state, encode_network_state
from shamon_host.links.path_report import LinkEnds, Part, PathReport, Stage, Verdict, parse_report
from shamon_host.links.ports import AcquireEvent, Traffic
from shamon_host.peer import join_messages, messages, move_messages, policy_messages, registry_messages, vm_token
from shamon_host.peer.host_record import read_host_record
from shamon_host.peer.policy_envelope import read_envelope
from shamon_host.peer.wire import decode_refusal
from shamon_host.pyxfrm import XfrmError
from shamon_host.testing.contracts import flask as flask_contract
from shamon_host.testing.contracts.kernel import link as link_of
from shamon_host.testing.machine import BootImage, MeasuredMachine
from shamon_host.testing.memory_ca import memory_authorities, memory_certificate, memory_peer, memory_record
from tests.fuzz.netlink import datagrams, read_datagram
from tests.unit.attestation.appraised_world import Attested, recorded
from tests.unit.attestation.guest_world import recorded as guest_recorded
from tests.unit.attestation.guest_world import without_selinux
from tests.unit.links.test_memory_kernel import MemoryBench

Seeds = Callable[[], tuple[bytes, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One parser."""

    name: str
    parse: Callable[[bytes], object]
    errors: tuple[type[ShamonError | XfrmError], ...]
    """What it may raise."""
    seeds: Seeds
    """Inputs that it reads without an error, or nearly."""


def run(target: Target, data: bytes) -> bool:
    """Whether the parser took the input. Raises whatever it raised that is not among its errors."""
    try:
        target.parse(data)
    except target.errors:
        return False
    return True


_GUEST_REQUEST = guest_messages.EvidenceRequest(vm=VmName("web"), nonce=bytes(32))


def _guest_answer() -> tuple[bytes, ...]:
    answering = Answering(tpm=_machine().tpm, logs=_machine().logs)
    return (answering.answer(_GUEST_REQUEST.encode()), guest_messages.encode_refusal("no"))


@cache
def _machine() -> MeasuredMachine:
    machine = MeasuredMachine()
    machine.boot()
    machine.race("/var/log/journal")
    return machine


@cache
def _world() -> Attested:
    return Attested(machine=MeasuredMachine(), reference=recorded())


def _event_log() -> tuple[bytes, ...]:
    old = (7).to_bytes(4, "little") + (4).to_bytes(4, "little") + Bank.SHA1.digest(bytes(4)) + b"\4\0\0\0" + bytes(4)
    return (_machine().logs.event_log(), old)


def _ima_log() -> tuple[bytes, ...]:
    entries = [
        ima_sig_entry("/usr/bin/a", hashlib.sha256(b"a").digest(), signature=b"\x03\x02\x04" + bytes(6)),
        ima_buf_entry("selinux-state", b"initialized=1;enforcing=1;"),
        violation_entry("/var/log/x"),
    ]
    return (_machine().logs.ima_log(0), encode_ima_log(entries))


def _read_ima_log(data: bytes) -> None:
    for entry in parse_ima_log(data, log_bank=detect_log_bank(data)):
        entry.describe()


def _hypervisor_reports() -> tuple[bytes, ...]:
    """Of a host with Xen, and of one whose MAC VM failed."""
    access = expected_flask(flask_contract.POLICY, flask_contract.ALPHA).access
    state = FlaskState(enforcing=True, booleans={"one": False}, access=access)
    label_map = allocate_for(flask_contract.POLICY, flask_contract.ALPHA)
    runtime = ReportedRuntime(reference_sha256="0" * 64, state=RuntimeState.FAILED, reason="a strange program")
    boot = PinnedBoot(kernel_sha256="1" * 64, initrd_sha256="2" * 64, cmdline="quiet")
    mac_vm = ReportedMacVm(name=VmName("alpha-mac"), image_sha256="3" * 64, boot=boot, runtime=runtime)
    return (
        hypervisor_report([], label_map, state),
        hypervisor_report([], label_map, mac_vm=mac_vm),
        b'{"domains":[]}',
    )


def _hypervisor_claim(data: bytes) -> None:
    check_hypervisor_report(data, host=flask_contract.ALPHA, policy=flask_contract.POLICY)


def _ascii_log() -> tuple[bytes, ...]:
    lines = []
    for number in range(3):
        entry = ima_sig_entry(f"/usr/bin/{number}", hashlib.sha256(b"a").digest(), signature=bytes(number))
        digest = hashlib.sha256(b"a").hexdigest()
        lines.append(f"10 {entry.template_hash.hex()} ima-sig sha256:{digest} /usr/bin/{number} {bytes(number).hex()}")
    return ("\n".join(lines).encode() + b"\n", b"10 " + b"00" * 20 + b" n-ng|d-ng /a sha1:" + b"11" * 20 + b"\n")


def _read_ascii_log(data: bytes) -> None:
    for entry in iter_ascii_ima_log(data, log_bank=detect_ascii_log_bank(data), wrong_hashes=[]):
        entry.describe()


def _signing_keys() -> tuple[bytes, ...]:
    spki = _CURVE_KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return (spki, _pem())


def _survey(data: bytes) -> None:
    survey_ima_log(data, SigningKeys([load_signing_key(_signing_keys()[0], where="fuzz")]))


def _read_event_log(data: bytes) -> None:
    log = parse_event_log(data)
    log.replay()
    for event in log.events:
        describe(event)


def _attest() -> tuple[bytes, ...]:
    quote = _machine().tpm.quote(bytes(32))
    return (quote.attest, sized_buffer(quote.attest))


def _pem() -> bytes:
    key = TpmPublic.parse(_machine().tpm.ak_public()).key
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _publics() -> tuple[bytes, ...]:
    area = _machine().tpm.ak_public()
    return (area, sized_buffer(area), _pem())


def _signatures() -> tuple[bytes, ...]:
    signature = _machine().tpm.quote(bytes(32)).signature
    return (signature, bytes(64))


def _selection(data: bytes) -> None:
    read_pcr_selection(ByteReader(data, order="big", error=TpmFormatError, where="selection"))


def _evidence() -> tuple[bytes, ...]:
    world = _world()
    return (evidence_form.encode(world.evidence(world.new_transcript())),)


def _appraise_logs(data: bytes) -> None:
    """Both logs of Evidence whose quote is good: the outcome is claims, whatever the logs are."""
    world = _world()
    transcript = world.new_transcript()
    evidence = replace(world.evidence(transcript), event_log=data, ima_log=data)
    result = Attested(machine=world.machine, reference=world.reference, state=world.state).appraise(
        evidence, transcript
    )
    assert not result.trusted or data == evidence.ima_log


def _boot_chain(data: bytes) -> None:
    pcrs = {pcr: bytes(32) for pcr in QUOTED_PCRS}
    boot_chain_claim(pcrs, data, _world().reference, (12, 13))


def _state(data: bytes) -> None:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return
    if isinstance(document, dict):
        VerifierState.from_document(document)


def _state_seeds() -> tuple[bytes, ...]:
    world = Attested(machine=MeasuredMachine(), reference=_world().reference)
    world.attest()
    assert world.state is not None
    return (json.dumps(world.state.to_document()).encode(),)


def _image(data: bytes) -> None:
    PeImage.parse(data)
    authenticode_digest(data)
    expected_pcr4_events(data)
    expected_pcr9_events(data)
    expected_pcr11_events(data)


def _messages(data: bytes) -> None:
    """Every message of the handshake and of policies; each refuses the others' forms."""
    for decode in (
        lambda body: messages.Hello.decode(body, Role.INITIATOR),
        messages.Verdict.decode,
        messages.EvidenceRequest.decode,
        messages.EvidenceAnswer.decode,
        messages.Confirm.decode,
        messages.ConfirmAnswer.decode,
        messages.Hint.decode,
        policy_messages.Prepare.decode,
        policy_messages.Vote.decode,
        policy_messages.Abort.decode,
        policy_messages.Fetch.decode,
        policy_messages.Fetched.decode,
        move_messages.Prepare.decode,
        move_messages.DiskPart.decode,
        move_messages.Handover.decode,
        move_messages.Receive.decode,
        move_messages.Join.decode,
        move_messages.Abort.decode,
        move_messages.Arrived.decode,
        vm_token.token_in,
    ):
        try:
            decode(data)
        except BadInput:
            continue


def _ek() -> tuple[bytes, ...]:
    return (_machine().tpm.ek_public(),)


def _evidence_file() -> tuple[bytes, ...]:
    world = _world()
    transcript = world.new_transcript()
    evidence = world.evidence(transcript)
    result = Attested(machine=world.machine, reference=world.reference).appraise(evidence, transcript)
    record = ResultRecord(
        result=result,
        verifier=HostName("alpha"),
        appraised_s=0.0,
        policy_digest="0" * 64,
        peer_policy_digest="0" * 64,
        reference_digest=world.reference.digest,
        evidence_digest=evidence_digest(evidence),
    )
    file = EvidenceFile(
        record=record,
        role=Role.RESPONDER,
        transcript=transcript,
        qualifying_data=bytes(32),
        ak_public=world.machine.tpm.ak_public(),
        tpm=TpmKind.SOFTWARE,
        state=None,
        evidence=evidence,
    )
    return (encode_file(file),)


def _ledger() -> tuple[bytes, ...]:
    return (pack(_machine().logs.entries),)


def _record() -> tuple[bytes, ...]:
    return (memory_record(memory_peer(HostName("alpha"), _machine().tpm.ak_public())).envelope,)


def _mac_vm_answers() -> tuple[bytes, ...]:
    """What a MAC VM answers to each call, without the frame's length."""
    bridge = Bridge(name="shbr1", ports={"shvm1-0": False}, faulty={"shvm1-0": "hairpin"})
    link = link_of(MemoryBench())
    state = KernelState(
        sas=frozenset({link.sa(inbound=True, spi=0x1000, key=bytes(36), lifetime_s=60)}),
        spd=frozenset({*link.spd_entries, *BLOCK_ENTRIES}),
        tunnels=frozenset({link.tunnel}),
        bridges={"shbr1": bridge},
        gate={"192.0.2.2": 4.5},
        guard=True,
        selinux_enforcing=True,
        sysctls={"net.ipv4.ip_forward": "0"},
        foreign=("a stranger",),
    )
    event = AcquireEvent(source="a", destination="b", source_port=1, destination_port=2, context=link.link_context)
    traffic = {"shl24576": Traffic(up=True, rx_packets=1)}
    words = failure_words(BackendFailed("it failed", where="here"))
    answers = (to_json(state), "boot", None, [words], 0x1000, {"guard_out": 1}, to_json(traffic), ["a"], to_json(event))
    return (
        *(frame({"answer": answer})[HEADER.size :] for answer in answers),
        frame({"failed": words})[HEADER.size :],
        b'{"answer":{"is":"OpenGate","seconds":NaN}}',
    )


def _mac_vm_answer(data: bytes) -> None:
    """To each call; and what is done with a state."""
    for name, call in CALLS.items():
        try:
            answer = answer_in(data, call.gives)
        except (BadInput, BackendFailed):
            continue
        if name == "read":
            for operation in (*planner.plan(DesiredState(), answer), *planner.teardown(answer.gate, answer)):
                planner.describe(operation)
                frame(to_json(operation))
            check_network_state(encode_network_state(answer, allocate_for(flask_contract.POLICY, flask_contract.ALPHA)))


def _joining(data: bytes) -> None:
    """Every message of joining, and of the registry; each refuses the others' forms."""
    for decode in (
        join_messages.Invitation.decode,
        join_messages.JoinRequest.decode,
        join_messages.Challenge.decode,
        join_messages.Proof.decode,
        join_messages.Granted.decode,
        registry_messages.Exchange.decode,
    ):
        try:
            decode(data)
        except BadInput:
            continue


def _nothing() -> tuple[bytes, ...]:
    return (b"", bytes(32))


def _device_paths() -> tuple[bytes, ...]:
    return (bytes.fromhex("02010c00d041030a00000000010106000002") + b"\x7f\xff\x04\x00",)


def _signature_lists() -> tuple[bytes, ...]:
    sha256 = bytes.fromhex("2616c4c14c509240aca941f936934328")
    return (sha256 + (76).to_bytes(4, "little") + bytes(4) + (48).to_bytes(4, "little") + bytes(48),)


def _signature_list(data: bytes) -> None:
    for read in (signature_lists_text, signature_text):
        try:
            read(data)
        except SignatureListError:
            continue


def _signed_with_p256(data: bytes) -> None:
    read_signatures(data, _CURVE_KEY.public_key())


_POLICY = Path(__file__).parents[2] / "examples" / "two-hosts.toml"
_CURVE_KEY = ec.derive_private_key(0x5EED, ec.SECP256R1())

_LINK_REPORT = PathReport(
    host=HostName("beta"),
    peer=HostName("alpha"),
    type=TypeName("acme/red"),
    context="system_u:object_r:shamon_link_t:s0:c1",
    vm=None,
    wall_s=1.7e9,
    interval_s=1.0,
    ends=LinkEnds(local_port=24576, peer_port=24577, in_spis=frozenset({256}), out_spis=frozenset({257})),
    stages=(
        Stage(
            host=HostName("beta"),
            part=Part.OUT,
            name="gate",
            looked_at="the gate",
            verdict=Verdict.WRONG,
            found="closed",
            moved={"packets": 1},
        ),
    ),
)
_DENIAL = (
    b'audit: type=1400 audit(1700000099.123:45): avc:  denied  { polmatch } for  pid=0 comm="swapper/0" '
    b"scontext=system_u:object_r:shamon_link_t:s0:c11 tcontext=system_u:object_r:shamon_spd_t:s0:c10 "
    b"tclass=association permissive=0"
)

_ALL = (
    Target(name="event-log", parse=_read_event_log, errors=(EventLogError,), seeds=_event_log),
    Target(name="ima-log", parse=_read_ima_log, errors=(ImaLogError,), seeds=_ima_log),
    Target(name="ascii-ima-log", parse=_read_ascii_log, errors=(ImaLogError,), seeds=_ascii_log),
    Target(name="ima-survey", parse=_survey, errors=(ImaLogError,), seeds=lambda: _ima_log() + _ascii_log()),
    Target(
        name="ima-signature",
        parse=read_signature_header,
        errors=(ImaSignatureError,),
        seeds=lambda: (b"\x03\x02\x04\x01\x02\x03\x04\x00\x08" + bytes(8),),
    ),
    Target(
        name="signing-key",
        parse=lambda data: load_signing_key(data, where="fuzz"),
        errors=(SigningKeyError,),
        seeds=_signing_keys,
    ),
    Target(name="attest", parse=QuoteAttest.parse, errors=(TpmFormatError,), seeds=_attest),
    Target(name="attest-file", parse=read_attest, errors=(TpmFormatError,), seeds=_attest),
    Target(name="signature", parse=TpmSignature.parse, errors=(TpmFormatError,), seeds=_signatures),
    Target(name="signature-file", parse=_signed_with_p256, errors=(TpmFormatError, QuoteError), seeds=_signatures),
    Target(name="tpm-public", parse=TpmPublic.parse, errors=(TpmFormatError,), seeds=_publics),
    Target(name="public-file", parse=read_public, errors=(TpmFormatError,), seeds=_publics),
    Target(name="pcr-selection", parse=_selection, errors=(TpmFormatError,), seeds=_nothing),
    Target(name="evidence", parse=evidence_form.decode, errors=(BadInput,), seeds=_evidence),
    Target(name="appraisal", parse=_appraise_logs, errors=(), seeds=lambda: _event_log() + _ima_log()),
    Target(name="boot-chain", parse=_boot_chain, errors=(), seeds=_event_log),
    Target(name="ek-public", parse=EkPublic.parse, errors=(TpmFormatError,), seeds=_ek),
    Target(
        name="ek-certificate",
        parse=read_ek_certificate,
        errors=(BadInput, NotTrusted),
        seeds=lambda: (memory_certificate(HostName("alpha")).public_bytes(Encoding.DER),),
    ),
    Target(name="joining", parse=_joining, errors=(), seeds=lambda: (b"{}",)),
    Target(
        name="host-record",
        parse=lambda data: read_host_record(data, memory_authorities(), source="fuzz"),
        errors=(BadInput, NotTrusted),
        seeds=_record,
    ),
    Target(name="evidence-file", parse=decode_file, errors=(BadInput,), seeds=_evidence_file),
    Target(name="ledger", parse=unpack, errors=(BadInput,), seeds=_ledger),
    Target(name="verifier-state", parse=_state, errors=(BadInput,), seeds=_state_seeds),
    Target(
        name="reference-values",
        parse=parse_any,
        errors=(BadInput,),
        seeds=lambda: (json.dumps(_world().reference.to_document()).encode(),),
    ),
    Target(
        name="guest-request",
        parse=guest_messages.read_request,
        errors=(BadInput,),
        seeds=lambda: (_GUEST_REQUEST.encode(), guest_messages.HostsRequest(nonce=bytes(32)).encode()),
    ),
    Target(name="guest-answer", parse=guest_messages.read_answer, errors=(BadInput, Refused), seeds=_guest_answer),
    Target(
        name="guest-reference",
        parse=lambda data: read_guest_reference(data, where="fuzz"),
        errors=(BadInput,),
        seeds=lambda: (json.dumps(guest_recorded(without_selinux()).to_document()).encode(),),
    ),
    Target(name="image", parse=_image, errors=(PeError, UkiError), seeds=lambda: (BootImage().file(),)),
    Target(name="device-path", parse=device_path_text, errors=(DevicePathError,), seeds=_device_paths),
    Target(name="signature-list", parse=_signature_list, errors=(), seeds=_signature_lists),
    Target(name="messages", parse=_messages, errors=(), seeds=lambda: (b"{}", b'{"about":"beta"}')),
    Target(name="refusal", parse=lambda data: decode_refusal(data, "beta"), errors=(), seeds=lambda: (b"{}",)),
    Target(name="envelope", parse=read_envelope, errors=(BadInput,), seeds=lambda: (b'{"payload":""}',)),
    Target(
        name="policy",
        parse=lambda data: parse_policy(data, source="fuzz"),
        errors=(PolicyErrors, BadInput),
        seeds=lambda: (_POLICY.read_bytes(),),
    ),
    Target(
        name="canonical-policy",
        parse=lambda data: parse_canonical(data, source="fuzz"),
        errors=(PolicyErrors, BadInput),
        seeds=lambda: (b"{}",),
    ),
    Target(
        name="link-report",
        parse=lambda data: parse_report(data, source="fuzz"),
        errors=(BadInput,),
        seeds=lambda: (json.dumps(_LINK_REPORT.to_document()).encode(),),
    ),
    Target(
        name="denials",
        parse=lambda data: denials_of(data.decode("utf-8", "replace").splitlines()),
        errors=(),
        seeds=lambda: (_DENIAL,),
    ),
    Target(name="mac-vm-answer", parse=_mac_vm_answer, errors=(), seeds=_mac_vm_answers),
    Target(name="hypervisor-report", parse=parse_hypervisor_report, errors=(BadInput,), seeds=_hypervisor_reports),
    Target(name="hypervisor-claim", parse=_hypervisor_claim, errors=(), seeds=_hypervisor_reports),
    Target(name="xfrm", parse=read_datagram, errors=(XfrmError,), seeds=datagrams),
)

TARGETS: Mapping[str, Target] = {target.name: target for target in _ALL}
