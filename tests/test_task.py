"""Tasks: ordinary functions when called, items when enqueued, copies with other options."""

from __future__ import annotations

import asyncio
import copy
import functools
import inspect
import math
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import pytest
from flask import Flask, request
from flask.sessions import SessionMixin

from flask_background import Background, Status, Task, WorkItem, current_item
from flask_background.errors import ArgumentError, ConfigurationError, UnsupportedError

from .helpers import BOUND, Site


def add(a: int, b: int = 2, *rest: int, c: int = 3, **more: int) -> tuple[Any, ...]:
    """Add up."""
    return a, b, rest, c, more


async def add_async(a: int, b: int = 2) -> int:
    """Add up later."""
    await asyncio.sleep(0)
    return a + b


# As the function that it was.


def test_looks_like_its_function(background: Background) -> None:
    """A task has its function's name, docstring and signature."""
    task = background.task(add)
    assert isinstance(task, Task)
    assert task.func is task.__wrapped__ is add  # type: ignore[attr-defined]
    assert task.__name__ == "add"  # type: ignore[attr-defined]
    assert task.__doc__ == "Add up."
    assert inspect.signature(task) == inspect.signature(add)
    assert repr(task) == "<Task tests.test_task.add>"


def in_main() -> Callable[..., Any]:
    """A function of the script that this process runs."""

    def work() -> None: ...

    work.__module__, work.__qualname__ = "__main__", "work"
    return work


@pytest.mark.parametrize(
    ("file", "spec", "name"),
    [
        ("/srv/shop.py", None, "shop.work"),
        ("/srv/shop/web.py", ModuleSpec("shop.web", None), "shop.web.work"),
        (None, None, "__main__.work"),
    ],
    ids=["python shop.py", "python -m shop.web", "python -c"],
)
def test_name_in_a_script(
    background: Background,
    file: str | None,
    spec: ModuleSpec | None,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A script's task is named as in processes that import the script."""
    main = ModuleType("__main__")
    main.__file__, main.__spec__ = file, spec  # type: ignore[assignment]
    monkeypatch.setitem(sys.modules, "__main__", main)
    assert background.task(in_main()).name == name


def test_script_that_is_imported_too(background: Background, monkeypatch: pytest.MonkeyPatch) -> None:
    """A durable task may be made twice: by the script, and by the module that it is when it is imported."""
    main = ModuleType("__main__")
    main.__file__ = "/srv/shop.py"
    monkeypatch.setitem(sys.modules, "__main__", main)
    again = in_main()
    again.__module__ = "shop"
    tasks = [background.task(durable=True)(func) for func in (in_main(), again)]
    assert [task.name for task in tasks] == ["shop.work", "shop.work"]


def test_call(background: Background) -> None:
    """A call runs the function here and now, and raises what that raises."""
    task = background.task(add)
    assert task(1, 2, 3, c=4, d=5) == (1, 2, (3,), 4, {"d": 5})
    assert background.task(threading.get_ident)() == threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        background.task(lambda: 1 / 0)()
    with pytest.raises(TypeError):
        task()  # type: ignore[call-arg]
    assert background.items() == []


def test_call_needs_no_app() -> None:
    """An ordinary call needs neither an app nor init_app."""
    task = Background().task(lambda: current_item.task_name)
    assert "test_call_needs_no_app" in task()
    assert not current_item


def test_call_binds_current_item(background: Background) -> None:
    """In an ordinary call current_item is there: running, its token never fires, and it can report."""

    @background.task(name="shop.work", timeout=0.001)
    def work() -> tuple[Any, ...]:
        current_item.report_progress(1, 2)
        current_item.token.raise_if_cancelled()
        item = current_item
        return (
            item.task_name,
            item.status,
            item.attempt,
            item.progress,
            bool(item.state),
            item.state.values,
            item.token.wait(0.01),
            item.token.remaining,
            item.cancel(),
        )

    assert work() == ("shop.work", Status.RUNNING, 1, (1, 2, None), False, {}, False, None, False)
    assert not current_item


def test_call_in_an_item(background: Background) -> None:
    """A task that an item calls is part of that item."""
    inner = background.task(lambda: current_item.id)
    item = background.enqueue(lambda: inner())
    assert item.result(BOUND) == item.id


def test_call_in_a_call(background: Background) -> None:
    """A task that a called task calls is part of the same call."""
    inner = background.task(lambda: current_item.id)
    assert background.task(lambda: inner() == current_item.id)()


def test_call_that_fails_unbinds(background: Background) -> None:
    """After a call that failed current_item is unbound again."""
    with pytest.raises(ZeroDivisionError):
        background.task(lambda: 1 / 0)()
    assert not current_item


def test_call_of_a_coroutine_function(background: Background) -> None:
    """A call of a coroutine function gives a coroutine, in which current_item is bound, and nowhere else."""

    @background.task
    async def work(number: int) -> tuple[int, str]:
        before = current_item.id
        await asyncio.sleep(0.001)
        assert current_item.id == before
        return number, before

    async def main() -> list[tuple[int, str]]:
        coroutine = work(1)
        assert inspect.isawaitable(coroutine)
        assert not current_item
        results = await asyncio.gather(coroutine, work(2))
        assert not current_item
        return results

    (one, first), (two, second) = asyncio.run(main())
    assert (one, two) == (1, 2)
    assert first != second


def test_call_in_a_request(app: Flask, background: Background) -> None:
    """An ordinary call in a view is an ordinary call: the request is there."""
    with app.test_request_context("/here"):
        assert background.task(lambda: request.path)() == "/here"


# Enqueued.


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((1,), {}),
        ((1, 5), {}),
        ((1, 2, 3, 4), {"c": 7}),
        ((), {"a": 1, "b": 2}),
        ((1,), {"d": 4, "when": 5, "timeout": 6, "name": 7}),
    ],
)
def test_enqueue(background: Background, args: tuple[int, ...], kwargs: dict[str, int]) -> None:
    """enqueue takes the function's own arguments, whatever they are called."""
    item = background.task(add).enqueue(*args, **kwargs)
    assert isinstance(item, WorkItem)
    assert item.result(BOUND) == add(*args, **kwargs)
    assert item.task_name == "tests.test_task.add"


def test_enqueue_coroutine_function(background: Background) -> None:
    """A coroutine function's item has what it returned in the end."""
    assert background.task(add_async).enqueue(1, b=4).result(BOUND) == 5


def test_enqueue_needs_arguments_that_fit(background: Background) -> None:
    """A call that does not fit the function raises, in the view, a TypeError that reads as Python's own."""

    @background.task
    def save(photo: Any, /, title: str, *, size: int = 1) -> None: ...

    for enqueue, said in (
        (lambda: save.enqueue(), r"save\(\) missing 2 required positional arguments: 'photo' and 'title'"),
        (lambda: save.enqueue(1), r"save\(\) missing 1 required positional argument: 'title'"),
        (lambda: save.enqueue(1, "a", 3), r"save\(\) takes 2 positional arguments but 3 were given"),
        (lambda: save.enqueue(1, "a", colour=3), r"save\(\) got an unexpected keyword argument 'colour'"),
        (lambda: save.enqueue(1, photo=1, title="a"), r"save\(\) got some positional-only arguments"),
        (lambda: save.enqueue(1, "a", title="b"), r"save\(\) got multiple values for argument 'title'"),
    ):
        with pytest.raises(TypeError, match=said):
            enqueue()  # type: ignore[no-untyped-call]
    assert background.items() == []


def wrapped(func: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator that uses ``functools.wraps``."""

    @functools.wraps(func)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return func(*args, **kwargs)

    return wrapper


class Callable_:
    """A callable object."""

    def __call__(self, a: int) -> int:
        return a + 1


class AsyncCallable:
    """A callable object whose call is a coroutine."""

    async def __call__(self, a: int) -> int:
        return a + 1


class Method:
    """A class with methods."""

    def method(self, a: int) -> int:
        """Add one."""
        return a + 1

    @classmethod
    def make(cls, a: int) -> int:
        """Add one."""
        return a + 1


@pytest.mark.parametrize(
    ("func", "name"),
    [
        (lambda a: a + 1, "tests.test_task.<lambda>"),
        (wrapped(lambda a: a + 1), "tests.test_task.<lambda>"),
        (functools.partial(lambda a, b: a + b, b=1), "tests.test_task.<lambda>"),
        (functools.partial(add_async, b=1), "tests.test_task.add_async"),
        (Callable_(), "tests.test_task.Callable_"),
        (AsyncCallable(), "tests.test_task.AsyncCallable"),
        (Method().method, "tests.test_task.Method.method"),
        (Method.make, "tests.test_task.Method.make"),
        ((1).__add__, "?.int.__add__"),
    ],
)
def test_any_callable(background: Background, func: Callable[..., Any], name: str) -> None:
    """Any callable can be a task, or be enqueued as it is; it is named after what it is."""
    for item in (background.task(func).enqueue(1), background.enqueue(func, 1)):
        assert item.result(BOUND) == 2
        assert item.task_name == name


def test_builtins_without_signature(background: Background) -> None:
    """The call of a function without a signature is checked when it runs."""
    assert background.task(max).enqueue(1, 2).result(BOUND) == 2
    assert background.enqueue(dict, a=1).result(BOUND) == {"a": 1}
    assert background.enqueue(max, 1, 2).result(BOUND) == 2
    assert isinstance(background.enqueue(max, 1).exception(BOUND), TypeError)


def test_enqueue_of_a_task(background: Background) -> None:
    """A task that is given to background.enqueue keeps its options; what calls one is no task."""
    inner = background.task(name="shop.work", timeout=60)(lambda a: (a, current_item.token.remaining))
    number, remaining = background.enqueue(inner, 1).result(BOUND)
    assert number == 1
    assert remaining > 50
    assert background.enqueue(inner, 1).task_name == "shop.work"
    assert background.enqueue(functools.partial(inner, 1)).result(BOUND) == (1, None)


def test_order_of_decorators(app: Flask, background: Background) -> None:
    """A task can be a view at the same time: called by Flask, enqueued by others."""

    @app.get("/report")
    @background.task
    def report() -> str:
        return current_item.task_name

    assert "report" in app.test_client().get("/report").text
    assert "report" in report.enqueue().result(BOUND)


# Options.


def test_names(background: Background) -> None:
    """A task is named after its module and function, unless it is given a name."""
    assert background.task(add).name == "tests.test_task.add"
    assert background.task(name="shop.add")(add).name == "shop.add"
    assert background.task()(add).name == "tests.test_task.add"


def test_executors(background: Background) -> None:
    """A coroutine function goes to the event loop, others to threads, unless an executor is named."""
    assert background.task(add).options.executor == "thread"
    assert background.task(add_async).options.executor == "asyncio"
    assert background.task(AsyncCallable()).options.executor == "asyncio"
    assert background.task(functools.partial(add_async, 1)).options.executor == "asyncio"
    assert background.task(executor="mails")(add).options.executor == "mails"


def test_using(make_site: Callable[..., Site]) -> None:
    """using() gives a copy with other options; the task stays as it was."""
    site = make_site(BACKGROUND_EXECUTORS={"mails": {"kind": "thread", "workers": 1}})
    task = site.background.task(name="shop.work", timeout=60)(
        lambda: (threading.current_thread().name, current_item.token.remaining)
    )
    options = task.options
    other = task.using(timeout=None, executor="mails")
    assert task.options is options
    assert other is not task
    assert other.name == "shop.work"
    thread, remaining = other.enqueue().result(BOUND)
    assert thread.startswith("background-mails")
    assert remaining is None
    thread, remaining = task.enqueue().result(BOUND)
    assert thread.startswith("background-thread")
    assert remaining > 50
    assert other.using(timeout=5).options == other.options.__class__("shop.work", "mails", 5)
    assert other() == (threading.current_thread().name, None)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("timeout", 0),
        ("timeout", -1),
        ("timeout", "30"),
        ("timeout", math.inf),
        ("timeout", math.nan),
        ("timeout", True),
        ("when", "later"),
        ("when", None),
        ("executor", 3),
    ],
)
def test_wrong_options(background: Background, option: str, value: Any) -> None:
    """A wrong option is an error where the task is made, which names it, the value and what is allowed."""
    said = rf"the task's option {option} is .*; allowed is "
    with pytest.raises(ConfigurationError, match=said):
        background.task(**{option: value})(add)
    with pytest.raises(ConfigurationError, match=said):
        background.task(add).using(**{option: value})


@pytest.mark.parametrize("name", ["", 3])
def test_wrong_names(background: Background, name: Any) -> None:
    """A name is a string that is not empty."""
    with pytest.raises(ConfigurationError, match="the task's option name is"):
        background.task(name=name)(add)


@pytest.mark.parametrize(
    ("options", "cure"),
    [
        ({"max_retries": 3}, r"max_attempts=4 \(runs, not retries\) may be meant"),
        ({"retries": 0}, r"max_attempts=1 \(runs"),
        ({"max_retry": True}, r"max_attempts=4 \(runs"),
        ({"retry": None}, r"max_attempts=4 \(runs"),
        ({"queue": "mail"}, r'executor="mail" \(BACKGROUND_EXECUTORS'),
        ({"priority": 5}, r'executor="mail" \(BACKGROUND_EXECUTORS'),
        ({"countdown": 5}, r"using\(delay=60\)\.enqueue"),
        ({"eta": None}, r"using\(delay=60\)\.enqueue"),
        ({"autoretry_for": (OSError,)}, r"retry_on=\(OSError,\)"),
        ({"time_limit": 5}, "timeout=30"),
        ({"bind": True}, "leave it out: current_item is there in every task"),
        ({"timout": 5}, "timeout may be meant"),
        ({"max_atempts": 5}, "max_attempts may be meant"),
        ({"colour": "red"}, "the options are backend, backoff, "),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_unknown_options(background: Background, options: dict[str, Any], cure: str) -> None:
    """An option that does not exist is an error where it is written; the message says what may be meant."""
    name = next(iter(options))
    for where, make in (
        ("task", lambda: background.task(**options)),
        ("task", lambda: background.periodic(seconds=1, **options)),
        ("using", lambda: background.task(add).using(**options)),
    ):
        with pytest.raises(ConfigurationError, match=rf"^{where}\(...\) has no option '{name}'; {cure}"):
            make()


def test_options_in_the_wrong_place(background: Background) -> None:
    """The options of one item belong to using(), and a name to the task; the errors say so."""
    with pytest.raises(ConfigurationError, match=r"no option 'delay'; give it to using\(\), as in using"):
        background.task(delay=5)  # type: ignore[call-overload]
    with pytest.raises(ConfigurationError, match=r"no option 'key'; give it to using\(\)"):
        background.task(key="k")  # type: ignore[call-overload]
    with pytest.raises(ConfigurationError, match=r"no option 'name'; .* @background\.task\(name=\.\.\.\)"):
        background.task(add).using(name="k")  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("word", "cure"),
    [
        *((word, r"add\.enqueue\(\.\.\.\)") for word in ("apply", "delay", "queue", "send", "submit")),
        *((word, r"add\.using\(delay=60\)\.enqueue") for word in ("apply_async", "schedule")),
        ("s", r"background\.enqueue_many\(\[add\.call"),
        ("map", r"background\.enqueue_many\(add\.call\(value\) for value in values\)"),
        ("retry", r"max_attempts=5"),
    ],
)
def test_words_of_others(background: Background, word: str, cure: str) -> None:
    """A task has no delay(), apply_async() and the like; the AttributeError says what to write."""
    task = background.task(add)
    with pytest.raises(AttributeError, match=rf"'Task' object has no attribute '{word}': .*{cure}"):
        getattr(task, word)
    assert not hasattr(task, word)
    assert not hasattr(task, "colour")
    assert copy.deepcopy(copy.copy(task).options) == task.options


def test_options_are_frozen(background: Background) -> None:
    """Options cannot be changed, only replaced by using()."""
    with pytest.raises(AttributeError):
        background.task(add).options.timeout = 5  # type: ignore[misc]


@pytest.mark.parametrize("thing", ["shop.add", 3, None])
def test_not_a_function(background: Background, thing: Any) -> None:
    """An object that is not a function cannot be a task; the error says how to write it."""
    if thing is not None:
        with pytest.raises(ConfigurationError, match=r"is not a function: decorate one"):
            background.task(thing)
    with pytest.raises(ConfigurationError, match=r"is not a function: decorate one"):
        background.task()(thing)


def test_enqueue_of_a_call(background: Background) -> None:
    """background.enqueue(f(x)) is a common slip: the error says what to write."""
    with pytest.raises(TypeError, match=r"write enqueue\(f, x\), not enqueue\(f\(x\)\)"):
        background.enqueue(add(1))  # type: ignore[call-overload]
    coroutine = add_async(1)
    with pytest.raises(TypeError, match=r"not enqueue\(f\(x\)\)"):
        background.enqueue(coroutine)  # type: ignore[call-overload]
    coroutine.close()


def test_enqueue_checks_the_call(background: Background) -> None:
    """background.enqueue checks the arguments in the view as well."""
    with pytest.raises(TypeError, match="missing a required argument"):
        background.enqueue(add)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="too many positional arguments"):
        background.enqueue(lambda: None, 1)  # type: ignore[call-overload]
    assert background.items() == []


def test_function_that_returns_a_future(background: Background) -> None:
    """The handle of a function that returns a Future has that one's result."""

    @background.task
    def work() -> Future[int]:
        future: Future[int] = Future()
        future.set_result(42)
        return future

    assert work.enqueue().result(BOUND) == 42


# What is no function, or no ordinary one.


class Shop:
    """Has tasks as methods."""

    background = Background()

    def __init__(self, name: str) -> None:
        self.name = name

    @background.task
    def greet(self, who: str, *, mark: str = ".") -> str:
        """An ordinary method."""
        return f"{self.name}: {who}{mark}"

    @background.task
    async def wave(self, who: str) -> str:
        """A coroutine."""
        await asyncio.sleep(0)
        return f"{self.name} waves to {who}"

    @background.task(durable=True)
    def keep(self, who: str) -> str:
        """A method whose object would have to be kept."""
        return f"{self.name} keeps {who}"

    @staticmethod
    @background.task
    def plain(who: str) -> str:
        """A static method."""
        return f"plain {who}"

    @background.task
    @staticmethod
    def plain_below(who: str) -> str:
        """The decorators in the other order."""
        return f"below {who}"

    @background.task
    @classmethod
    def made(cls, who: str) -> str:
        """A class method."""
        return f"{cls.__name__} made {who}"

    length = background.task(len)


class Stall(Shop):
    """Inherits them."""


@pytest.fixture
def in_shop(app: Flask) -> Any:
    """An app that the shop's tasks are enqueued for."""
    del app.extensions["background"]
    Shop.background.init_app(app)
    with app.app_context():
        yield app


@pytest.mark.usefixtures("in_shop")
def test_method() -> None:
    """A task that is a method works through its object: called, enqueued, awaited and with other options."""
    shop = Stall("kim's")
    assert shop.greet("bo") == "kim's: bo."
    assert shop.greet.enqueue("bo", mark="!").result(BOUND) == "kim's: bo!"
    assert shop.greet.using(timeout=60).enqueue("bo").result(BOUND) == "kim's: bo."
    assert shop.wave.enqueue("bo").result(BOUND) == "kim's waves to bo"
    assert asyncio.run(shop.wave("bo")) == "kim's waves to bo"
    assert Shop.greet.enqueue(shop, "bo").result(BOUND) == "kim's: bo."
    assert Shop.background.enqueue(shop.greet, "bo").result(BOUND) == "kim's: bo."
    assert shop.greet.name == "tests.test_task.Shop.greet"
    with pytest.raises(TypeError, match=r"greet\(\) missing 1 required positional argument: 'who'"):
        shop.greet.enqueue()  # type: ignore[call-arg]
    with pytest.raises(AttributeError, match=r"greet\.enqueue\(\.\.\.\)"):
        shop.greet.delay  # noqa: B018


@pytest.mark.usefixtures("in_shop")
def test_static_and_class_methods() -> None:
    """Static methods work in both orders of the decorators, a class method below @background.task."""
    for shop in (Stall("kim's"), Stall):
        assert shop.plain.enqueue("bo").result(BOUND) == "plain bo"  # type: ignore[attr-defined]
        assert shop.plain_below.enqueue("bo").result(BOUND) == "below bo"  # type: ignore[attr-defined]
        assert shop.plain_below("bo") == "below bo"
        assert shop.made("bo") == "Stall made bo"  # type: ignore[call-arg]
        assert shop.made.enqueue("bo").result(BOUND) == "Stall made bo"  # type: ignore[attr-defined,call-arg]
        assert shop.length.enqueue([1, 2]).result(BOUND) == 2  # type: ignore[attr-defined,call-arg]


@pytest.mark.usefixtures("in_shop")
def test_durable_method() -> None:
    """A method whose object would have to be kept is refused by name; called it works."""
    shop = Shop("kim's")
    assert shop.keep("bo") == "kim's keeps bo"
    said = r"Shop\.keep is a durable method, and its object \(Shop\) cannot be stored: make it a function"
    with pytest.raises(UnsupportedError, match=said):
        shop.keep.enqueue("bo")
    with pytest.raises(UnsupportedError, match=r"Shop\.greet is a durable method"):
        shop.greet.using(durable=True).enqueue("bo")


@pytest.mark.usefixtures("in_shop")
def test_live_object_of_a_method() -> None:
    """A method's object is checked like an argument."""
    session = type("Cart", (dict, SessionMixin), {"pay": Shop.background.task(lambda self: None)})()
    with pytest.raises(ArgumentError, match="self is the session"):
        session.pay.enqueue()


def test_task_of_a_task(background: Background) -> None:
    """A task cannot be decorated again; the error says what gives it other options."""

    @background.task
    def send() -> None: ...

    with pytest.raises(ConfigurationError, match=r"^send is already a task: send\.using\(timeout=5\) is the"):
        background.task(timeout=5)(send)
    with pytest.raises(ConfigurationError, match=r"^send is already a task: decorate it once"):
        background.task(send)
    with pytest.raises(ConfigurationError, match=r"^send is a task of another Background: .*send\.func"):
        Background().task(send)
    with pytest.raises(ConfigurationError, match=r"is already a task: give its options to one decorator"):
        background.periodic(seconds=1, timeout=5)(send)
    assert send.options.timeout is None


def generate() -> Any:
    """A generator function."""
    yield 1


async def generate_async() -> Any:
    """An async generator function."""
    yield 1


class Generating:
    """A callable object whose call is a generator."""

    def __call__(self) -> Any:
        yield 1


@pytest.mark.parametrize(
    ("func", "said"),
    [
        (generate, r"generate is a generator function, .* `for _ in generate\(\.\.\.\): pass`"),
        (generate_async, r"is an async generator function, .* `async for _ in generate_async"),
        (functools.partial(generate), "is a generator function"),
        (Generating(), r"Generating is a generator function"),
        (staticmethod(generate), "is a generator function"),
    ],
    ids=["def", "async def", "partial", "object", "static"],
)
def test_generator_functions(background: Background, func: Any, said: str) -> None:
    """A call of a generator function would run none of its lines: refused, with the cure."""
    with pytest.raises(ConfigurationError, match=said):
        background.task(func)
    with pytest.raises(ConfigurationError, match=said):
        background.enqueue(func)


def test_class(background: Background) -> None:
    """A class cannot be decorated, for it would be one no more; background.enqueue takes it."""
    with pytest.raises(ConfigurationError, match=r"Shop is a class, .* background\.enqueue\(Shop, \.\.\.\)"):
        background.task(Shop)
    assert background.enqueue(Shop, "kim's").result(BOUND).name == "kim's"
