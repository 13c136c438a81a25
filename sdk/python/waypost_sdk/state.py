"""What a plugin keeps between calls: values by key, durable, one store for each project. Needs the grant ``state``.

A value is whatever JSON can hold. All keys and values together are bounded.
"""

import json
from typing import Any

from . import _hub

_store = _hub.bindings("imports.store", "state = true")


def get(key: str) -> Any:
    """The value of a key; none when it was never set."""
    value = _hub.asked(_store.get, key)
    return None if value is None else json.loads(value)


def set(key: str, value: object) -> None:
    """Sets a value; it is on disk when this returns. Of calls that run at the same time the last one wins."""
    _hub.asked(_store.set, key, _hub.written(f"what is to be kept under `{key}`", value))


def remove(key: str) -> None:
    """Removes a value; removing what is not there succeeds."""
    _hub.asked(_store.remove, key)


def keys(prefix: str = "") -> list[str]:
    """The keys that start with a prefix, sorted, at most 1,000."""
    found: list[str] = _hub.asked(_store.keys, prefix)
    return found
