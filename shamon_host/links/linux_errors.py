"""Errors of netlink, nft and the system as BackendFailed: no library's exception leaves the kernel adapter."""

import errno
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from pyroute2.netlink.exceptions import NetlinkDumpInterrupted, NetlinkError

from shamon_host.domain.errors import BackendFailed, BadInput
from shamon_host.pyxfrm import XfrmError


@contextmanager
def as_backend_failure(what: str, where: str = "") -> Iterator[None]:
    """Raise BackendFailed in place of what the libraries raise. `what` names the operation; never a key."""
    try:
        yield
    except XfrmError as error:
        raise BackendFailed(what, where=where, found=str(error), remedy=_remedy(error.errno)) from None
    except NetlinkError as error:
        raise BackendFailed(what, where=where, found=str(error), remedy=_remedy(error.code)) from None
    except NetlinkDumpInterrupted as error:
        raise BackendFailed(what, where=where, found="the kernel's answer changed while it was read") from error
    except subprocess.SubprocessError as error:
        raise BackendFailed(what, where=where, found=str(error)[:500]) from None
    except OSError as error:
        raise BackendFailed(what, where=where, found=str(error), remedy=_remedy(error.errno or 0)) from None
    except BadInput as error:
        raise BackendFailed(what, where=where, found=str(error)) from None


def _remedy(code: int) -> str:
    match code:
        case errno.EPERM | errno.EACCES:
            return "Run in the daemon's own SELinux domain with CAP_NET_ADMIN (`ausearch -m avc` names what is denied)."
        case errno.EPROTONOSUPPORT | errno.EOPNOTSUPP | errno.ENOPROTOOPT:
            return "Load the kernel modules xfrm_user, esp4, esp6, l2tp_eth, l2tp_netlink, bridge, nf_tables, nft_xfrm."
        case _:
            return ""
