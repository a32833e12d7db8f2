"""Which context a VM has: its label's on Xen, that of its types and its own categories on QEMU."""

import pytest

from shamon_host.domain.contexts import allocate_for, disk_context, vm_context
from shamon_host.domain.labels import FlaskContext, HostName, SelinuxContext, VmName
from shamon_host.domain.policy import HypervisorKind
from tests.unit.domain.policy_text import FINANCE_TEXT, parse

FINANCE = parse(FINANCE_TEXT)
ALPHA, BETA = HostName("alpha"), HostName("beta")


def test_a_vm_has_the_context_of_its_host_s_hypervisor() -> None:
    assert FINANCE.hypervisor_of(BETA) is HypervisorKind.XEN
    assert FINANCE.hypervisor_of(HostName("nobody")) is HypervisorKind.QEMU
    for host, kind in ((ALPHA, SelinuxContext), (BETA, FlaskContext)):
        label_map = allocate_for(FINANCE, host)
        for vm in FINANCE.vms_of(host):
            assert isinstance(vm_context(FINANCE, label_map, vm), kind)
        for disk in FINANCE.disks_on(host):
            assert isinstance(disk_context(FINANCE, label_map, disk), SelinuxContext)
    label_map = allocate_for(FINANCE, BETA)
    context = vm_context(FINANCE, label_map, VmName("reader"))
    assert str(context) == "system_u:system_r:shamon_vm_auditor_t"
    with pytest.raises(KeyError):
        vm_context(FINANCE, label_map, VmName("nobody"))
