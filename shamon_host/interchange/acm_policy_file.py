"""From the XML of a policy of sHype/ACM, in one file or with its labels in a second one, to an `AcmPolicy`.

What `security_policy.xsd` does not know is refused, as is a name that does not resolve: a misspelt rule would be no
rule. Newer policies have their labels inside; older ones (Xen 3.0.0 to 3.0.2) in `...-security_label_template.xml`.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from shamon_host.domain.errors import BadInput
from shamon_host.domain.findings import nearest
from shamon_host.interchange.acm_model import AcmConflict, AcmLabel, AcmPolicy
from shamon_host.interchange.acm_xml import Element, read_xml

MAX_NAME = 128
"""Characters of a name: what is made of it and a remark about it stay within a line."""
MAX_NAMES = 4096
"""Types, Chinese Wall types, conflict sets, labels: of each kind. A host of ours has 511 types at most."""
_ROOTS = ("SecurityPolicyDefinition", "PolicyDefinition", "Definition")
_SECTIONS = ("PolicyHeader", "SimpleTypeEnforcement", "ChineseWall", "SecurityLabelTemplate")
_REMARKS = ("PolicyUrl", "Reference", "Date", "NameSpaceUrl")
_CHILDREN: dict[str, tuple[str, ...]] = {
    "SecurityPolicyDefinition": _SECTIONS,
    "PolicyDefinition": (*_SECTIONS, "Definition"),
    "Definition": _SECTIONS,
    "PolicyHeader": ("Name", "PolicyName", *_REMARKS, "Version", "FromPolicy"),
    "FromPolicy": ("PolicyName", "Version"),
    "LabelHeader": ("Name", "Date", "PolicyName"),
    "PolicyName": ("Url", "Reference"),
    "SimpleTypeEnforcement": ("SimpleTypeEnforcementTypes",),
    "SimpleTypeEnforcementTypes": ("Type",),
    "ChineseWall": ("ChineseWallTypes", "ConflictSets"),
    "ChineseWallTypes": ("Type",),
    "ConflictSets": ("Conflict",),
    "Conflict": ("Type",),
    "SecurityLabelTemplate": ("LabelHeader", "SubjectLabels", "ObjectLabels"),
    "SubjectLabels": ("VirtualMachineLabel",),
    "ObjectLabels": ("ResourceLabel",),
    "VirtualMachineLabel": ("Name", "SimpleTypeEnforcementTypes", "ChineseWallTypes"),
    "ResourceLabel": ("Name", "SimpleTypeEnforcementTypes"),
}
"""What may stand in what; an element that is not here holds text."""
_REPEATED = frozenset(
    {"Type", "Conflict", "VirtualMachineLabel", "ResourceLabel", "SimpleTypeEnforcementTypes", "ChineseWallTypes"}
)
_ATTRIBUTES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(_ROOTS, ("primaryPolicyComponent",)),
    "SimpleTypeEnforcement": ("priority", "order"),
    "ChineseWall": ("priority", "order"),
    "Conflict": ("name",),
    "SubjectLabels": ("bootstrap",),
    "Name": ("from",),
}
_VERSION = re.compile(r"[0-9]{1,8}(\.[0-9]{1,8})?")
_SUFFIX = "-security_policy"
"""Old headers have the name of the file."""


def read_policy(data: bytes, *, source: str, labels: bytes | None, labels_source: str) -> AcmPolicy:
    """Read a policy. `labels`: the file of its labels, where it has them in one. Raises BadInput."""
    reader = _Reader(source)
    root = reader.root(data, _ROOTS)
    inner = next(root.all("Definition"), None)
    primary = [element.attributes.get("primaryPolicyComponent", "") for element in (root, inner) if element]
    root = inner or root
    templates = list(root.all("SecurityLabelTemplate"))
    label_reader = reader
    if labels is not None:
        if templates:
            raise reader.bad(
                templates[0], "the policy has its labels inside", "either these or a file of labels", "both"
            )
        label_reader = _Reader(labels_source)
        templates = [label_reader.root(labels, ("SecurityLabelTemplate",))]
    return _policy(reader, root, "".join(primary), label_reader, templates[0] if templates else None)


def _policy(
    reader: "_Reader", root: Element, primary: str, label_reader: "_Reader", template: Element | None
) -> AcmPolicy:
    header, ste, chwall = (next(root.all(tag), None) for tag in _SECTIONS[:3])
    types = reader.declared(ste.children) if ste else ()
    walls = reader.declared(list(chwall.all("ChineseWallTypes"))) if chwall else ()
    subjects, objects = (
        next(template.all(tag), None) if template else None for tag in _CHILDREN["SecurityLabelTemplate"][1:]
    )
    vm_labels = label_reader.labels(subjects, types, walls)
    name, version, follows = _naming(reader, header)
    return AcmPolicy(
        name=name,
        version=version,
        follows=follows,
        remarks=_remarks(header, template),
        types=types or None,
        walls=walls,
        conflicts=tuple(reader.conflicts(chwall, walls)),
        ste_first=_ste_first(reader, root, ste, chwall, primary),
        bootstrap=_bootstrap(label_reader, subjects, vm_labels),
        vm_labels=vm_labels,
        resource_labels=label_reader.labels(objects, types, ()),
    )


def _naming(reader: "_Reader", header: Element | None) -> tuple[str, str, str]:
    """Name, version, and name and version of the policy before."""
    if header is None:
        return "", "", ""
    named = next(header.all("PolicyName"), None) or next(header.all("Name"), None)
    name = reader.name(named).removesuffix(_SUFFIX) if named else ""
    version, before = reader.version(header), next(header.all("FromPolicy"), None)
    if before is None:
        return name, version, ""
    return name, version, f"{_text(before, 'PolicyName')} {reader.version(before)}".strip()


def _remarks(header: Element | None, template: Element | None) -> tuple[tuple[str, str], ...]:
    remarks = [(tag, _text(header, tag)) for tag in _REMARKS if header]
    label_header = next(template.all("LabelHeader"), None) if template else None
    if label_header:
        remarks += [(f"LabelHeader/{tag}", _text(label_header, tag)) for tag in ("Name", "Date")]
        for name in label_header.all("PolicyName"):
            remarks += [(f"LabelHeader/PolicyName/{tag}", _text(name, tag)) for tag in ("Url", "Reference")]
    return tuple((tag, text) for tag, text in remarks if text)


def _text(parent: Element, tag: str) -> str:
    return next((child.text for child in parent.all(tag)), "")


def _ste_first(reader: "_Reader", root: Element, ste: Element | None, chwall: Element | None, attribute: str) -> bool:
    """Which component is the primary one; without a word about it, it is the Chinese Wall, if there is one."""
    if attribute not in {"", "CHWALL", "STE"}:
        raise reader.bad(root, "bad primaryPolicyComponent", "CHWALL or STE", attribute)
    claimed = []
    for name, element in (("CHWALL", chwall), ("STE", ste)):
        for value in element.attributes.values() if element else ():
            if value != "PrimaryPolicyComponent":
                raise reader.bad(element or root, "bad priority", "PrimaryPolicyComponent", value)
            claimed.append(name)
    said = {*claimed, *filter(None, [attribute])}
    if len(said) > 1:
        raise reader.bad(root, "two primary components", "one of them", "both")
    return said == {"STE"} if said else chwall is None


def _bootstrap(reader: "_Reader", subjects: Element | None, labels: Sequence[AcmLabel]) -> str:
    if subjects is None:
        return ""
    bootstrap = subjects.attributes.get("bootstrap", "")
    names = [label.name for label in labels]
    if bootstrap not in names:
        raise reader.unknown(subjects, "bootstrap label", bootstrap, names)
    return bootstrap


class _Reader:
    """Takes parts of one file out of its elements, and says where what is wrong stands."""

    def __init__(self, source: str) -> None:
        self.source = source

    def root(self, data: bytes, tags: Sequence[str]) -> Element:
        """The root element, whose name is one of these, with nothing in it that a policy does not have."""
        root = read_xml(data, source=self.source)
        if root.tag not in tags:
            raise self.bad(root, "the root element is not that of a policy", " or ".join(tags), root.tag)
        pending = [root]
        while pending:
            element = pending.pop()
            self._check(element)
            pending += element.children
        return root

    def _check(self, element: Element) -> None:
        allowed = _CHILDREN.get(element.tag, ())
        if len(element.children) > MAX_NAMES:
            raise self.bad(element, "too many elements in it", f"at most {MAX_NAMES}", str(len(element.children)))
        for child in element.children:
            if child.tag not in allowed:
                raise self.unknown(child, f"element in {element.tag}", child.tag, allowed)
        for tag, count in Counter(child.tag for child in element.children).items():
            if count > 1 and tag not in _REPEATED:
                raise self.bad(element, f"more than one {tag}", "one", str(count))
        if element.text and allowed and (element.children or element.tag != "PolicyName"):
            raise self.bad(element, "text between elements", "elements only", element.text)
        for key in element.attributes:
            if key not in _ATTRIBUTES.get(element.tag, ()):
                raise self.unknown(element, "attribute", key, _ATTRIBUTES.get(element.tag, ()))

    def name(self, element: Element) -> str:
        """The text of an element that is a name."""
        if not 0 < len(element.text) <= MAX_NAME:
            found = f"{len(element.text)} characters" if element.text else "nothing"
            raise self.bad(element, "bad name", f"1 to {MAX_NAME} characters", found)
        return element.text

    def version(self, parent: Element) -> str:
        element = next(parent.all("Version"), None)
        if element is not None and not _VERSION.fullmatch(element.text):
            raise self.bad(element, "bad version", "MAJOR.MINOR", element.text)
        return element.text if element else ""

    def declared(self, lists: Sequence[Element]) -> tuple[str, ...]:
        """The types that a component declares, each once."""
        names: set[str] = set()
        elements = [child for each in lists for child in each.all("Type")]
        for element in elements:
            if element.text in names:
                raise self.bad(element, "declared twice", "each type once", element.text)
            names.update(filter(None, [element.text]))
        return self.type_names(lists)

    def type_names(self, lists: Iterable[Element]) -> tuple[str, ...]:
        """All types that these elements list. An empty `<Type/>` is none, as Xen has it."""
        return tuple(dict.fromkeys(self.name(child) for each in lists for child in each.all("Type") if child.text))

    def conflicts(self, chwall: Element | None, walls: Sequence[str]) -> Iterable[AcmConflict]:
        known = dict.fromkeys(walls)
        for element in (each for sets in (chwall.all("ConflictSets") if chwall else ()) for each in sets.children):
            name = element.attributes.get("name", "")
            if len(name) > MAX_NAME:
                raise self.bad(element, "bad name", f"at most {MAX_NAME} characters", f"{len(name)} characters")
            members = self.type_names([element])
            self._require_known(element, "Chinese Wall type", members, known)
            yield AcmConflict(name=name, walls=members)

    def labels(self, parent: Element | None, types: Sequence[str], walls: Sequence[str]) -> tuple[AcmLabel, ...]:
        """All labels of virtual machines, or of resources."""
        labels: dict[str, AcmLabel] = {}
        known_types, known_walls = dict.fromkeys(types), dict.fromkeys(walls)
        for element in parent.children if parent else ():
            named = next(element.all("Name"), None)
            if named is None:
                raise self.bad(element, "a label without a name", "<Name>", "none")
            before = named.attributes.get("from", "")
            if len(before) > MAX_NAME:
                raise self.bad(named, "bad name in from", f"at most {MAX_NAME} characters", f"{len(before)} characters")
            label = AcmLabel(
                name=self.name(named),
                before=before,
                types=self.type_names(element.all("SimpleTypeEnforcementTypes")),
                walls=self.type_names(element.all("ChineseWallTypes")),
                where=self._where(element),
            )
            self._require_known(element, "type", label.types, known_types)
            self._require_known(element, "Chinese Wall type", label.walls, known_walls)
            if label.name in labels:
                raise self.bad(named, "there are two labels of this name", "one", label.name)
            labels[label.name] = label
        return tuple(labels.values())

    def _require_known(self, element: Element, kind: str, names: Sequence[str], known: Mapping[str, None]) -> None:
        for name in names:
            if name not in known:
                raise self.unknown(element, kind, name, list(known))

    def unknown(self, element: Element, kind: str, name: str, known: Sequence[str]) -> BadInput:
        close = nearest(name, known)
        return BadInput(
            f"unknown {kind}",
            where=self._where(element),
            expected="one of: " + (", ".join(known[:8])[:200] or "none is allowed"),
            found=repr(name[:80]),
            remedy=f"Did you mean {close}?" if close else "",
        )

    def bad(self, element: Element, what: str, expected: str, found: str) -> BadInput:
        return BadInput(what, where=self._where(element), expected=expected, found=repr(found[:80]))

    def _where(self, element: Element) -> str:
        return f"{self.source}: line {element.line}: {element.tag[:80]}"
