"""The lab: Debian hosts in QEMU with a software TPM each, on one recorded wire. Used by the integration tests and by
``make lab``.
"""

from tests.integration.lab.console import VmConsole
from tests.integration.lab.errors import LabError
from tests.integration.lab.host import LabHost
from tests.integration.lab.lab import Lab
from tests.integration.lab.wire import Wire

__all__ = ["Lab", "LabError", "LabHost", "VmConsole", "Wire"]
