"""The role of a handler: a component that executes calls."""

import json
from collections.abc import Callable
from typing import Any, TypeVar

from . import _hub
from ._error import CallError

Meta = list[tuple[str, str]]
"""Facts beside a message. Ignore the names you do not know; those that start with ``waypost.`` are the hub's."""

_answer = _hub.bindings("imports.answer")


class Call:
    """The facts of the call that a handler works on. Its message comes beside it, parsed."""

    __slots__ = ("id", "kind", "action", "project", "run", "environment", "time_left_ms", "meta")

    id: str
    """Unique for ever, and the same when the hub repeats the call: an idempotency key."""
    kind: str
    """What is asked for."""
    action: str | None
    """The action of the kind; none for kinds without actions."""
    project: str
    """The project on whose behalf the call is made. The hub says so; no message can forge it."""
    run: str | None
    """The run that it belongs to; none for a call made by hand."""
    environment: str | None
    """The environment it acts in; none for the project itself."""
    time_left_ms: int
    """How many milliseconds were left when the call came in."""
    meta: Meta
    """Facts beside the message."""

    def __init__(
        self,
        kind: str,
        action: str | None = None,
        *,
        id: str = "",
        project: str = "",
        run: str | None = None,
        environment: str | None = None,
        time_left_ms: int = 0,
        meta: Meta | None = None,
    ) -> None:
        self.id = id
        self.kind = kind
        self.action = action
        self.project = project
        self.run = run
        self.environment = environment
        self.time_left_ms = time_left_ms
        self.meta = meta or []

    @property
    def name(self) -> str:
        """The kind and the action, written ``kind:action`` or ``kind``."""
        return _hub.named(self.kind, self.action)

    def emit(self, chunk: object) -> None:
        """Hands one piece of the answer to whoever asked, in order, waiting for room. The reply is still returned.

        Raises ``cancelled`` when nobody reads any more: let it through.
        """
        _hub.asked(_answer.emit, _hub.written(f"a chunk of {self.name}", chunk))

    def _covered_by(self, pattern: str) -> bool:
        kind, colon, action = pattern.partition(":")
        if not colon:
            return kind in ("*", self.kind)
        return kind == self.kind and action in ("*", self.action or "")


Answer = Callable[[Call, Any], object]
"""Answers one call: gets its message parsed, and returns what can be written as JSON."""

_F = TypeVar("_F", bound=Answer)


class handler:
    """Makes a component that executes calls. The module ``plugin`` holds it under the name ``Handler``::

        Handler = handler()

        @Handler.serves("ticket:find")
        def find(call: Call, message: Any) -> Any: ...
    """

    def __init__(self) -> None:
        self._table: list[tuple[str, Answer]] = []

    def serves(self, *patterns: str) -> Callable[[_F], _F]:
        """Gives calls to a function, by patterns as a manifest's ``serves`` has them.

        The first one that covers a call decides; a call that none covers is ``not-found``.
        """

        def keep(function: _F) -> _F:
            self._table.extend((pattern, function) for pattern in patterns)
            return function

        return keep

    def __call__(self) -> "handler":
        return self

    def handle(self, incoming: Any) -> Any:
        """What the hub calls."""
        call = Call(
            incoming.kind,
            incoming.action,
            id=incoming.id,
            project=incoming.project,
            run=incoming.run,
            environment=incoming.environment,
            time_left_ms=incoming.time_left_ms,
            meta=incoming.meta,
        )
        try:
            reply = _hub.written(f"the reply of {call.name}", self._find(call)(call, json.loads(incoming.message)))
        except CallError as error:
            raise _hub.raised(error) from None
        return _hub.bindings("imports.types").Reply(reply, [])

    def _find(self, call: Call) -> Answer:
        for pattern, function in self._table:
            if call._covered_by(pattern):
                return function
        served = ", ".join(pattern for pattern, _ in self._table)
        raise CallError.not_found(f"this plugin does not serve {call.name}, only {served}; fix the route")
