"""The place from which a child process loads the app: found where it is certain, else BACKGROUND_APP."""

from __future__ import annotations

import inspect
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from flask_background.core.options import name_elsewhere
from flask_background.errors import ConfigurationError

if TYPE_CHECKING:
    from flask import Flask

# The names of factories that Flask's own command looks for.
_FACTORIES = ("create_app", "make_app")


def locate(app: Flask, setting: str | None) -> str:
    """Return the app as ``flask --app`` takes it: "shop:app" or "shop:create_app()".

    Raises ConfigurationError.
    """
    if setting is not None:
        return setting
    module = sys.modules.get(app.import_name)
    if app.import_name == "__main__" or module is None:
        why = f"it is made in {app.import_name!r}, which a child process cannot import"
    else:
        found = _variable(module, app) or _factory(module)
        if found is not None:
            return f"{app.import_name}:{found}"
        why = (
            f"module {app.import_name!r} has neither a variable with this very app, nor a create_app() that"
            " needs no arguments"
        )
    raise ConfigurationError(
        f"child processes would not find the app {app.name!r}: {why}. Say where it is, as in"
        f" BACKGROUND_APP = {_example(app, module)}"
    )


def _variable(module: ModuleType, app: Flask) -> str | None:
    return next((name for name, value in vars(module).items() if value is app), None)


def _example(app: Flask, module: ModuleType | None) -> str:
    """Return an example for the setting; for a script, or a factory with arguments, it is only a guess."""
    name = name_elsewhere(app.import_name)
    if module is not None and name != "__main__":
        if (variable := _variable(module, app)) is not None:
            return f'"{name}:{variable}"'
        for factory in _FACTORIES:
            if inspect.isfunction(function := vars(module).get(factory)):
                given = ", with the arguments that it is to have" if _required(function) else ""
                return f'"{name}:{factory}()"{given}'
    return '"shop:app" or "shop:create_app()"'


def _factory(module: ModuleType) -> str | None:
    """Return a call of a factory that needs no arguments: ``flask --app`` calls it without, too."""
    for name in _FACTORIES:
        factory = vars(module).get(name)
        if inspect.isfunction(factory) and not _required(factory):
            return f"{name}()"
    return None


def _required(function: Any) -> list[str]:
    """Return the parameters of a function that have no default."""
    parameters = inspect.signature(function).parameters.values()
    optional = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
    return [one.name for one in parameters if one.default is one.empty and one.kind not in optional]
