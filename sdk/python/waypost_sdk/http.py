"""Requests to servers. Needs the grant ``http``, a list of the servers that may be asked; not for agents.

Redirects are not followed: a 302 is an answer like any other. What fails raises a ``CallError``: ``denied`` for a server that
is not granted, ``unavailable`` when nothing was done, ``indeterminate`` when what was sent may have had an effect.
"""

import json as _json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from . import _hub
from ._error import CallError
from ._handler import Meta

_client = _hub.bindings("imports.client", 'http = ["<https://host it asks>"]')


@dataclass(frozen=True)
class Secret:
    """A secret of the operator's by its name, to stand in a header, with what stands before it: ``Secret("github", "token ")``.

    The plugin never has its text. Needs the grant ``secrets``.
    """

    name: str
    prefix: str = ""


Headers = Mapping[str, str | Secret] | Sequence[tuple[str, str | Secret]]
"""Headers by name, or pairs where a name stands more than once or the order counts."""


def bearer(name: str) -> dict[str, str | Secret]:
    """The header ``authorization: Bearer`` with a secret."""
    return {"authorization": Secret(name, "Bearer ")}


def send(
    method: str,
    url: str,
    *,
    headers: Headers = (),
    body: bytes | str = b"",
    json: object = ...,
    timeout_ms: int | None = None,
    meta: Meta | None = None,
) -> "Response":
    """Sends a request, the method in capitals, and waits for the head of the answer, whatever its status.

    ``json`` is the body as JSON, with the header that says so; it stands instead of ``body``. The hub takes the smaller of the
    time limit, which counts for the answer's body too, and what is left to the plugin itself.
    """
    pairs = list(headers.items() if isinstance(headers, Mapping) else headers)
    if json is not ...:
        pairs.append(("content-type", "application/json"))
        body = _hub.written(f"the body for {url}", json)
    content = body.encode() if isinstance(body, str) else body
    all = [_client.Header(name, _value(of)) for name, of in pairs]
    return Response(_hub.asked(_client.send, _client.Request(method, url, all, content, timeout_ms, meta or [])))


def get(url: str, *, headers: Headers = (), timeout_ms: int | None = None) -> "Response":
    """Sends a ``GET``."""
    return send("GET", url, headers=headers, timeout_ms=timeout_ms)


def post(
    url: str,
    *,
    headers: Headers = (),
    body: bytes | str = b"",
    json: object = ...,
    timeout_ms: int | None = None,
) -> "Response":
    """Sends a ``POST``."""
    return send("POST", url, headers=headers, body=body, json=json, timeout_ms=timeout_ms)


class Response(_hub.Held):
    """An answer. Its body is read once: in pieces, or as a whole. Used with ``with``, the connection is closed behind it."""

    def __init__(self, inner: Any) -> None:
        super().__init__(inner.body)
        self.status: int = inner.status
        """The status."""
        self.headers: list[tuple[str, str]] = inner.headers
        """All headers, names in lower case."""

    def header(self, name: str) -> str | None:
        """The first header of this name."""
        return next((value for of, value in self.headers if of == name.lower()), None)

    def success(self) -> Self:
        """The same answer; raises ``unavailable``, or ``denied`` for 401 and 403, when its status is no success."""
        if not 200 <= self.status <= 299:
            kind = "denied" if self.status in (401, 403) else "unavailable"
            raise CallError(kind, f"the server answered {self.status}")
        return self

    def pieces(self) -> Iterator[bytes]:
        """The body in pieces of at most 64 KiB, as they come."""
        while (piece := _hub.asked(self._inner.next)) is not None:
            yield piece

    def read(self) -> bytes:
        """The whole body."""
        return b"".join(self.pieces())

    def text(self) -> str:
        """The whole body as text; raises ``invalid`` when it is not UTF-8."""
        return _hub.text("the answer", self.read())

    def json(self) -> Any:
        """The whole body, parsed; raises ``invalid`` when it is no JSON."""
        text = self.text()
        try:
            return _json.loads(text)
        except ValueError as error:
            raise CallError.invalid(f"the answer is no JSON: {error}") from None


def _value(of: str | Secret) -> Any:
    if isinstance(of, Secret):
        return _client.Value_Secret(_client.Secret(of.prefix, of.name))
    return _client.Value_Text(of)
