"""Pinned images and overlays in memory. An overlay is what the VM wrote, over a clean image that nobody writes to."""

import hashlib
import json
from dataclasses import dataclass, field

from shamon_host.domain.errors import BackendFailed, BadInput, NotTrusted
from shamon_host.domain.labels import VmName
from shamon_host.hypervisor.ports import BootFile


def sha256_of(image: bytes | bytearray) -> str:
    """The digest that a policy pins, hexadecimal."""
    return hashlib.sha256(image).hexdigest()


@dataclass(kw_only=True)
class MemoryOverlay:
    """A VM's own disk: the digest of the clean image below it, and what was written since."""

    base_sha256: str
    written: str = ""

    def content(self) -> bytes:
        """What the file would be."""
        return json.dumps({"base": self.base_sha256, "written": self.written}).encode()


@dataclass(kw_only=True)
class MemoryImages:
    """`hypervisor.ports.Images`. `clean`: name → bytes of the clean image."""

    clean: dict[str, bytes]
    overlays: dict[str, MemoryOverlay] = field(default_factory=dict)
    kept: dict[str, MemoryOverlay] = field(default_factory=dict)
    """Path → what was moved aside."""
    files: dict[str, bytes] = field(default_factory=dict)
    """Path → content of what VMs are booted from."""
    incoming: dict[VmName, bytearray] = field(default_factory=dict)
    """What comes in of VMs that are moved here."""

    def verify(self, image: str, sha256: str) -> None:
        found = hashlib.sha256(self._clean(image)).hexdigest()
        if found != sha256:
            raise NotTrusted(
                "the clean image is not the pinned one",
                where=image,
                expected=f"sha256 {sha256}",
                found=f"sha256 {found}",
            )

    def fresh_overlay(self, vm: VmName, image: str, sha256: str) -> str:
        self.verify(image, sha256)
        path = f"/overlays/{vm}.qcow2"
        self.overlays[path] = MemoryOverlay(base_sha256=sha256)
        return path

    def overlay(self, vm: VmName) -> str | None:
        path = f"/overlays/{vm}.qcow2"
        return path if path in self.overlays else None

    def discard(self, vm: VmName) -> None:
        self.overlays.pop(f"/overlays/{vm}.qcow2", None)

    def boot_file(self, vm: VmName, kind: BootFile, source: str, sha256: str) -> str:
        if source not in self.files:
            raise BackendFailed("cannot copy an image", where=source)
        found = sha256_of(self.files[source])
        if found != sha256:
            raise NotTrusted("the clean image is not the pinned one", where=source, expected=sha256, found=found)
        return self.boot_path(vm, kind)

    def boot_path(self, vm: VmName, kind: BootFile) -> str:
        return f"/overlays/{vm}.{kind}"

    def set_aside(self, vm: VmName, file: str) -> str | None:
        source, target = self.overlay(vm), self.kept_path(file)
        if source is not None:
            if target in self.kept:
                raise BackendFailed("what is kept is never overwritten", where=target)
            self.kept[target] = self.overlays.pop(source)
        return target if target in self.kept else None

    def kept_path(self, file: str) -> str:
        if not file or "/" in file:
            raise BadInput("bad name of a kept file", found=repr(file[:80]))
        return f"/kept/{file}"

    def size(self, vm: VmName) -> int:
        return self.outgoing(vm)

    def outgoing(self, vm: VmName) -> int:
        path = self.overlay(vm)
        return len(self.overlays[path].content()) if path else 0

    def read(self, vm: VmName, offset: int, length: int) -> bytes:
        path = self.overlay(vm)
        if path is None:
            raise BackendFailed("cannot move a disk", where=vm)
        return self.overlays[path].content()[offset : offset + length]

    def begin_incoming(self, vm: VmName, size: int) -> None:
        self.incoming[vm] = bytearray(size)

    def write_incoming(self, vm: VmName, offset: int, data: bytes) -> None:
        file = self._incoming(vm)
        if offset + len(data) > len(file):
            raise BackendFailed("more than was announced of a disk", where=vm)
        file[offset : offset + len(data)] = data

    def incoming_sha256(self, vm: VmName) -> str:
        return sha256_of(self._incoming(vm))

    def make_way(self, vm: VmName) -> None:
        self._incoming(vm)
        self.discard(vm)

    def fit_incoming(self, vm: VmName, image: str) -> None:
        clean = self._clean(image)
        try:
            fields = json.loads(self._incoming(vm))
            overlay = MemoryOverlay(base_sha256=sha256_of(clean), written=str(fields["written"]))
        except (ValueError, KeyError, TypeError):
            raise NotTrusted("the disk that came in is no plain overlay", where=vm) from None
        self.incoming[vm] = bytearray(overlay.content())

    def place_incoming(self, vm: VmName, image: str) -> None:
        if vm in self.incoming or self.overlay(vm) is None:
            self.fit_incoming(vm, image)
            fields = json.loads(self.incoming.pop(vm))
            overlay = MemoryOverlay(base_sha256=fields["base"], written=fields["written"])
            self.overlays[f"/overlays/{vm}.qcow2"] = overlay

    def discard_incoming(self, vm: VmName) -> None:
        self.incoming.pop(vm, None)

    def _incoming(self, vm: VmName) -> bytearray:
        if vm not in self.incoming:
            raise BackendFailed("cannot move a disk", where=vm)
        return self.incoming[vm]

    def _clean(self, image: str) -> bytes:
        if image not in self.clean:
            raise BadInput(f"no path for image {image!r}", found=", ".join(sorted(self.clean)) or "no images")
        return self.clean[image]
