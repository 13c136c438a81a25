"""Files in folders of the operator's. Needs the grant ``files``, a list of folders by name; not for agents.

A manifest names the folders, as in ``files = [{ name = "cache", write = true }]``; the operator says where they are. A path is
relative to its folder.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from . import _hub
from ._error import CallError

_files = _hub.bindings("imports.files", 'files = [{ name = "<folder>" }]')

Kind = Literal["file", "folder", "link", "other"]
"""What something in a folder is."""


@dataclass(frozen=True)
class Info:
    """What is known of a file or a folder."""

    kind: Kind
    """What it is; a link counts as what it leads to."""
    size: int
    """Its size in bytes."""
    changed: datetime | None
    """When it was last changed; none where that is not known."""


@dataclass(frozen=True)
class Entry:
    """One entry of a folder."""

    name: str
    kind: Kind
    size: int
    """Its size in bytes."""


def stat(folder: str, path: str) -> Info | None:
    """What is at a path; none when nothing is. ``""`` is the folder itself."""
    try:
        info = _hub.asked(_files.stat, folder, path)
    except CallError as error:
        if error.kind == "not-found":
            return None
        raise
    changed = None if info.changed_ms is None else datetime.fromtimestamp(info.changed_ms / 1000, UTC)
    return Info(_kind(info.kind), info.size, changed)


def list(folder: str, path: str = "") -> "tuple[Entry, ...]":
    """The entries of a folder, sorted by name."""
    return tuple(Entry(of.name, _kind(of.kind), of.size) for of in _hub.asked(_files.list, folder, path))


def read(folder: str, path: str) -> bytes:
    """A whole file."""
    with open(folder, path) as reader:
        return b"".join(reader)


def read_text(folder: str, path: str) -> str:
    """A whole file as text; raises ``invalid`` when it is not UTF-8."""
    return _hub.text(f"`{path}`", read(folder, path))


def write(folder: str, path: str, content: bytes | str) -> None:
    """Writes a whole file, making the folders above it; a text as UTF-8. A reader sees the old content or the new."""
    _hub.asked(_files.write, folder, path, content.encode() if isinstance(content, str) else content)


def remove(folder: str, path: str) -> None:
    """Removes a file or a link; what a link leads to stays. Raises ``not-found`` when nothing is there."""
    _hub.asked(_files.remove, folder, path)


def open(folder: str, path: str, offset: int = 0) -> "Reader":
    """Opens a file, to be read from an offset on: ``with open("docs", "a.bin") as pieces: …``."""
    return Reader(_hub.asked(_files.Reader.open, folder, path, offset))


class Reader(_hub.Held):
    """A file that is open to be read, in pieces of at most 64 KiB. Used with ``with``, it is closed behind it."""

    def __iter__(self) -> Iterator[bytes]:
        while (piece := _hub.asked(self._inner.next)) is not None:
            yield piece


def _kind(of: Any) -> Kind:
    found: Kind = of.name.lower()
    return found
