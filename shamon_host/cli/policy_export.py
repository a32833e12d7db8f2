"""`shamon policy export FILE --to FORM` and `shamon policy schema`: a policy in the forms of other programs.

All of it works on files and asks no daemon, so contexts of SELinux are those of a host that never had a policy.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shamon_host.cli.output import print_json, write_new
from shamon_host.domain.errors import BadInput
from shamon_host.domain.labels import HostName

if TYPE_CHECKING:
    from shamon_host.domain.policy import Policy

_FORMS = {
    "flask": "a module of Xen's FLASK policy",
    "selinux": "which SELinux context stands for what on one host",
    "dot": "the flow graph for Graphviz",
    "svg": "the flow graph as a picture",
}


def add_parsers(actions: Any) -> None:
    """Add these commands to those of `shamon policy`."""
    export = actions.add_parser("export", help="a policy as Xen's FLASK policy, SELinux contexts, or a picture")
    export.add_argument("file", type=Path, metavar="FILE", help="a policy (TOML), or an envelope")
    forms = "; ".join(f"{form}: {what}" for form, what in _FORMS.items())
    export.add_argument("--to", required=True, choices=tuple(_FORMS), dest="form", help=forms)
    export.add_argument("--host", metavar="NAME", help="with --to selinux: of which host")
    export.add_argument("--out", type=Path, metavar="FILE", help="where to write it, a new file (default: print it)")
    export.add_argument("--force", action="store_true", help="with --out: overwrite a file that is there")
    export.add_argument("--json", action="store_true", help="print JSON; with --to selinux: export JSON")
    export.set_defaults(run=_export)
    schema = actions.add_parser("schema", help="print the JSON Schema of policy files, for editors")
    schema.add_argument("--json", action="store_true", help="print JSON, which it is anyway")
    schema.set_defaults(run=_schema)


def _export(arguments: argparse.Namespace) -> int:
    from shamon_host.daemon.policy_source import read_policy_or_envelope

    _require_fitting(arguments)
    policy, _ = read_policy_or_envelope(arguments.file)
    text = _exported(policy, arguments)
    if arguments.out:
        if arguments.force:
            arguments.out.write_text(text, encoding="utf-8")
        else:
            write_new(arguments.out, text, remedy="Use --force to overwrite it.")
        if arguments.json:
            print_json({"file": str(arguments.out)})
        else:
            print(f"{arguments.out}: written")
    elif arguments.json and arguments.form != "selinux":
        print_json({arguments.form: text})
    else:
        print(text, end="")
    return 0


def _schema(arguments: argparse.Namespace) -> int:
    from shamon_host.interchange.schema import schema_text

    print(schema_text(), end="")
    return 0


def _require_fitting(arguments: argparse.Namespace) -> None:
    """Options that would do nothing are mistakes. Raises BadInput."""
    if arguments.form == "selinux" and arguments.host is None:
        raise BadInput("contexts are those of one host", where="--to selinux", expected="--host NAME")
    if arguments.form != "selinux" and arguments.host is not None:
        raise BadInput("this form is the same for every host", where=f"--to {arguments.form}", expected="no --host")
    if arguments.force and arguments.out is None:
        raise BadInput("nothing to overwrite", where="--force", expected="--out FILE")


def _exported(policy: "Policy", arguments: argparse.Namespace) -> str:
    """The text in the form that is wanted; each form is imported when it is."""
    if arguments.form == "flask":
        from shamon_host.interchange.flask import flask_source

        return flask_source(policy)
    if arguments.form == "selinux":
        from shamon_host.interchange.selinux_map import FRESH, fresh_label_map, selinux_json, selinux_label_map

        host = HostName(arguments.host)
        form = selinux_json if arguments.json else selinux_label_map
        return form(policy, host, fresh_label_map(policy, host), note=FRESH)
    from shamon_host.interchange.flow_graph import flow_graph

    if arguments.form == "dot":
        from shamon_host.interchange.graphviz import dot_text

        return dot_text(flow_graph(policy))
    from shamon_host.interchange.svg import svg_text

    return svg_text(flow_graph(policy))
