"""What wears the labels of an ACM policy: disks and VLANs in Xen's file `resource_labels`, domains in their
configuration files.

    resources = {                                           # /var/lib/xend/security/policies/resource_labels
        'phy:/dev/hda1': ('ACM', 'POLICY', 'LABEL'),        # older: ('POLICY', 'LABEL')
    }
    access_control = ['policy=POLICY,label=LABEL']          # a domain; older: #ACM_POLICY= and #ACM_LABEL=
    vif = ['bridge=xenbr0,policy=POLICY,label=LABEL']       # Xen 3.2 and later
"""

import re
from collections.abc import Mapping
from pathlib import PurePath

from shamon_host.domain.errors import BadInput
from shamon_host.interchange.acm_literals import line_of, read_literal, require_nothing_more
from shamon_host.interchange.acm_model import INACCESSIBLE, AcmDomain, AcmReference, AcmResource

MAX_RESOURCES_BYTES = 1 << 20
MAX_DOMAIN_BYTES = 1 << 16
MAX_DOMAINS = 1024
_MAX_TEXT = 255
_NAMED = re.compile(r"[ \t]*resources[ \t]*=[ \t]*", re.ASCII)
_BEFORE = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SETTING = re.compile(
    r"^(?P<indent>[ \t]*)(?P<key>name|access_control|vif|disk|ssidref)[ \t]*=(?!=)[ \t]*", re.MULTILINE
)
_REMARK = re.compile(r"^#[ \t]*ACM_(?P<key>POLICY|LABEL)=(?P<value>[^\r\n]*)", re.MULTILINE)
_SUFFIX = "-security_policy.xml"


def read_resources(data: bytes, *, source: str) -> tuple[AcmResource, ...]:
    """All entries of `resource_labels`, by name. Raises BadInput."""
    text = _decoded(data, MAX_RESOURCES_BYTES, source)
    before = _BEFORE.match(text)
    start = before.end() if before else 0
    named = _NAMED.match(text, start)
    value, end = read_literal(text, named.end() if named else start, source=source)
    require_nothing_more(text, end, source=source)
    if not isinstance(value, dict):
        raise BadInput("not the labels of resources", where=source, expected="a dictionary", found=type(value).__name__)
    found: dict[str, AcmResource] = {}
    for name, label in value.items():
        resource = _resource(name, label, source)
        if resource.name in found:
            raise BadInput("a resource has two labels", where=source, expected="one", found=repr(resource.name))
        found[resource.name] = resource
    return tuple(resource for _, resource in sorted(found.items()))


def resource_name(name: str) -> str:
    """A resource's name as Xen has it in its file: devices with their directory."""
    kind, colon, rest = name.partition(":")
    return f"phy:/dev/{rest}" if colon and kind == "phy" and not rest.startswith("/") else name


def _resource(name: object, label: object, source: str) -> AcmResource:
    if not isinstance(name, str) or not 0 < len(name) <= _MAX_TEXT or not name.isprintable():
        raise BadInput(
            "bad name of a resource", where=source, expected="a string such as 'phy:/dev/hda1'", found=repr(name)[:80]
        )
    parts = list(label) if isinstance(label, list | tuple) else []
    texts = [part for part in parts if isinstance(part, str) and 0 < len(part) <= _MAX_TEXT]
    if len(texts) != len(parts) or len(texts) not in {2, 3}:
        raise BadInput(
            "bad label of a resource",
            where=f"{source}: {name}",
            expected="('ACM', policy, label) or (policy, label)",
            found=repr(label)[:80],
        )
    kind, policy, own = texts if len(texts) == 3 else ("ACM", *texts)
    if kind not in {"ACM", "INV_ACM"}:
        raise BadInput(
            "the label of a resource is not one of ACM", where=f"{source}: {name}", expected="ACM", found=kind[:80]
        )
    reference = AcmReference(policy=policy, label=own, where=f"{source}: {name}")
    return AcmResource(name=resource_name(name), label=reference if kind == "ACM" else None)


def is_inaccessible(resource: AcmResource) -> bool:
    """Nobody may use it: ACM says so, or has taken its label away."""
    return resource.label is None or resource.label.label == INACCESSIBLE


def read_domains(files: Mapping[str, bytes]) -> tuple[AcmDomain, ...]:
    """The domains of these configuration files, by file. Raises BadInput."""
    if len(files) > MAX_DOMAINS:
        raise BadInput("too many domains", expected=f"at most {MAX_DOMAINS}", found=str(len(files)))
    return tuple(_domain(file, data) for file, data in sorted(files.items()))


def _domain(file: str, data: bytes) -> AcmDomain:
    text = _decoded(data, MAX_DOMAIN_BYTES, file)
    values, unread = _settings(file, text)
    name, _ = values.get("name", ("", 0))
    readable = isinstance(name, str) and 0 < len(name) <= _MAX_TEXT
    return AcmDomain(
        file=file,
        name=str(name) if readable else PurePath(file).stem,
        label=_domain_label(file, text, values.get("access_control")),
        ssidref="ssidref" in values,
        disks=tuple(resource_name(disk.partition(",")[0].strip()) for disk, _ in _strings(file, values, "disk")),
        vifs=tuple(_reference(vif, where) for vif, where in _strings(file, values, "vif")),
        unread=unread,
    )


def _settings(file: str, text: str) -> tuple[dict[str, tuple[object, int]], tuple[str, ...]]:
    """Values with their lines, the last of each name, and the names of those that only running the file would tell."""
    values: dict[str, tuple[object, int]] = {}
    unread: dict[str, None] = {}
    for key, match in {match["key"]: match for match in _SETTING.finditer(text)}.items():
        try:
            value, _ = read_literal(text, match.end(), source=file)
            values[key] = (value, line_of(text, match.start()))
        except BadInput:
            if key == "access_control":
                raise
            unread[key] = None
    for match in _SETTING.finditer(text):
        if match["indent"]:
            if match["key"] == "access_control":
                where = f"{file}: line {line_of(text, match.start())}: access_control"
                raise BadInput("a label that depends on something", where=where, expected="a setting of its own")
            unread[match["key"]] = None
            values.pop(match["key"], None)
    return values, tuple(unread)


def _domain_label(file: str, text: str, setting: tuple[object, int] | None) -> AcmReference | None:
    """The label of a domain: what `xm addlabel` writes, or what `setlabel.sh` wrote before."""
    if setting is None:
        remarks = {match["key"]: match for match in _REMARK.finditer(text)}
        if "LABEL" not in remarks:
            return None
        policy = PurePath(remarks["POLICY"]["value"].strip()).name if "POLICY" in remarks else ""
        line = line_of(text, remarks["LABEL"].start())
        return AcmReference(
            policy=policy.removesuffix(_SUFFIX),
            label=remarks["LABEL"]["value"].strip(),
            where=f"{file}: line {line}: ACM_LABEL",
        )
    value, line = setting
    where = f"{file}: line {line}: access_control"
    entries = value if isinstance(value, list | tuple) else [value]
    reference = _reference(entries[0], where) if len(entries) == 1 and isinstance(entries[0], str) else None
    if reference is None:
        raise BadInput("bad label", where=where, expected="['policy=POLICY,label=LABEL']", found=repr(value)[:80])
    return reference


def _reference(text: str, where: str) -> AcmReference | None:
    """The label in `key=value,...`; None where there is none."""
    settings = dict(part.strip().partition("=")[::2] for part in text.split(","))
    label = settings.get("label", "").strip()
    return AcmReference(policy=settings.get("policy", "").strip(), label=label, where=where) if label else None


def _strings(file: str, values: Mapping[str, tuple[object, int]], key: str) -> list[tuple[str, str]]:
    """The strings of a list and where it stands; settings that are no such list are Xen's matter."""
    value, line = values.get(key, ([], 0))
    where = f"{file}: line {line}: {key}"
    return [(each, where) for each in value if isinstance(each, str)] if isinstance(value, list | tuple) else []


def _decoded(data: bytes, limit: int, source: str) -> str:
    if len(data) > limit:
        raise BadInput(
            "the file is too large", where=source, expected=f"at most {limit} bytes", found=f"{len(data)} bytes"
        )
    if b"\0" in data:
        raise BadInput("the file is not text", where=source, found="a zero byte")
    return data.decode("utf-8", errors="replace")
