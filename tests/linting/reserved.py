"""The import linter's contract "reserved": some modules may be imported directly by some others alone.

It serves the rules about adapters: whoever adds `links/linux_bridges.py` is bound by its name, without another line of
configuration. Registered as `reserved` in pyproject.toml; `make lint` checks it together with the layers.
"""

from collections.abc import Iterable
from fnmatch import fnmatchcase

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output


def forbidden_imports(
    imports: Iterable[tuple[str, str]], reserved: Iterable[str], importers: Iterable[str]
) -> list[tuple[str, str]]:
    """The pairs (importer, imported) that reach a reserved name from a module that is neither reserved nor allowed.

    Names are patterns of `fnmatch`; a pattern covers the packages it matches and everything inside them.
    """
    reserved, importers = tuple(reserved), tuple(importers)
    return sorted(
        (importer, imported)
        for importer, imported in imports
        if _matches(imported, reserved) and not _matches(importer, (*reserved, *importers))
    )


def _matches(module: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(module, pattern) or fnmatchcase(module, f"{pattern}.*") for pattern in patterns)


class ReservedContract(Contract):
    """Options: `reserved` and `importers`, lists of module name patterns; a pattern may match nothing yet."""

    type_name = "reserved"
    reserved = fields.ListField(subfield=fields.StringField())
    importers = fields.ListField(subfield=fields.StringField())

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        pairs = (
            (importer, imported)
            for importer in graph.modules
            for imported in graph.find_modules_directly_imported_by(importer)
        )
        broken = forbidden_imports(pairs, _names(self.reserved), _names(self.importers))
        details = [line for pair in broken for line in _where(graph, *pair)]
        return ContractCheck(kept=not broken, metadata={"details": details})

    def render_broken_contract(self, check: ContractCheck) -> None:
        for line in check.metadata["details"]:
            output.print_error(f"- {line}")
        output.new_line()


def _names(value: object) -> list[str]:
    if not isinstance(value, list):
        raise TypeError(f"a list of module name patterns expected, found {value!r}")
    return [str(name) for name in value]


def _where(graph: ImportGraph, importer: str, imported: str) -> list[str]:
    found = graph.get_import_details(importer=importer, imported=imported)
    return [f"{importer} -> {imported} (line {detail['line_number']})" for detail in found]
