"""How hosts tell each other who is enrolled: each side says how new its records are, and gets what it lacks.

    any host                                    any other
      POST /v1/registry  ranks, records      →  takes what is newer and rightly signed
                         ← ranks, records that the caller lacks

Every record is signed by the coalition's CA (or by the host that leaves), so nobody has to be believed: whoever has a
certificate of the CA may ask and tell, also a host that nobody here has heard of yet. That is how a new one, or one
with a new certificate, introduces itself.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

from shamon_host.domain.errors import BadInput
from shamon_host.domain.labels import HostName, plain_name
from shamon_host.peer.host_record import MAX_RECORD_ENVELOPE_BYTES, MAX_SERIAL, HostRecord
from shamon_host.peer.wire import MAX_REGISTRY_MESSAGE, Fields, encode_object, join, split

MAX_HOSTS = 1024
OPERATOR_NAME = "the-operator-of-this-coalition.who-tells-hosts-of-its-members.shamon.invalid"
"""dNSName of the operator's certificate: longer than the name of any host, so that it is nobody's."""
_MAX_BATCH = MAX_REGISTRY_MESSAGE - 256 * 1024
MAX_CAS = 4
_MAX_CA_BYTES = 2048
_SIZES = frozenset({"bytes"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """Both the request and its answer. `records` are envelopes of which nothing is verified."""

    ranks: Mapping[HostName, int]
    records: tuple[bytes, ...] = ()
    cas: tuple[bytes, ...] = ()
    """Certificates of the coalition's next CA by the one before it, DER (`host_record.successor`)."""

    @classmethod
    def of(cls, ranks: Mapping[HostName, int], records: Iterable[HostRecord] = (), cas: Iterable[bytes] = ()) -> Self:
        """As many of the records as one message takes; the rest goes with the next one."""
        chosen: list[bytes] = []
        size = 0
        for record in records:
            size += len(record.envelope)
            if size > _MAX_BATCH or len(chosen) == MAX_HOSTS:
                break
            chosen.append(record.envelope)
        return cls(ranks=ranks, records=tuple(chosen), cas=tuple(cas)[-MAX_CAS:])

    def encode(self) -> bytes:
        header = encode_object(
            {
                "cas": [{"certificate": each.hex()} for each in self.cas],
                "ranks": [{"host": host, "rank": rank} for host, rank in sorted(self.ranks.items())],
                "sizes": [{"bytes": len(record)} for record in self.records],
            }
        )
        return join(header, b"".join(self.records))

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """Raises BadInput."""
        header, payload = split(body)
        fields = Fields.parse(header, "registry", frozenset({"cas", "ranks", "sizes"}))
        ranks: dict[HostName, int] = {}
        for each in fields.objects("ranks", frozenset({"host", "rank"}), most=MAX_HOSTS):
            host = HostName(plain_name(each.text("host", most=63), "host name"))
            ranks[host] = each.number("rank", least=0, most=2 * MAX_SERIAL + 1)
        records: list[bytes] = []
        at = 0
        for each in fields.objects("sizes", _SIZES, most=MAX_HOSTS):
            size = each.number("bytes", least=1, most=MAX_RECORD_ENVELOPE_BYTES)
            records.append(payload[at : at + size])
            at += size
        if at != len(payload):
            raise BadInput(
                "malformed message", where="registry", expected=f"{at} bytes of records", found=str(len(payload))
            )
        cas = tuple(
            each.octets("certificate", least=1, most=_MAX_CA_BYTES)
            for each in fields.objects("cas", frozenset({"certificate"}), most=MAX_CAS)
        )
        return cls(ranks=ranks, records=tuple(records), cas=cas)
