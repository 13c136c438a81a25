"""The role of an observer: a component that is told of calls."""

import json
from collections.abc import Callable
from typing import Any

from . import _hub
from ._error import CallError
from ._handler import Meta


class Notification:
    """A call and its end, as an observer hears of it."""

    __slots__ = ("id", "kind", "action", "message", "reply", "error", "run", "lagged", "meta")

    id: str
    """The call's id."""
    kind: str
    """What was asked for."""
    action: str | None
    """The action of the kind; none for kinds without actions."""
    message: Any
    """The message, parsed."""
    reply: Any
    """The reply, parsed; none when the call failed."""
    error: CallError | None
    """How the call failed; none when it did not."""
    run: str | None
    """The run that it belonged to."""
    lagged: int
    """How many notifications were dropped before this one because the observer was too slow."""
    meta: Meta
    """Facts beside it."""

    def __init__(
        self,
        kind: str,
        action: str | None = None,
        *,
        id: str = "",
        message: Any = None,
        reply: Any = None,
        error: CallError | None = None,
        run: str | None = None,
        lagged: int = 0,
        meta: Meta | None = None,
    ) -> None:
        self.id = id
        self.kind = kind
        self.action = action
        self.message = message
        self.reply = reply
        self.error = error
        self.run = run
        self.lagged = lagged
        self.meta = meta or []

    @property
    def name(self) -> str:
        """The kind and the action, written ``kind:action`` or ``kind``."""
        return _hub.named(self.kind, self.action)


class observer:
    """Makes a component that is told of calls. The module ``plugin`` holds it under the name ``Observer``::

        Observer = observer(notice)

    What the function raises changes nothing and is logged.
    """

    def __init__(self, notice: Callable[[Notification], None]) -> None:
        self._notice = notice

    def __call__(self) -> "observer":
        return self

    def notice(self, notification: Any) -> None:
        """What the hub calls."""
        failed = _hub.call_error(notification.end)
        try:
            self._notice(
                Notification(
                    notification.kind,
                    notification.action,
                    id=notification.id,
                    message=json.loads(notification.message),
                    reply=None if failed else json.loads(notification.end.value),
                    error=failed,
                    run=notification.run,
                    lagged=notification.lagged,
                    meta=notification.meta,
                )
            )
        except CallError as error:
            raise _hub.raised(error) from None
