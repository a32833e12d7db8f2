"""`shamon`: the command line. Exit codes: 0 ok, 1 failure, 2 usage or bad input, 3 not trusted, 4 unreachable.

Each command's module adds its own parser and is imported only when its group is needed to answer, so that the
commands that talk to the daemon need none of the libraries that the daemon needs.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import cache

from shamon_host import __version__
from shamon_host.cli import (
    appraising,
    coalition,
    demo,
    host,
    host_daemon,
    host_doctor,
    images,
    inspect,
    link_doctor,
    operate,
    policy,
    reference,
    results,
    selinux,
)
from shamon_host.cli.output import print_error
from shamon_host.domain.errors import BackendFailed, ShamonError

_HOST_MODULES = frozenset({"libvirt", "libvirt_qemu", "pyroute2", "tpm2_pytss"})


@cache
def build_parser() -> argparse.ArgumentParser:
    """The whole command line, made once. Each leaf sets `run`, a function of the parsed arguments that returns an exit
    code."""
    parser = argparse.ArgumentParser(
        prog="shamon", description="One mandatory access control policy over the virtual machines of many hosts."
    )
    parser.add_argument("--version", action="version", version=f"shamon {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in (
        operate,
        images,
        link_doctor,
        results,
        appraising,
        policy,
        coalition,
        host,
        host_doctor,
        selinux,
        reference,
        inspect,
        host_daemon,
        demo,
    ):
        module.add_parsers(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code (argparse itself exits with 2 on wrong usage)."""
    arguments = build_parser().parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except ShamonError as error:
        print_error(error, as_json=getattr(arguments, "json", False))
        return error.exit_code
    except ModuleNotFoundError as error:
        if error.name not in _HOST_MODULES:
            raise
        missing = BackendFailed(
            "this command needs what only a coalition's host has",
            where=f"Python module {error.name}",
            remedy="Install shamon-host with its extra: pip install 'shamon-host[host]'.",
        )
        print_error(missing, as_json=getattr(arguments, "json", False))
        return missing.exit_code
    except BrokenPipeError:
        sys.stderr.close()  # whoever read our output has had enough, and Python would complain at its end
        return 1
    except OSError as error:
        failed = ShamonError(error.strerror or type(error).__name__, where=str(error.filename or ""))
        print_error(failed, as_json=getattr(arguments, "json", False))
        return failed.exit_code
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
