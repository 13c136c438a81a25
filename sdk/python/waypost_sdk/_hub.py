"""What lies between this package and the bindings that componentize-py makes of the contract.

The bindings exist inside a component alone. Natively, as in a test, everything can be imported, and what reaches the hub
says that there is none.
"""

import importlib
import json
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypeVar

from ._error import CallError

T = TypeVar("T")

INSIDE = sys.platform == "wasi"
"""Whether this runs in a component."""


class _Nowhere:
    def __init__(self, module: str) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(
            f"waypost_sdk reaches the hub here, and there is none outside a component ({self._module}.{name}); "
            "test functions that do not reach it"
        )


class Held:
    """Something that the hub holds open for this plugin, until the block of a ``with`` ends."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __enter__(self) -> Self:
        self._inner.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._inner.__exit__(kind, error, traceback)


def bindings(module: str, grant: str | None = None) -> Any:
    """The bindings of an interface that this component imports."""
    if not INSIDE:
        return _Nowhere(module)
    try:
        return importlib.import_module(f"wit_world.{module}")
    except ImportError:
        raise ImportError(f"this needs `{grant}` under [grants] in manifest.toml") from None


def asked(ask: Callable[..., T], *arguments: Any) -> T:
    """Asks the hub. What it answers as an error is raised as a CallError."""
    try:
        return ask(*arguments)
    except Exception as error:
        failed = call_error(error)
        if failed is None:
            raise
        raise failed from None


def call_error(error: Any) -> CallError | None:
    """The error of the contract as one of this package."""
    case = getattr(error, "value", None)
    name = type(case).__name__
    for kind in CallError.KINDS:
        if name == _case(kind):
            return CallError(kind, getattr(case, "value"))
    return None


def raised(error: CallError) -> Exception:
    """An error of this package as the contract's, to be raised into the hub."""
    case = getattr(bindings("imports.types"), _case(error.kind))
    failed: Exception = importlib.import_module("componentize_py_types").Err(case(error.message))
    return failed


def written(what: str, value: object) -> str:
    """A value as JSON."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise CallError.other(f"{what} cannot be written as JSON: {error}") from None


def text(what: str, content: bytes) -> str:
    """UTF-8 as a text."""
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise CallError.invalid(f"{what} is not UTF-8 text, from byte {error.start} on") from None


def named(kind: str, action: str | None) -> str:
    """A kind and an action, written ``kind:action`` or ``kind``."""
    return kind if action is None else f"{kind}:{action}"


def _case(kind: str) -> str:
    return "CallError_" + "".join(word.capitalize() for word in kind.split("-"))
