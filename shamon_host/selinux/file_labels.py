"""Which type each file of Shamon has by the modules' file contexts: pure. `shamon.cil` says the same to SELinux."""

import re

ROOTS = ("/opt/shamon", "/etc/shamon", "/var/lib/shamon", "/run/shamon")
"""What `shamon selinux install` gives labels to, with everything below."""

_RULES = (
    (r"/opt/shamon/bin/shamon", "shamon_exec_t"),
    (r"/etc/shamon", "shamon_etc_t"),
    (r"/etc/shamon/host\.toml", "shamon_etc_t"),
    (r"/etc/shamon/.*\.key", "shamon_key_t"),
    (r"/etc/shamon/.*", "shamon_data_t"),
    (r"/var/lib/shamon(/.*)?", "shamon_var_lib_t"),
    (r"/run/shamon(/.*)?", "shamon_var_run_t"),
)


def expected_type(path: str) -> str | None:
    """None for a path that has no type of Shamon's: below `/opt/shamon` that is all but the program."""
    return next((name for pattern, name in _RULES if re.fullmatch(pattern, path)), None)
