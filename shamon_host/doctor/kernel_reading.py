"""The kernel as it was built, booted and configured: from /proc, /sys, /boot and modules-load.d."""

import zlib
from collections.abc import Iterable

from shamon_host.attestation.linux_logs import SECURITYFS
from shamon_host.doctor.facts import KernelFacts
from shamon_host.doctor.host_files import HostFiles
from shamon_host.doctor.look import Look

_MAX_CONFIG_BYTES = 4 << 20
_LOAD_LISTS = ("/usr/lib/modules-load.d", "/lib/modules-load.d", "/run/modules-load.d", "/etc/modules-load.d")
"""modules-load.d(5)."""


def read_kernel(files: HostFiles) -> KernelFacts:
    release = files.text("/proc/sys/kernel/osrelease").then(_release)
    return KernelFacts(
        release=release,
        config=_config(files, release.value or ""),
        modules=files.text("/proc/modules").then(lambda text: Look(_first_words(text.splitlines()))),
        load_list=_load_list(files),
        cmdline=files.text("/proc/cmdline"),
        lsm=files.text(SECURITYFS / "lsm"),
        lockdown=files.text(SECURITYFS / "lockdown"),
    )


def _release(text: str) -> Look[str]:
    """It becomes part of a path, and is the kernel's own word: checked all the same."""
    return Look(text) if _is_plain(text) else Look(bad=f"a release like {text[:40]!r}")


def _is_plain(text: str) -> bool:
    return 0 < len(text) < 100 and not text.startswith(".") and all(each.isalnum() or each in "._+-~" for each in text)


def _config(files: HostFiles, release: str) -> Look[str]:
    found: Look[str] = files.text(f"/boot/config-{release}", _MAX_CONFIG_BYTES) if release else Look()
    return files.data("/proc/config.gz", _MAX_CONFIG_BYTES).then(_unpacked) if found.absent else found


def _unpacked(data: bytes) -> Look[str]:
    """A gzip file of bounded size."""
    unpacker = zlib.decompressobj(wbits=31)
    try:
        text = unpacker.decompress(data, _MAX_CONFIG_BYTES)
    except zlib.error as error:
        return Look(bad=f"/proc/config.gz: {error}")
    if unpacker.unconsumed_tail or not unpacker.eof:
        return Look(bad="/proc/config.gz: too large, or cut short")
    return Look(text.decode("ascii", "replace"))


def _load_list(files: HostFiles) -> Look[frozenset[str]]:
    found: set[str] = set()
    for directory in _LOAD_LISTS:
        names = files.names(directory)
        if names.unread:
            return names
        for name in sorted(names.value or ()):
            if not name.endswith(".conf"):
                continue
            text = files.text(f"{directory}/{name}")
            if text.unread:
                return Look(unread=text.unread)
            lines = (text.value or "").splitlines()
            found |= _first_words(line for line in lines if not line.lstrip().startswith(("#", ";")))
    return Look(frozenset(found))


def _first_words(lines: Iterable[str]) -> frozenset[str]:
    return frozenset(line.split()[0].replace("-", "_") for line in lines if line.strip())
