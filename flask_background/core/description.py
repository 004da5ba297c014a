"""The short text about an item that the app may give: checked where a task is made, and kept harmless."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from flask_background.core.odd_errors import is_from_signal
from flask_background.core.one_line import one_line
from flask_background.errors import ConfigurationError

if TYPE_CHECKING:
    from flask_background.core.options import Describe

#: How many characters a description has at most.
LONGEST = 200


def check_describe(describe: Describe, func: Callable[..., Any], name: str) -> None:
    """Raise ConfigurationError if describe cannot be called with the arguments that func takes."""
    if not callable(describe):
        raise ConfigurationError(
            f"the describe of task {name} is a {type(describe).__name__}; allowed is a function that takes"
            " the item's arguments and returns a text"
        )
    call = getattr(describe, "__call__", None)  # noqa: B004
    for kind, is_one in (
        ("a coroutine function", inspect.iscoroutinefunction),
        ("a generator function", inspect.isgeneratorfunction),
        ("an async generator function", inspect.isasyncgenfunction),
    ):
        if is_one(describe) or is_one(call):
            raise ConfigurationError(
                f"the describe of task {name} is {kind}: make it an ordinary function that returns a text"
            )
    try:
        taken, given = inspect.signature(describe), inspect.signature(func, follow_wrapped=False)
    except (TypeError, ValueError):  # some builtins have no signature
        return
    for args, kwargs in _calls(given):
        try:
            taken.bind(*args, **kwargs)
        except TypeError as error:
            raise ConfigurationError(
                f"the describe of task {name} takes {taken}, and the function takes {given} ({error}): give"
                " describe the same parameters, or *args and **kwargs"
            ) from None


def _calls(signature: inspect.Signature) -> list[tuple[list[None], dict[str, None]]]:
    """Return calls that a function with this signature takes, with few and with all arguments."""
    parameters = list(signature.parameters.values())
    required = [one for one in parameters if one.default is one.empty and one.kind not in _VARIABLE]
    calls = []
    for chosen in (required, parameters):
        for by_name in (False, True):
            args: list[None] = []
            kwargs: dict[str, None] = {}
            for one in chosen:
                if one.kind is one.VAR_KEYWORD:
                    kwargs["any_other_name"] = None
                elif one.kind is one.KEYWORD_ONLY or (by_name and one.kind is one.POSITIONAL_OR_KEYWORD):
                    kwargs[one.name] = None
                elif one.kind is not one.VAR_POSITIONAL or not by_name:
                    args.append(None)
            calls.append((args, kwargs))
    return calls


_VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def describe(
    make: Describe, args: tuple[Any, ...], kwargs: dict[str, Any], failed: Callable[[BaseException], object]
) -> str | None:
    """Return the description that make gives an item with these arguments; call failed if make raises."""
    try:
        made = make(*args, **kwargs)
        return None if made is None else one_line(str(made), LONGEST) or None
    except BaseException as error:
        if is_from_signal(error):
            raise
        failed(error)
        return None
