"""What an application gives to be called: it is looked at before anything begins."""

from __future__ import annotations

import dis
import functools
import inspect
from types import CodeType, FunctionType, MethodType


def callable_name(function: object) -> str:
    """What a task is called that runs a function of the application's."""
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    return f"{getattr(function, '__module__', None) or type(function).__module__}.{name}"


def check_async(handler: object, name: str = "handler") -> None:
    """See that what a handler gives can be awaited.

    Args:
        handler: what was given.
        name: what it is called in the text of an error.

    Raises:
        TypeError: it cannot, and why.
    """
    if inspect.iscoroutine(handler):
        handler.close()
        raise TypeError(f"{name} must be the function itself, not what calling it gives")
    if not callable(handler):
        raise TypeError(f"{name} must be callable, not {type(handler).__name__}")
    function = _function(handler)
    if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
        raise TypeError(f"{name} must be an async def without yield: {callable_name(function)}")
    if function is not None and _returns_nothing(function.__code__):
        raise TypeError(f"{name} must be an async def: {callable_name(function)} is a def")


def check_handler(handler: object, argument: str) -> None:
    """As `check_async`, and that it takes one argument.

    Args:
        handler: what was given.
        argument: what it will be called with, in words.

    Raises:
        TypeError: it does not, and why.
    """
    check_async(handler)
    assert callable(handler)
    try:
        signature = inspect.signature(handler)
    except (TypeError, ValueError):
        return  # nobody knows what it takes
    try:
        signature.bind(None)
    except TypeError:
        takes = f"{callable_name(handler)}{signature}"
        advice = "; the path is ws.request.path" if "path" in signature.parameters else ""
        text = f"handler must take one argument, {argument}: it is {takes}{advice}"
        raise TypeError(text) from None


def _function(handler: object) -> FunctionType | None:
    """The Python function that is called in the end, as far as that can be told."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    if isinstance(handler, MethodType):
        handler = handler.__func__
    if not isinstance(handler, FunctionType | type):
        handler = getattr(type(handler), "__call__", None)  # noqa: B004 - the method is wanted
    return handler if isinstance(handler, FunctionType) else None


def _returns_nothing(code: CodeType) -> bool:
    """Whether a function returns None, and no awaitable, wherever it returns."""
    if code.co_flags & (inspect.CO_COROUTINE | inspect.CO_ITERABLE_COROUTINE):
        return False
    before = False
    returned = []
    for instruction in dis.get_instructions(code):
        if instruction.opname == "RETURN_CONST":  # pragma: no cover - of Python 3.12 and 3.13
            returned.append(instruction.argval is None)
        elif instruction.opname == "RETURN_VALUE":
            returned.append(before)
        before = instruction.opname == "LOAD_CONST" and instruction.argval is None
    return bool(returned) and all(returned)
