"""Names and SELinux contexts as values: what they accept, and that text and value go both ways."""

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shamon_host.domain.errors import BadInput
from shamon_host.domain.labels import FlaskContext, SelinuxContext, plain_name, type_name

CONTEXTS = st.builds(
    SelinuxContext,
    user=st.just("system_u"),
    role=st.sampled_from(["object_r", "system_r"]),
    type=st.sampled_from(["shamon_link_t", "svirt_t"]),
    sensitivity=st.integers(0, 15),
    categories=st.frozensets(st.integers(0, 1023), max_size=12),
)


@settings(deadline=None)
@given(context=CONTEXTS)
def test_a_context_is_read_back_as_it_was_printed(context: SelinuxContext) -> None:
    assert SelinuxContext.parse(str(context)) == context


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("system_u:object_r:shamon_link_t:s0", "system_u:object_r:shamon_link_t:s0"),
        ("system_u:object_r:shamon_link_t:s0:c3,c2,c1", "system_u:object_r:shamon_link_t:s0:c1.c3"),
        ("system_u:system_r:svirt_t:s0:c1.c2,c600", "system_u:system_r:svirt_t:s0:c1,c2,c600"),
    ],
)
def test_contexts_are_printed_as_the_kernel_does(text: str, printed: str) -> None:
    assert str(SelinuxContext.parse(text)) == printed


@pytest.mark.parametrize(
    "text",
    [
        "",
        "system_u",
        "system_u:object_r:t",
        "a:b:c:s0-s0:c0.c1023",
        "a:b:c:s0:c1024",
        "a:b:c:s0:c3.c1",
        "a:b:c:s0:",
        "a:b:c:s0:c1 ",
        "a:b:c:s0\n",
        "a:b:c:s0:c1\0",
        "a:b:c:s0:" + ",".join(["c1"] * 3000),
    ],
)
def test_what_is_no_context_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="context"):
        SelinuxContext.parse(text)


@settings(deadline=None)
@given(text=st.text(max_size=80))
def test_names_raise_bad_input_alone(text: str) -> None:
    for parse in (type_name, plain_name, SelinuxContext.parse, FlaskContext.parse):
        with suppress(BadInput):
            assert parse(text)


@pytest.mark.parametrize("text", ["acme/red", "acme/payroll/eu-1", "a.b/c_d"])
def test_type_names(text: str) -> None:
    assert type_name(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "red",
        "Acme/red",
        "acme/",
        "/red",
        "acme//red",
        "acme/red ",
        "acme/-red",
        "a/b\n",
        "/".join("abcdefghi"),
        f"a/{'b' * 64}",
    ],
)
def test_bad_type_names(text: str) -> None:
    with pytest.raises(BadInput, match="type name"):
        type_name(text)


@given(st.lists(st.from_regex(r"[A-Za-z][A-Za-z0-9_]{0,20}", fullmatch=True), min_size=3, max_size=3))
def test_a_flask_context_is_read_back_as_it_was_printed(parts: list[str]) -> None:
    user, role, type_ = parts
    context = FlaskContext(user=user, role=role, type=type_)
    assert FlaskContext.parse(str(context)) == context
    assert str(context) == ":".join(parts)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "system_u:system_r",
        "system_u:system_r:shamon_mac_t:s0",
        "system_u:system_r:shamon_mac_t\n",
        " system_u:system_r:shamon_mac_t",
        "system_u::shamon_mac_t",
        "system_u:system_r:4_t",
        "system_u:system_r:a-b",
        "system_u:system_r:é",
        "u:r:" + "t" * 256,
    ],
)
def test_what_is_no_flask_context_is_refused(text: str) -> None:
    with pytest.raises(BadInput):
        FlaskContext.parse(text)
