"""A lab: a directory, a wire and the hosts on it, all gone when it closes."""

import atexit
import contextlib
import shutil
import tempfile
from collections.abc import Collection
from pathlib import Path

from tests.integration.lab.accelerator import accelerator
from tests.integration.lab.host import LabHost, Platform
from tests.integration.lab.wire import Wire
from vm_images.cache import in_use

_NUMBERS = {"alpha": 1, "beta": 2, "gamma": 3}


class Lab:
    """Hosts on one wire; a context manager. `images` is the directory that ``python3 -m vm_images.build host``
    prints, `xen_images` that of ``xen``; `xen`: the names of hosts that boot those.
    """

    def __init__(
        self, images: Path, *, keep: Path | None = None, xen_images: Path | None = None, xen: Collection[str] = ()
    ) -> None:
        self.images = images
        self._xen = frozenset(xen)
        self._images = {Platform.QEMU: images, **({Platform.XEN: xen_images} if xen_images else {})}
        self.accelerator = accelerator(images / "app")
        self._held = contextlib.ExitStack()
        for directory in self._images.values():
            self._held.enter_context(in_use(directory))
        # Unix socket paths are short, so the directory is made where temporary files go, not beside the images.
        self.directory = Path(tempfile.mkdtemp(prefix="lab-"))
        self._keep = keep
        self.wire = Wire(self.directory)
        self._hosts: dict[str, LabHost] = {}
        atexit.register(self.close)

    def __enter__(self) -> "Lab":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def hosts(self) -> list[LabHost]:
        """The hosts made so far."""
        return list(self._hosts.values())

    def host(self, name: str) -> LabHost:
        """The host of that name ("alpha", "beta", "gamma", or "hostN"), made (switched off) if it is not there yet."""
        if name not in self._hosts:
            number = _NUMBERS[name] if name in _NUMBERS else int(name.removeprefix("host"))
            platform = Platform.XEN if name in self._xen else Platform.QEMU
            self._hosts[name] = LabHost(
                name=name,
                number=number,
                platform=platform,
                images=self._images[platform],
                directory=self.directory,
                wire=self.wire,
                accelerator=self.accelerator,
            )
        return self._hosts[name]

    def boot(self, *names: str) -> list[LabHost]:
        """Switch these hosts on together and wait for all of them; those that run already are left alone."""
        hosts = [self.host(name) for name in names]
        for host in hosts:
            if host.pid is None:
                host.start()
        for host in hosts:
            host.wait_ready()
        return hosts

    def close(self) -> None:
        """Switch everything off and remove the lab's directory; logs and the capture file go to `keep`, if given."""
        if not self.directory.exists():
            return
        for host in self.hosts:
            host.kill()
        self.wire.close()
        if self._keep is not None:
            self._keep.mkdir(parents=True, exist_ok=True)
            for path in [*self.directory.glob("*.pcap"), *self.directory.glob("*/*.log")]:
                shutil.copy(path, self._keep / "-".join(path.relative_to(self.directory).parts))
        shutil.rmtree(self.directory, ignore_errors=True)
        self._held.close()
        atexit.unregister(self.close)
