"""What the tests of the hypervisor share."""

import pytest

from tests.unit.hypervisor.vm_world import VmWorld


@pytest.fixture
def world() -> VmWorld:
    """Host alpha, with no VM started yet."""
    return VmWorld()
