"""Folders of the hub for environments inside it. For providers; needs the grant ``workspace``.

The hub owns the copying, comparing and merging: a provider only decides that there is a folder, and when it goes.
"""

from . import _hub

_folders = _hub.bindings("imports.folders", "workspace = true")


def create(environment: str) -> str:
    """Makes the folder of an environment with a copy of the project, and answers its name.

    Called again for the same environment, it answers the same folder and changes nothing.
    """
    folder: str = _hub.asked(_folders.create, environment)
    return folder


def exists(folder: str) -> bool:
    """Whether the folder is still there."""
    there: bool = _hub.asked(_folders.exists, folder)
    return there


def remove(folder: str) -> None:
    """Removes the folder and all in it; removing what is not there succeeds."""
    _hub.asked(_folders.remove, folder)
