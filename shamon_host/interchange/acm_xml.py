"""From the bytes of an XML file, which are hostile, to a tree of its elements with their lines.

Document type definitions are refused, and with them every entity: policies of ACM have none. Size, depth and number of
elements are bounded, so that neither time nor memory is somebody else's choice.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from xml.sax import SAXException, SAXParseException
from xml.sax.handler import ContentHandler

from defusedxml.common import DefusedXmlException
from defusedxml.expatreader import DefusedExpatParser

from shamon_host.domain.errors import BadInput

if TYPE_CHECKING:
    from xml.sax.xmlreader import AttributesNSImpl

MAX_XML_BYTES = 4 << 20
MAX_DEPTH = 12
"""A policy of ACM is seven elements deep."""
MAX_ELEMENTS = 100_000
NAMESPACE = "http://www.ibm.com"
"""Of `security_policy.xsd`; files without a namespace are read too."""
_SCHEMA_INSTANCE = "http://www.w3.org/2001/XMLSchema-instance"
_CHUNK_BYTES = 1 << 16


@dataclass(slots=True, kw_only=True)
class Element:
    """An element: its local name, attributes, the text directly in it, and its children."""

    tag: str
    line: int
    attributes: dict[str, str] = field(default_factory=dict)
    text: str = ""
    children: list["Element"] = field(default_factory=list)

    def all(self, tag: str) -> Iterator["Element"]:
        """The children of this name, in order."""
        return (child for child in self.children if child.tag == tag)


def read_xml(data: bytes, *, source: str) -> Element:
    """The root element. `source` names the file in errors. Raises BadInput."""
    if len(data) > MAX_XML_BYTES:
        raise BadInput(
            "the file is too large",
            where=source,
            expected=f"at most {MAX_XML_BYTES} bytes",
            found=f"{len(data)} bytes",
        )
    parser = DefusedExpatParser(namespaceHandling=1, forbid_dtd=True)
    builder = _Builder(parser, source)
    parser.setContentHandler(builder)
    try:
        for start in range(0, max(len(data), 1), _CHUNK_BYTES):  # expat has something to say of nothing too
            parser.feed(data[start : start + _CHUNK_BYTES])
        parser.close()
    except SAXParseException as error:
        raise BadInput(
            "the file is not XML", where=f"{source}: line {error.getLineNumber()}", found=error.getMessage()[:120]
        ) from error
    except DefusedXmlException as error:
        raise BadInput(
            "the file has a document type definition, an entity or an external reference",
            where=f"{source}: line {builder.line}",
            expected="none: a policy of ACM needs none",
            found=type(error).__name__,
            remedy="Take it out, if you know who put it there.",
        ) from error
    except (SAXException, ValueError, LookupError) as error:  # an encoding that nobody knows
        raise BadInput("the file cannot be read as XML", where=source, found=str(error)[:120]) from error
    assert builder.root is not None  # else expat has complained
    return builder.root


class _Builder(ContentHandler):
    """Builds the tree, and stops at what a policy cannot hold."""

    def __init__(self, parser: DefusedExpatParser, source: str) -> None:
        super().__init__()
        self.root: Element | None = None
        self._parser = parser
        self._source = source
        self._open: list[Element] = []
        self._texts: list[list[str]] = []
        self._count = 0

    @property
    def line(self) -> int:
        """Where the parser is."""
        return int(self._parser.getLineNumber() or 0)

    def startElementNS(self, name: tuple[str | None, str], qname: str | None, attrs: "AttributesNSImpl") -> None:  # noqa: N802 - SAX
        namespace, tag = name
        if namespace not in {None, NAMESPACE}:
            raise self._bad(f"the element {tag[:80]} is of another namespace", NAMESPACE, str(namespace)[:120])
        self._count += 1
        if self._count > MAX_ELEMENTS:
            raise self._bad("too many elements", f"at most {MAX_ELEMENTS}", "more")
        if len(self._open) >= MAX_DEPTH:
            raise self._bad("elements are nested too deeply", f"at most {MAX_DEPTH} levels", tag[:80])
        element = Element(tag=tag, line=self.line)
        for (space, key), value in attrs.items():
            if space is None:
                element.attributes[key] = value
            elif space != _SCHEMA_INSTANCE:
                raise self._bad(f"the attribute {key[:80]} is of another namespace", "none", str(space)[:120])
        if self._open:
            self._open[-1].children.append(element)
        else:
            self.root = element
        self._open.append(element)
        self._texts.append([])

    def endElementNS(self, name: tuple[str | None, str], qname: str | None) -> None:  # noqa: N802 - SAX
        self._open.pop().text = "".join(self._texts.pop()).strip()

    def characters(self, content: str) -> None:
        self._texts[-1].append(content)

    def _bad(self, what: str, expected: str, found: str) -> BadInput:
        return BadInput(what, where=f"{self._source}: line {self.line}", expected=expected, found=found)
