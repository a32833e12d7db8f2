"""The import linter's rule for adapters, on imports made up for it."""

from tests.linting.reserved import forbidden_imports


def test_only_the_named_importers_reach_a_reserved_module() -> None:
    imports = [
        ("app.root", "app.links.linux_kernel"),
        ("app.cli", "app.links.linux_kernel"),
        ("app.cli", "app.links.model"),
    ]
    assert forbidden_imports(imports, ["app.links.linux_*"], ["app.root"]) == [("app.cli", "app.links.linux_kernel")]


def test_reserved_modules_import_each_other() -> None:
    imports = [("app.links.linux_kernel", "app.links.linux_bridges"), ("app.testing.a", "app.testing.b")]
    assert forbidden_imports(imports, ["app.links.linux_*", "app.testing"], []) == []


def test_a_name_covers_what_is_inside_the_package_and_not_its_neighbours() -> None:
    imports = [("app.x", "lib.netlink.core"), ("app.x", "library")]
    assert forbidden_imports(imports, ["lib"], []) == [("app.x", "lib.netlink.core")]
