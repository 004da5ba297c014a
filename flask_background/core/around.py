"""Generator functions of the app around something: the code before their ``yield``, and the code after it.

They are like those of ``contextlib.contextmanager``, but cannot swallow an error.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, cast

from flask_background.core.odd_errors import add_note
from flask_background.errors import ConfigurationError

AroundFunction = Callable[..., Iterator[Any]]


def check_function(decorator: str, func: AroundFunction, *args: object) -> None:
    """Raise ConfigurationError if func is no generator function that takes these arguments."""
    what = f"@background.{decorator} takes a generator function, whose yield stands for what it is around"
    name = _name_of(func)
    call = getattr(func, "__call__", None)  # noqa: B004
    wrapped = getattr(func, "__wrapped__", None)
    if inspect.isasyncgenfunction(func) or inspect.isasyncgenfunction(call):
        raise ConfigurationError(
            f"{what}, and {name} is an async generator function, which could not be around items that have no"
            " event loop: write def in place of async def, also around coroutines"
        )
    if not (inspect.isgeneratorfunction(func) or inspect.isgeneratorfunction(call)):
        cure = "let it yield once"
        if inspect.isgeneratorfunction(wrapped):
            cure = "leave out the decorator below, such as @contextmanager"
        raise ConfigurationError(f"{what}, and {name} is none: {cure}")
    try:
        inspect.signature(func).bind(*args)
    except TypeError as error:
        given = "no argument" if not args else "one argument, the name of the task"
        raise ConfigurationError(f"{name} is called with {given} ({error})") from None


class Around:
    """One call of an around function, which stands at its yield."""

    __slots__ = ("_decorator", "_function", "_generator", "yielded")

    def __init__(self, decorator: str, function: AroundFunction, *args: object) -> None:
        """Run the code before the yield. Raises what that raises, or ConfigurationError if nothing yields."""
        self._decorator = decorator
        self._function = function
        try:
            self._generator = cast(Generator[Any, Any, Any], function(*args))
            #: What the function yielded.
            self.yielded = next(self._generator)
        except StopIteration:
            raise ConfigurationError(f"{self.name} ended without a yield: let it yield once") from None
        except BaseException as error:
            self._claim(error)
            raise

    def leave(self, value: object, error: BaseException | None) -> BaseException | None:
        """Run the code after the yield, where error is raised, or value returned if error is None.

        Returns the error that the code raised, else the given one: to swallow it changes nothing.
        """
        trace = None if error is None else error.__traceback__  # which need not show the generator
        try:
            if error is None:
                self._generator.send(value)
            else:
                self._generator.throw(error)
        except StopIteration:
            return error
        except BaseException as raised:
            # A StopIteration cannot leave a generator, see PEP 479.
            if raised is not error and not (isinstance(error, StopIteration) and raised.__cause__ is error):
                self._claim(raised)
                return raised
            return error if error is None else error.with_traceback(trace)
        again = ConfigurationError(f"{self.name} yielded twice: let it yield once")
        again.__cause__ = error
        try:
            self._generator.close()
        except BaseException as raised:  # it has yielded once more, or its clean-up failed
            again.__context__ = raised
        return again

    def _claim(self, error: BaseException) -> None:
        add_note(error, f"raised by {self.name}")

    @property
    def name(self) -> str:
        """The function, as messages name it."""
        return f"the {self._decorator} function {_name_of(self._function)}"


class AroundRun:
    """The ``around_item`` functions of the app around one run of an item."""

    def __init__(self) -> None:
        self._entered: list[Around] = []
        self._pid = os.getpid()

    def enter(self, functions: Iterable[AroundFunction]) -> None:
        """Run the code before each yield. If one raises, those before it still have to be left."""
        for function in functions:
            self._entered.append(Around("around_item", function))

    def leave(self, error: BaseException | None) -> BaseException | None:
        """Run the code after each yield, in reverse, and return the error that the run ends with, if any."""
        if os.getpid() != self._pid:
            _of_parents.append(self)
            return error
        while self._entered:
            error = self._entered.pop().leave(None, error)
        return error


# In a process that an item has forked: a generator that is deleted runs its code after the yield, which only
# the parent may do.
_of_parents: list[AroundRun] = []


def _name_of(function: object) -> str:
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    return f"{getattr(function, '__module__', '?')}.{name}"
