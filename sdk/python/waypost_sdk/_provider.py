"""The role of a provider: a component that makes the places where agent loops run."""

import json
from enum import Enum
from typing import Any, Protocol

from . import _hub
from ._error import CallError
from ._handler import Meta


class Wanted:
    """What the hub wants."""

    __slots__ = ("environment", "project", "settings", "meta")

    environment: str
    """The environment's id; unique for ever."""
    project: str
    """The project that it is for."""
    settings: Any
    """The provider's own settings; an empty ``dict`` when there are none."""
    meta: Meta
    """Facts beside it."""

    def __init__(self, environment: str, project: str = "", settings: Any = None, meta: Meta | None = None) -> None:
        self.environment = environment
        self.project = project
        self.settings = {} if settings is None else settings
        self.meta = meta or []


class Place:
    """A place that exists: its resource id, and how its loop is driven."""

    __slots__ = ("resource_id", "folder", "meta")

    resource_id: str
    """By which the provider finds it again, after a restart too."""
    folder: str
    """The folder, made by ``workspace.create``, in which an agent component inside the hub works."""
    meta: Meta
    """Facts beside it."""

    def __init__(self, resource_id: str, folder: str, meta: Meta | None = None) -> None:
        self.resource_id = resource_id
        self.folder = folder
        self.meta = meta or []

    @classmethod
    def component(cls, folder: str) -> "Place":
        """A place whose loop is an agent component in this folder. The folder's name is the resource id."""
        return cls(folder, folder)


class Health(Enum):
    """What a look at a place shows."""

    READY = "ready"
    """It is there and can be used."""
    DISCONNECTED = "disconnected"
    """It is there and cannot be used now; ``reconnect`` may help."""
    GONE = "gone"
    """It is gone."""


class Operations(Protocol):
    """What makes the places. It keeps nothing but the resource id and its state."""

    def create(self, wanted: Wanted) -> Place:
        """Makes the place. Called again for the same environment, it must answer the same place."""

    def reconnect(self, environment: str, resource_id: str) -> Place:
        """Finds the place again after the hub or the place restarted; raises ``not-found`` when it is gone."""

    def inspect(self, resource_id: str) -> Health:
        """Looks at the place without changing it."""

    def teardown(self, resource_id: str) -> None:
        """Removes the place; removing what is already gone must succeed."""


class provider:
    """Makes a component that is a provider. The module ``plugin`` holds it under the name ``Provider``::

        Provider = provider(Folders())
    """

    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    def __call__(self) -> "provider":
        return self

    def create(self, wanted: Any) -> Any:
        """What the hub calls."""
        settings = json.loads(wanted.settings)
        try:
            return _place(self._operations.create(Wanted(wanted.environment, wanted.project, settings, wanted.meta)))
        except CallError as error:
            raise _hub.raised(error) from None

    def reconnect(self, environment: str, resource_id: str) -> Any:
        """What the hub calls."""
        try:
            return _place(self._operations.reconnect(environment, resource_id))
        except CallError as error:
            raise _hub.raised(error) from None

    def inspect(self, resource_id: str) -> Any:
        """What the hub calls."""
        try:
            health = self._operations.inspect(resource_id)
        except CallError as error:
            raise _hub.raised(error) from None
        return _hub.bindings("exports.provider").Health[health.name]

    def teardown(self, resource_id: str) -> None:
        """What the hub calls."""
        try:
            self._operations.teardown(resource_id)
        except CallError as error:
            raise _hub.raised(error) from None


def _place(place: Place) -> Any:
    wit = _hub.bindings("exports.provider")
    return wit.Place(place.resource_id, wit.Runtime_Component(place.folder), place.meta)
