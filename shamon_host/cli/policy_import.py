"""`shamon policy import-acm POLICY.xml`: a policy of sHype/ACM (Xen 3.0 to 3.4) as a policy file, to be completed."""

import argparse
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shamon_host.cli.output import print_json, print_table, printable, write_new
from shamon_host.daemon.files import read_limited
from shamon_host.domain.errors import BadInput

if TYPE_CHECKING:
    from shamon_host.interchange.acm_import import Dropped, Host, Imported


def add_parser(actions: Any) -> None:
    """Add this action to the parser of `shamon policy`."""
    take = actions.add_parser("import-acm", help="make a policy file of a policy of sHype/ACM (Xen 3.0 to 3.4)")
    take.add_argument("file", type=Path, metavar="POLICY.xml", help="the policy, ...-security_policy.xml")
    take.add_argument(
        "--labels", type=Path, metavar="FILE", help="its labels, if ...-security_label_template.xml has them"
    )
    take.add_argument("--resources", type=Path, metavar="FILE", help="labels of disks and VLANs, Xen's resource_labels")
    take.add_argument(
        "--domain",
        type=Path,
        metavar="FILE",
        nargs="+",
        action="extend",
        default=[],
        help="configurations of domains, whose VMs are imported too (repeatable)",
    )
    take.add_argument("--coalition", required=True, metavar="NAME", help="name of the coalition")
    take.add_argument("--host", metavar="NAME=ADDRESS", help="the host that has the label of Domain-0")
    take.add_argument("--out", type=Path, metavar="FILE", help="where to write it, a new file (default: print it)")
    take.add_argument("--json", action="store_true", help="print JSON")
    take.set_defaults(run=_import)


def _import(arguments: argparse.Namespace) -> int:
    from shamon_host.interchange.acm_import import import_acm
    from shamon_host.interchange.acm_labelled import MAX_DOMAIN_BYTES, MAX_RESOURCES_BYTES
    from shamon_host.interchange.acm_xml import MAX_XML_BYTES

    labels, resources = arguments.labels, arguments.resources
    imported = import_acm(
        read_limited(arguments.file, MAX_XML_BYTES, "policy"),
        labels_xml=read_limited(labels, MAX_XML_BYTES, "file of labels") if labels else None,
        domains={str(path): read_limited(path, MAX_DOMAIN_BYTES, "domain") for path in arguments.domain},
        resources=read_limited(resources, MAX_RESOURCES_BYTES, "file of resources") if resources else None,
        coalition=arguments.coalition,
        host=_host(arguments.host) if arguments.host else None,
        policy_source=str(arguments.file),
        labels_source=str(labels),
        resources_source=str(resources),
    )
    if arguments.out:
        write_new(arguments.out, imported.toml)
    if arguments.json:
        print_json(_document(arguments.out, imported))
    elif arguments.out:
        print(f"{arguments.out}: written. Complete the lines marked TO COMPLETE, then: shamon policy check FILE")
        _print_changes(imported.dropped)
    else:
        print(imported.toml, end="")
        with redirect_stdout(sys.stderr):  # what is on stdout may go into a file
            _print_changes(imported.dropped)
    return 0


def _host(text: str) -> "Host":
    from shamon_host.interchange.acm_import import Host

    name, equals, address = text.partition("=")
    if not equals:
        raise BadInput("bad host", where="--host", expected="NAME=ADDRESS", found=repr(text[:80]))
    return Host(name=name, address=address)


def _document(out: Path | None, imported: "Imported") -> dict[str, Any]:
    changes = [asdict(change) for change in imported.dropped]
    written = {"file": str(out)} if out else {"toml": imported.toml}
    return {**written, "changes": changes}


def _print_changes(changes: Sequence["Dropped"]) -> None:
    for how in ("dropped", "changed", "renamed"):
        rows = [asdict(change) for change in changes if change.how == how]
        if rows:
            print(f"\n{how}:")
            columns = ("element", "name", "why") if how == "dropped" else ("element", "name", "became", "why")
            print_table([{key: printable(row[key]) for key in columns} for row in rows], columns, empty="")
