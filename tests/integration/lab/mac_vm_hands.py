"""On a host with a MAC VM, in the daemon's domain: what somebody with the control wire does by hand in its kernel.

`objects ADDRESS`, `flush`, `forge ADDRESS SPI LIKE CONTEXT` (numbers of the types, in the order of their categories),
`refusals`. The VM has no shell, and nobody logs in.
"""

import json
import sys
from dataclasses import replace
from typing import Any

from shamon_host.link_agent.frames import CALLS, HEADER, document_in, frame, frame_length
from shamon_host.link_agent.remote_kernel import connect_to_mac_vm
from shamon_host.link_agent.values import from_json, to_json
from shamon_host.links.model import AddSa, DeleteSpdEntry


def ask(name: str, argument: Any = None) -> Any:
    """One call, on a connection of its own."""
    with connect_to_mac_vm() as connection, connection.makefile("rb") as answers:
        connection.settimeout(60)
        connection.sendall(frame({"ask": name, "with": to_json(argument)}))
        answer = document_in(answers.read(frame_length(answers.read(HEADER.size))))
    if "failed" in answer:
        raise SystemExit(": ".join(answer["failed"]))
    return None if CALLS[name].gives is None else from_json(CALLS[name].gives, answer["answer"])


def objects(address: str) -> dict[str, Any]:
    state = ask("read")
    return {
        "gate_open": address in state.gate,
        "sas": sum(address in (sa.source, sa.destination) for sa in state.sas),
        "spd_entries": sum(address in (entry.source, entry.destination) for entry in state.spd),
        "devices": sum(tunnel.remote == address for tunnel in state.tunnels),
    }


def forge(address: str, spi: str, like: str, context: str) -> None:
    sas = ask("read").sas
    contexts = sorted({sa.context for sa in sas if sa.context}, key=lambda each: min(each.categories))
    known = next(sa for sa in sas if sa.destination == address and sa.context == contexts[int(like)])
    given = contexts[int(context)]
    ask("apply", (AddSa(sa=replace(known, spi=int(spi), key=bytes(36), context=given)),))


def main(command: str, *arguments: str) -> None:
    match command:
        case "objects":
            print(json.dumps(objects(*arguments)))
        case "flush":
            ask("apply", tuple(DeleteSpdEntry(entry=entry) for entry in ask("read").spd))
        case "forge":
            forge(*arguments)
        case "refusals":
            print(json.dumps({**ask("counters"), "avc": sum("polmatch" in line for line in ask("denials"))}))
        case _:
            raise SystemExit(f"no such command: {command}")


if __name__ == "__main__":
    main(*sys.argv[1:])
