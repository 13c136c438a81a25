"""Lines for the operator, in the plugin's log. Every plugin has it; what is printed goes there too."""

from . import _hub

_log = _hub.bindings("imports.log")


def debug(message: object) -> None:
    """Writes a line that matters only to who looks for a fault."""
    _log.log(_log.Level.DEBUG, str(message))


def info(message: object) -> None:
    """Writes a line that tells what was done."""
    _log.log(_log.Level.INFO, str(message))


def warn(message: object) -> None:
    """Writes a line about something odd that did no harm."""
    _log.log(_log.Level.WARN, str(message))


def error(message: object) -> None:
    """Writes a line about something that failed."""
    _log.log(_log.Level.ERROR, str(message))
