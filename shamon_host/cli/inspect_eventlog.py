"""`shamon inspect eventlog`: the firmware's event log in words, and the PCR values that it leads to."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shamon_host.cli.output import in_file, print_json, printable

if TYPE_CHECKING:
    from shamon_host.attestation.event_log import EventLog

_OTHER_ALGORITHMS = {0x0012: "sm3_256", 0x0027: "sha3_256", 0x0028: "sha3_384", 0x0029: "sha3_512"}
"""Hashes that a log may announce and this program has no bank for (TCG Algorithm Registry, TPM_ALG_ID)."""
_AGGREGATES = ("0-7", "0-9")
"""The PCRs that IMA's boot aggregate covers: before Linux 5.8 (ima_crypto.c) and in the SHA-1 bank, and since."""


def add_parser(actions: Any) -> None:
    """Add this command to the group `inspect`."""
    parser = actions.add_parser(
        "eventlog",
        help="show a TCG event log, and the PCR values that it leads to",
        description="Exit code 0: well formed; 2: no event log, or one that is cut off.",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="binary_bios_measurements of some machine")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from shamon_host.attestation.event_log import MAX_LOG_BYTES, EventLogError, parse_event_log
    from shamon_host.daemon.files import read_limited

    try:
        log = parse_event_log(read_limited(arguments.file, MAX_LOG_BYTES, "event log"))
    except EventLogError as error:
        raise in_file(error, arguments.file, expected="a TCG event log") from error
    document = eventlog_document(log)
    if arguments.json:
        print_json(document)
    else:
        _print(document)
    return 0


def eventlog_document(log: "EventLog") -> dict[str, Any]:
    """What is told of a log. PCRs that no event was extended into are there with the value they start with."""
    from shamon_host.attestation.event_describe import describe
    from shamon_host.attestation.ima_log import boot_aggregates

    values = log.replay()
    records = ([log.header] if log.header is not None else []) + list(log.events)
    return {
        "format": "crypto-agile" if log.agile else "sha1",
        "events": len(records),
        "algorithms": [_algorithm(algorithm) for algorithm in log.algorithms],
        "startup_locality": log.startup_locality,
        "pcrs": {
            bank.value: {str(pcr): value.hex() for pcr, value in of_bank.items()} for bank, of_bank in values.items()
        },
        "boot_aggregate": {
            pcrs: {bank.value: boot_aggregates(bank, of_bank)[pcrs].hex() for bank, of_bank in values.items()}
            for pcrs in _AGGREGATES
        },
        "log": [
            {
                "number": number,
                "pcr": event.pcr,
                "type": event.type_name,
                "digests": {bank.value: digest.hex() for bank, digest in event.digests.items()},
                "data_is_measured": event.data_is_measured,
                "description": describe(event),
            }
            for number, event in enumerate(records)
        ],
    }


def _algorithm(algorithm_id: int) -> str:
    from shamon_host.attestation.pcr import Bank

    bank = Bank.of_algorithm_id(algorithm_id)
    return bank.value if bank is not None else _OTHER_ALGORITHMS.get(algorithm_id, f"0x{algorithm_id:04x}")


def _print(document: dict[str, Any]) -> None:
    algorithms = ", ".join(document["algorithms"])
    print(f"{document['events']} events, {document['format']} ({algorithms})")
    if document["startup_locality"]:
        print(f"PCR 0 starts at {document['startup_locality']}: the locality that the TPM was started from")
    for event in document["log"]:
        claimed = "" if event["data_is_measured"] or event["type"] == "EV_NO_ACTION" else " [text not measured]"
        print(f"{event['number']:4}  {printable(event['description'])}{claimed}")
    extended = {str(event["pcr"]) for event in document["log"] if event["type"] != "EV_NO_ACTION"}
    for bank, values in document["pcrs"].items():
        for pcr, value in values.items():
            if pcr in extended:
                print(f"{bank} PCR {pcr}: {value}")
    for pcrs, aggregates in document["boot_aggregate"].items():
        for bank, value in aggregates.items():
            print(f"boot_aggregate over PCR {pcrs}: {bank}:{value}")
