"""Versions of the policy on disk: the one in force, the one that is coming into force, those before it.

A host is on exactly one version at every moment: what is in force changes in one transaction. Before that transaction
stands a *pending* version, and between the two the TPM counts: the counter's value is written down with each version,
so that a host whose disk is put back to an earlier state finds that its TPM has counted on, and stops.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shamon_host.daemon.store import Store
from shamon_host.domain.errors import BadInput
from shamon_host.domain.label_map import VM_CATEGORIES, LabelMap
from shamon_host.domain.labels import TypeName, VmName
from shamon_host.domain.policy import Policy
from shamon_host.domain.policy_file import parse_canonical
from shamon_host.domain.policy_form import policy_bytes

_KIND, _HISTORY = "policy", "policy-history"
_CURRENT, _PENDING, _PREPARED = "current", "pending", "prepared"
_LABEL_MAP = ("host", "label-map")
MAX_HISTORY = 8
"""Versions kept for hosts that were away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyRecord:
    """One version as it is kept. `envelope` and `commit` are empty where it came without signatures or update."""

    policy: Policy
    envelope: bytes = b""
    commit: bytes = b""
    """The signed record of the update by which it came into force."""
    counter: int | None = None
    """What the TPM's counter was when it did; None where it is not in force."""

    def __post_init__(self) -> None:
        """Raises BadInput: what peers and files bring may have other characters in fields that nobody reads."""
        for what, data in (("envelope", self.envelope), ("record of the update", self.commit)):
            if not data.isascii():
                raise BadInput(f"the {what} is not ASCII", expected="what `shamon policy sign` writes")

    def to_document(self) -> dict[str, Any]:
        return {
            "policy": policy_bytes(self.policy).decode("ascii"),
            "envelope": self.envelope.decode("ascii"),
            "commit": self.commit.decode("ascii"),
            "counter": self.counter,
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "PolicyRecord":
        """What `to_document` made, out of this host's own store. Raises BadInput."""
        try:
            policy, envelope, commit = (str(document[name]) for name in ("policy", "envelope", "commit"))
            counter = None if document["counter"] is None else int(document["counter"])
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput("the stored policy is malformed", found=type(error).__name__) from error
        return cls(
            policy=parse_canonical(policy.encode(), source="the stored policy"),
            envelope=envelope.encode(),
            commit=commit.encode(),
            counter=counter,
        )


class PolicyVersions:
    """Synchronous; every change is one durable transaction. Raises BackendFailed."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def current(self) -> PolicyRecord | None:
        return self._load(_CURRENT)

    def pending(self) -> PolicyRecord | None:
        """A version whose coming into force was interrupted: it is finished, never undone."""
        return self._load(_PENDING)

    def begin(self, record: PolicyRecord) -> None:
        """From here on the version comes into force, whatever happens to the daemon."""
        self._store.put(_KIND, _PENDING, record.to_document())

    def finish(self, record: PolicyRecord, label_map: LabelMap) -> None:
        """The version is in force, with its label map; what was agreed before is history."""
        document = record.to_document()
        digest = record.policy.digest
        history = {key: int(kept["version"]) for key, kept in self._store.items(_HISTORY) if key != digest}
        surplus = sorted(history, key=history.__getitem__)[: max(0, len(history) + 1 - MAX_HISTORY)]
        self._store.change(
            {
                (_KIND, _CURRENT): document,
                (_KIND, _PENDING): None,
                (_KIND, _PREPARED): None,
                _LABEL_MAP: label_map_document(label_map),
                **{(_HISTORY, older): None for older in surplus},
                (_HISTORY, digest): {**document, "version": record.policy.version},
            }
        )

    def enforced(self, digest: str) -> PolicyRecord | None:
        """A version that is or was in force on this host, if it is still kept."""
        document = self._store.get(_HISTORY, digest)
        return PolicyRecord.from_document(document) if document else None

    def policy(self, digest: str) -> Policy | None:
        """The policy of such a version; None also where this version of the program cannot read it."""
        try:
            record = self.enforced(digest)
        except BadInput:
            return None
        return record.policy if record else None

    def sent(self, digest: str) -> tuple[bytes, bytes] | None:
        """Envelope and commit record of such a version, for hosts that ask: nothing is parsed for them."""
        document = self._store.get(_HISTORY, digest)
        return None if document is None else (str(document["envelope"]).encode(), str(document["commit"]).encode())

    def label_map(self) -> LabelMap | None:
        """The label map that is in force with the current version."""
        document = self._store.get(*_LABEL_MAP)
        return None if document is None else label_map_from(document)

    def prepared(self) -> dict[str, Any] | None:
        """What this host agreed to and has not heard of since; see `policy_changes`."""
        return self._store.get(_KIND, _PREPARED)

    def prepare(self, document: Mapping[str, Any] | None) -> None:
        """Write down what this host is about to agree to; None: it comes to nothing."""
        self._store.change({(_KIND, _PREPARED): document})

    def _load(self, key: str) -> PolicyRecord | None:
        document = self._store.get(_KIND, key)
        return PolicyRecord.from_document(document) if document else None


def label_map_document(label_map: LabelMap) -> dict[str, Any]:
    """The label map in JSON's types."""
    return {
        "types": dict(label_map.types),
        "vms": {name: list(pair) for name, pair in label_map.vms.items()},
        "disks": {name: list(pair) for name, pair in label_map.disks.items()},
        "next_category": label_map.next_category,
        "next_pair": label_map.next_pair,
        "retired": list(label_map.retired),
        "retired_pairs": list(label_map.retired_pairs),
    }


def label_map_from(document: Mapping[str, Any]) -> LabelMap:
    """What `label_map_document` made. Raises BadInput."""
    try:
        return LabelMap(
            types={TypeName(name): category for name, category in document["types"].items()},
            vms={VmName(name): (low, high) for name, (low, high) in document["vms"].items()},
            next_category=document["next_category"],
            # not written by earlier versions
            disks={str(name): (low, high) for name, (low, high) in document.get("disks", {}).items()},
            next_pair=document.get("next_pair", VM_CATEGORIES.start),
            retired=tuple(document.get("retired", ())),
            retired_pairs=tuple(document.get("retired_pairs", ())),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadInput("the stored label map is malformed", found=type(error).__name__) from error
