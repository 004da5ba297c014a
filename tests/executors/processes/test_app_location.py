"""Where child processes find the app."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
from flask import Flask

from flask_background.errors import ConfigurationError
from flask_background.executors.processes.app_location import locate


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module that has been imported as "shop.web"."""
    module = ModuleType("shop.web")
    monkeypatch.setitem(sys.modules, "shop.web", module)
    return module


def made_in(module: ModuleType, **names: Any) -> Flask:
    """An app that was made in this module, which has these names."""
    vars(module).update(names)
    return Flask(module.__name__)


def test_as_the_setting_says(module: ModuleType) -> None:
    """BACKGROUND_APP counts, whatever there is."""
    app = made_in(module)
    vars(module)["app"] = app
    assert locate(app, "shop:create_app('eu')") == "shop:create_app('eu')"


def test_variable(module: ModuleType) -> None:
    """A variable that holds this very app is found, whatever its name."""
    app = made_in(module, app=Flask("another"), create_app=lambda: None)
    vars(module)["site"] = app
    assert locate(app, None) == "shop.web:site"


def test_factory(module: ModuleType) -> None:
    """So is a factory that can be called in one way only."""

    def create_app() -> Flask:
        raise AssertionError

    assert locate(made_in(module, create_app=create_app), None) == "shop.web:create_app()"


def test_factory_that_needs_no_arguments(module: ModuleType) -> None:
    """Nor does the factory of Flask's tutorial need any: all its parameters have defaults."""

    def create_app(test_config: Any = None, *args: str, debug: bool = False, **more: str) -> Flask:
        raise AssertionError

    assert locate(made_in(module, create_app=create_app), None) == "shop.web:create_app()"


@pytest.mark.parametrize("factory", [lambda config: None, lambda *, config: None, lambda a, b=1: None])
def test_factory_with_arguments(module: ModuleType, factory: Any) -> None:
    """With which arguments another factory was called is not known."""

    example = r'BACKGROUND_APP = "shop\.web:create_app\(\)", with the arguments'
    with pytest.raises(ConfigurationError, match=rf"'shop\.web' has neither.*{example}"):
        locate(made_in(module, create_app=factory), None)


@pytest.mark.parametrize("name", ["__main__", "nowhere"])
def test_module_that_cannot_be_imported(name: str) -> None:
    """A script is not run a second time to find its app; and a name may be no module's."""
    with pytest.raises(ConfigurationError, match=f"made in '{name}', which a child process cannot import"):
        locate(Flask(name), None)


@pytest.mark.parametrize("names", [["site"], ["create_app"]], ids=["variable", "factory"])
def test_script(names: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The error for a script says how other processes import it."""
    script = ModuleType("__main__")
    script.__file__ = "/srv/shop.py"
    monkeypatch.setitem(sys.modules, "__main__", script)
    app = Flask("__main__")
    values = {"site": app, "create_app": lambda: app}
    vars(script).update({name: values[name] for name in names})
    example = {"site": "shop:site", "create_app": r"shop:create_app\(\)"}[names[0]]
    with pytest.raises(ConfigurationError, match=f'BACKGROUND_APP = "{example}"'):
        locate(app, None)
