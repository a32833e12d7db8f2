"""Every labelled xfrm object of this host, whoever made it: while there is one, the kernel checks all traffic as a
peer's (security/selinux/hooks.c, selinux_peerlbl_enabled), and Shamon's module must stay."""

from shamon_host import pyxfrm
from shamon_host.domain.errors import BackendFailed
from shamon_host.pyxfrm.client import Xfrm


def labelled_objects() -> tuple[str, ...]:
    """In words. Raises BackendFailed."""
    try:
        with Xfrm() as xfrm:
            sas = xfrm.dump_sas(lambda sa: sa.security_context is not None)
            policies = xfrm.dump_policies()
    except pyxfrm.XfrmError as error:
        raise BackendFailed(
            "the kernel refused", where=error.operation, found=f"{error.name}: {error.detail}"
        ) from None
    found = [f"SA {sa.id} {sa.security_context}" for sa in sas]
    found += [f"SPD entry {item.id} {item.security_context}" for item in policies if item.security_context is not None]
    return tuple(found)
