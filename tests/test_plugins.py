"""Tests plugins: names are listed without imports, objects are loaded by name or path, errors are one clear line."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from compact_hf.errors import UsageError
from compact_hf.plugins import list_plugins, load_plugin

GROUP = "compact_hf.test_animals"


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that installs a package of one module as pip does: the module and its dist-info directory."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def install_package(name: str, code: str, **registered: str) -> None:
        (tmp_path / f"{name}.py").write_text(code, encoding="utf-8")
        dist_info = tmp_path / f"{name}-1.2.dist-info"
        dist_info.mkdir()
        (dist_info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n", encoding="utf-8")
        lines = "".join(f"{key} = {value}\n" for key, value in registered.items())
        (dist_info / "entry_points.txt").write_text(f"[{GROUP}]\n{lines}", encoding="utf-8")
        monkeypatch.delitem(sys.modules, name, raising=False)

    return install_package


def test_names_are_listed_without_an_import_and_objects_come_by_name(install: Callable[..., None]) -> None:
    install("animals_one", "class Dog: legs = 4", dog="animals_one:Dog")
    install("animals_two", "class Ant: legs = 6", ant="animals_two:Ant")
    assert list_plugins(GROUP) == ("ant", "dog")
    assert "animals_one" not in sys.modules
    assert load_plugin(GROUP, "dog").legs == 4
    assert "animals_two" not in sys.modules


def test_an_object_that_nobody_registered_comes_by_its_path(install: Callable[..., None]) -> None:
    install("animals_three", "class Zoo:\n    class Bee: legs = 6")
    assert load_plugin(GROUP, "animals_three:Zoo.Bee").legs == 6


def test_an_unknown_name_lists_the_known_ones(install: Callable[..., None]) -> None:
    install("animals_four", "", beaver="animals_four:Beaver", ant="animals_four:Ant")
    with pytest.raises(
        UsageError, match=r"'beavr' is not one of the test animals \(ant, beaver\); install .*; did you mean beaver\?"
    ):
        load_plugin(GROUP, "beavr")


@pytest.mark.parametrize("code", ["import no_such_library", "class Other: ...", "class Cat(:"])
def test_what_cannot_be_imported_names_its_package(install: Callable[..., None], code: str) -> None:
    install("animals_five", code, cat="animals_five:Cat")
    with pytest.raises(
        UsageError, match=r"'cat' of the test animals .* the package animals_five 1\.2 \(.+\): reinstall"
    ):
        load_plugin(GROUP, "cat")


@pytest.mark.parametrize("path", ["no_such_module:Cat", "json:NoSuchClass", ":Cat", "json:"])
def test_a_path_that_leads_nowhere_is_a_wrong_usage(path: str) -> None:
    with pytest.raises(UsageError, match="cannot import"):
        load_plugin(GROUP, path)


def test_a_name_that_two_packages_claim_is_refused(install: Callable[..., None]) -> None:
    install("animals_six", "Fox = 1", fox="animals_six:Fox")
    install("animals_seven", "Fox = 2", fox="animals_seven:Fox")
    with pytest.raises(
        UsageError, match=r"'fox' .* animals_seven 1\.2 .* and animals_six 1\.2 .*: uninstall one of them"
    ):
        load_plugin(GROUP, "fox")
