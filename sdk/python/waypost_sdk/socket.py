"""Unix sockets of the operator's. Needs the grant ``socket``, a list of sockets by name; not for agents.

A manifest names the sockets, as in ``socket = [{ name = "docker" }]``; the operator says where they are.
"""

from collections.abc import Iterator

from . import _hub

_sockets = _hub.bindings("imports.sockets", 'socket = [{ name = "<socket>" }]')


def open(socket: str, *, timeout_ms: int | None = None) -> "Connection":
    """Connects to the socket of this name: ``with open("docker") as connection: …``.

    The time limit is for all of the connection; the hub takes the smaller of it and what is left to the plugin itself.
    """
    return Connection(_hub.asked(_sockets.Connection.connect, socket, timeout_ms))


class Connection(_hub.Held):
    """A connection, and what comes over it, in pieces of at most 64 KiB, until the other side closes it.

    Used with ``with``, it is closed behind it.
    """

    def send(self, content: bytes | str) -> None:
        """Sends all of this, waiting for the other side to take it; a text as UTF-8."""
        _hub.asked(self._inner.send, content.encode() if isinstance(content, str) else content)

    def finish(self) -> None:
        """Says that nothing more will be sent."""
        _hub.asked(self._inner.finish)

    def __iter__(self) -> Iterator[bytes]:
        while (piece := _hub.asked(self._inner.next)) is not None:
            yield piece

    def read(self) -> bytes:
        """All that comes until the other side closes the connection."""
        return b"".join(self)

    def text(self) -> str:
        """The same as text; raises ``invalid`` when it is not UTF-8."""
        return _hub.text("what came over the socket", self.read())
