"""One look at a host: every reader in turn. Nothing is changed, and each part ends within a time of its own."""

from collections.abc import Callable
from pathlib import Path

from shamon_host.doctor.bounded import Run
from shamon_host.doctor.clock_reading import read_clock
from shamon_host.doctor.coalition_reading import DEFAULTS, read_coalition
from shamon_host.doctor.facts import ClockFacts, HostFacts
from shamon_host.doctor.host_files import HostFiles
from shamon_host.doctor.hypervisor_reading import read_hypervisor
from shamon_host.doctor.kernel_reading import read_kernel
from shamon_host.doctor.mac_reading import read_mac
from shamon_host.doctor.network_reading import read_network
from shamon_host.doctor.program_reading import AskVersion, read_program
from shamon_host.doctor.tpm_reading import read_tpm

_IMAGES = Path("/var/lib/libvirt/images")


def read_host(
    files: HostFiles,
    run: Run,
    ask_version: AskVersion,
    *,
    config_path: Path,
    clock: Callable[[], ClockFacts] = read_clock,
) -> HostFacts:
    kernel = read_kernel(files)
    coalition = read_coalition(files, config_path)
    config = coalition.config.value
    places = config or DEFAULTS
    return HostFacts(
        kernel=kernel,
        mac=read_mac(files),
        tpm=read_tpm(files),
        hypervisor=read_hypervisor(files, run, uri=config.libvirt_uri if config else ""),
        network=read_network(files, run, kernel, peer_port=coalition.peer_port),
        clock=clock(),
        coalition=coalition,
        program=read_program(
            files,
            ask_version,
            socket=places.socket,
            directories=(places.state_dir, _IMAGES),
        ),
    )
