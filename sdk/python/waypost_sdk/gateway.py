"""Capability calls that a plugin makes itself. Needs the grant ``gateway``, a list of the calls that may be made.

A call made here takes the hub's one path: rights, routes, log. It may do what the plugin was granted and what the
plugin's own caller may do, whichever is less, and it is cancelled together with the call that the plugin works on.
"""

import json
from collections.abc import Iterator
from typing import Any

from . import _hub
from ._handler import Meta

_calls = _hub.bindings("imports.calls", 'gateway = ["<kind:action it calls>"]')
_types = _hub.bindings("imports.types")


def call(name: str, message: object = {}, *, timeout_ms: int | None = None, meta: Meta | None = None) -> Any:
    """Makes a call, as in ``call("fsEvent:readFile", {"path": "a.txt"})``, and waits for its reply.

    The hub takes the smallest of this time limit, the route's, and what is left to the plugin itself.
    """
    return json.loads(_hub.asked(_calls.call, _request(name, message, timeout_ms, meta)).message)


def start(name: str, message: object = {}, *, timeout_ms: int | None = None, meta: Meta | None = None) -> "Running":
    """Starts a call, to read its chunks as they come."""
    return Running(_hub.asked(_calls.Running.start, _request(name, message, timeout_ms, meta)))


class Running(_hub.Held):
    """A call under way. Used with ``with``, it is cancelled when the block ends before it does."""

    def chunks(self) -> Iterator[Any]:
        """The chunks as they come; it ends with the call. What is not read here is skipped by ``finish``."""
        while (chunk := self._inner.next()) is not None:
            yield json.loads(chunk)

    def finish(self) -> Any:
        """Waits for the end."""
        return json.loads(_hub.asked(self._inner.finish).message)


def _request(name: str, message: object, timeout_ms: int | None, meta: Meta | None) -> Any:
    kind, colon, action = name.partition(":")
    text = _hub.written(f"the message of {name}", message)
    return _types.Request(kind, action if colon else None, text, timeout_ms, meta or [])
