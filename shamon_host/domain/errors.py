"""The error tree of the whole package.

Every error that a person may see derives from `ShamonError` and says what went wrong, where, what was expected, what
was found and what to do. The class decides the exit code of the command line: 1 failure, 2 usage or bad input,
3 not trusted, 4 unreachable. No library's exception passes through a port.
"""

from typing import ClassVar


class ShamonError(Exception):
    """Something failed. Never carries a secret."""

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, where: str = "", expected: str = "", found: str = "", remedy: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.expected = expected
        self.found = found
        self.remedy = remedy

    def __str__(self) -> str:
        parts = [f"{self.where}: {self.what}" if self.where else self.what]
        if self.expected:
            parts.append(f"expected {self.expected}")
        if self.found:
            parts.append(f"found {self.found}")
        text = "; ".join(parts)
        return f"{text}. {self.remedy}" if self.remedy else text


class Refused(ShamonError):
    """The reference monitor denied the operation."""


class BackendFailed(ShamonError):
    """A hypervisor, kernel, TPM or store did not do what it was asked, or what was read back differs."""


class BadInput(ShamonError):
    """A file, an argument or a message is malformed."""

    exit_code = 2


class NotTrusted(ShamonError):
    """Evidence, a signature, a certificate or a label is not to be trusted."""

    exit_code = 3


class Unreachable(ShamonError):
    """A peer or the daemon did not answer."""

    exit_code = 4
