"""What the author of a Waypost plugin in Python imports.

A plugin is a WASM component that plays one role; the module ``plugin`` holds it under the role's name:

=========  =======================================  ============================
role       what it does                             name
=========  =======================================  ============================
handler    executes capability calls                ``Handler = handler()``
provider   makes the places where agent loops run   ``Provider = provider(…)``
agent      is such a loop                           ``Agent = agent(run)``
observer   is told of calls                         ``Observer = observer(notice)``
=========  =======================================  ============================

Every call starts from a fresh instance, so nothing in memory survives from one call to the next; what must survive goes
into ``state``. ``files``, ``gateway``, ``http``, ``process``, ``socket``, ``state`` and ``workspace`` are modules of their own, because
each needs a grant of the manifest: ``from waypost_sdk import state``.

Natively, as in a test, everything can be imported; what reaches the hub raises ``RuntimeError``. Keep the thinking in
functions of your own and test those.
"""

from . import log
from ._agent import Outcome, Task, Turn, agent
from ._error import CallError
from ._handler import Answer, Call, Meta, handler
from ._observer import Notification, observer
from ._provider import Health, Operations, Place, Wanted, provider

__all__ = [
    "Answer",
    "Call",
    "CallError",
    "Health",
    "Meta",
    "Notification",
    "Operations",
    "Outcome",
    "Place",
    "Task",
    "Turn",
    "Wanted",
    "agent",
    "handler",
    "log",
    "observer",
    "provider",
]
