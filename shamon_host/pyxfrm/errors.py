"""The one error of this package: what was asked of the kernel, which errno it answered, and its own words.

No message carries key material: operations are named by addresses, SPI, selector and index only.
"""

import errno as _errno
import os


class XfrmError(Exception):
    """An XFRM operation failed, or a value cannot be expressed in, or read from, an XFRM message.

    `errno`: positive errno of the kernel (or of the socket); EINVAL for a value refused here before sending, EBADMSG
    for a message of the kernel that cannot be understood, ETIMEDOUT if the kernel did not answer.
    `operation`: what was being done, in words. `detail`: the kernel's extended ACK text, or what is wrong; may be "".
    `offset`: byte of the request, its netlink header counted, that the kernel points at; `attribute`: which attribute
    is there, by name ("SEC_CTX"). Both None unless the kernel says.
    """

    def __init__(
        self, *, operation: str, errno: int, detail: str = "", offset: int | None = None, attribute: str | None = None
    ) -> None:
        super().__init__(operation, errno, detail)
        self.operation = operation
        self.errno = errno
        self.detail = detail
        self.offset = offset
        self.attribute = attribute

    @property
    def name(self) -> str:
        """The symbolic errno, such as "ESRCH"."""
        return _errno.errorcode.get(self.errno, str(self.errno))

    def __str__(self) -> str:
        text = f"{self.operation}: {self.name} ({os.strerror(self.errno)})"
        if self.detail:
            text = f"{text}: {self.detail}"
        if self.attribute is not None:
            return f"{text} (attribute {self.attribute})"
        return text if self.offset is None else f"{text} (at byte {self.offset} of the request)"


def invalid(operation: str, detail: str) -> XfrmError:
    """A value that was refused before anything was sent."""
    return XfrmError(operation=operation, errno=_errno.EINVAL, detail=detail)


def malformed(operation: str, detail: str) -> XfrmError:
    """Bytes that are no XFRM message."""
    return XfrmError(operation=operation, errno=_errno.EBADMSG, detail=detail)
