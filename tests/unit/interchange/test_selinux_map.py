"""The table of SELinux contexts says what the label map says, and nothing about other hosts."""

import json
import re

import pytest
from hypothesis import HealthCheck, given, settings

from shamon_host.domain.contexts import allocate_for, vm_context
from shamon_host.domain.errors import BadInput
from shamon_host.domain.label_map import EMPTY, LabelMap
from shamon_host.domain.labels import HostName, SelinuxContext, TypeName, VmName
from shamon_host.domain.policy import Policy
from shamon_host.interchange.selinux_map import (
    FRESH,
    fresh_label_map,
    selinux_document,
    selinux_json,
    selinux_label_map,
)
from tests.examples import examples
from tests.unit.domain.generated import policies
from tests.unit.domain.policy_text import FINANCE_TEXT, changed_finance, parse

FINANCE = parse(FINANCE_TEXT)
ALPHA, BETA = HostName("alpha"), HostName("beta")
QEMU = parse(changed_finance('hypervisor = "xen"\n', ""))


@settings(max_examples=examples(50), suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(policies())
def test_every_context_is_that_of_the_label_map(policy: Policy) -> None:
    for host in policy.hosts:
        label_map = fresh_label_map(policy, host)
        document = selinux_document(policy, host, label_map)
        assert [row["type"] for row in document["types"]] == sorted(policy.hosts[host].types)
        for row in document["types"]:
            name = TypeName(row["type"])
            assert SelinuxContext.parse(row["link_context"]) == label_map.link_context(name)
            assert SelinuxContext.parse(row["spd_context"]) == label_map.spd_context(name)
        assert [row["vm"] for row in document["vms"]] == list(policy.possible_on(host))
        for row in document["vms"]:
            vm = VmName(row["vm"])
            assert row["context"] == str(vm_context(policy, label_map, vm))
        assert [row["disk"] for row in document["disks"]] == list(policy.disks_on(host))
        for row in document["disks"]:
            pair = label_map.disks[row["disk"]]
            assert SelinuxContext.parse(row["context"]).categories == set(pair)


def test_the_table_people_read() -> None:
    label_map = allocate_for(FINANCE, BETA)
    assert selinux_label_map(FINANCE, BETA, label_map) == (
        "# SELinux contexts on the host beta, and FLASK contexts of its VMs. Coalition finance, version 3\n"
        f"# Policy digest {FINANCE.digest}\n"
        "\n"
        "TYPE          CATEGORY  LINK CONTEXT                           SPD CONTEXT\n"
        "audit/report  c1        system_u:object_r:shamon_link_t:s0:c1  system_u:object_r:shamon_spd_t:s0:c1\n"
        "rival/books   c2        system_u:object_r:shamon_link_t:s0:c2  system_u:object_r:shamon_spd_t:s0:c2\n"
        "\n"
        "VM      LABEL       CONTEXT                                   TYPES\n"
        "clerk   bookkeeper  system_u:system_r:shamon_vm_bookkeeper_t  rival/books\n"
        "reader  auditor     system_u:system_r:shamon_vm_auditor_t     audit/report\n"
        "\n"
        "# no disks beside the VMs' own\n"
    )
    table = selinux_label_map(FINANCE, ALPHA, allocate_for(FINANCE, ALPHA))
    assert re.search(
        r"^manual +system_u:object_r:virt_content_t:s0:c\d+,c\d+ +bank/ledger, rival/books$", table, re.MULTILINE
    )


def test_an_unlabelled_vm_has_its_own_categories_alone() -> None:
    document = selinux_document(FINANCE, ALPHA, fresh_label_map(FINANCE, ALPHA))
    (tools,) = [row for row in document["vms"] if row["vm"] == "tools"]
    assert (tools["label"], tools["types"]) == ("unlabelled", [])
    assert re.fullmatch(r"system_u:system_r:svirt_t:s0:c5\d\d,c5\d\d", tools["context"])
    table = selinux_label_map(FINANCE, ALPHA, fresh_label_map(FINANCE, ALPHA))
    assert re.search(r"^tools +unlabelled .* -$", table, re.MULTILINE)


def test_the_note_is_a_comment_of_the_table_and_a_field_of_the_json() -> None:
    label_map = fresh_label_map(FINANCE, BETA)
    table = selinux_label_map(FINANCE, BETA, label_map, note=FRESH)
    comments = [line.removeprefix("# ") for line in table.splitlines() if line.startswith("#")]
    assert FRESH in " ".join(comments)
    document = json.loads(selinux_json(FINANCE, BETA, label_map, note=FRESH))
    assert document.pop("note") == FRESH
    assert document == selinux_document(FINANCE, BETA, label_map)
    assert json.loads(selinux_json(FINANCE, BETA, label_map)) == document


def test_a_label_map_of_a_running_host_is_shown_as_it_is() -> None:
    label_map = LabelMap(
        types={TypeName("audit/report"): 77, TypeName("rival/books"): 3},
        vms={VmName("clerk"): (600, 700), VmName("reader"): (601, 602), VmName("gone"): (603, 604)},
    )
    document = selinux_document(QEMU, BETA, label_map)
    assert [row["category"] for row in document["types"]] == ["c77", "c3"]
    assert document["vms"][0]["context"] == "system_u:system_r:svirt_t:s0:c3,c600,c700"
    assert "gone" not in json.dumps(document)


def test_a_host_that_is_not_there() -> None:
    with pytest.raises(BadInput, match="not in the policy") as caught:
        selinux_label_map(FINANCE, HostName("alpa"), EMPTY)
    assert (caught.value.expected, caught.value.remedy) == ("one of alpha, beta", "Did you mean alpha?")
    with pytest.raises(BadInput, match="not in the policy"):
        fresh_label_map(FINANCE, HostName("nobody"))


def test_a_label_map_of_another_policy() -> None:
    with pytest.raises(BadInput, match="not of this policy"):
        selinux_label_map(FINANCE, BETA, fresh_label_map(FINANCE, ALPHA))
