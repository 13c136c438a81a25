"""The role of an agent: a component that is a loop."""

import json
from collections.abc import Callable
from typing import Any

from . import _hub
from ._error import CallError
from ._handler import Meta


class Turn:
    """One earlier prompt of the thread and what came of it."""

    __slots__ = ("prompt", "answer")

    prompt: str
    """What the person wrote."""
    answer: str
    """What the agent answered."""

    def __init__(self, prompt: str, answer: str) -> None:
        self.prompt = prompt
        self.answer = answer


class Task:
    """What an agent is to do."""

    __slots__ = ("run", "thread", "prompt", "history", "max_steps", "max_tokens", "settings", "meta")

    run: str
    """The run's id."""
    thread: str
    """The thread's id."""
    prompt: str
    """What the person wrote."""
    history: list[Turn]
    """The thread so far, oldest first."""
    max_steps: int
    """How many inference calls it may make; the hub enforces it too."""
    max_tokens: int
    """How many tokens it may use, prompts and completions together; the hub enforces it too."""
    settings: Any
    """The agent's own settings; an empty ``dict`` when there are none."""
    meta: Meta
    """Facts beside it."""

    def __init__(
        self,
        prompt: str,
        *,
        run: str = "",
        thread: str = "",
        history: list[Turn] | None = None,
        max_steps: int = 0,
        max_tokens: int = 0,
        settings: Any = None,
        meta: Meta | None = None,
    ) -> None:
        self.run = run
        self.thread = thread
        self.prompt = prompt
        self.history = history or []
        self.max_steps = max_steps
        self.max_tokens = max_tokens
        self.settings = {} if settings is None else settings
        self.meta = meta or []


class Outcome:
    """What came of a task: the answer for the person, and facts beside it."""

    __slots__ = ("message", "meta")

    message: str
    """The answer for the person."""
    meta: Meta
    """Facts beside it."""

    def __init__(self, message: str, meta: Meta | None = None) -> None:
        self.message = message
        self.meta = meta or []


class agent:
    """Makes a component that is an agent. The module ``plugin`` holds it under the name ``Agent``::

        Agent = agent(run)

    After a crash of the hub it runs again from the start, and the calls that it already made are answered from the log.
    Given the same replies it must make the same calls: do not iterate over sets. Its clock comes from the run and is
    repeated too.
    """

    def __init__(self, run: Callable[[Task], Outcome | str]) -> None:
        self._run = run

    def __call__(self) -> "agent":
        return self

    def run(self, task: Any) -> Any:
        """What the hub calls."""
        asked = Task(
            task.prompt,
            run=task.run,
            thread=task.thread,
            history=[Turn(turn.prompt, turn.answer) for turn in task.history],
            max_steps=task.max_steps,
            max_tokens=task.max_tokens,
            settings=json.loads(task.settings),
            meta=task.meta,
        )
        try:
            outcome = self._run(asked)
        except CallError as error:
            raise _hub.raised(error) from None
        if isinstance(outcome, str):
            outcome = Outcome(outcome)
        return _hub.bindings("exports.agent").Outcome(outcome.message, outcome.meta)
