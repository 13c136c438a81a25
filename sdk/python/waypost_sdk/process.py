"""Programs of the operator's. Needs the grant ``process``, a list of programs by name; not for agents.

A manifest names the programs and the arguments that it uses, as in
``process = [{ name = "git", args = [["status"], ["log", "-n", "*"]] }]``; the operator says which file each is. There is no
shell, and no variable but ``HOME``, ``TMPDIR`` and ``LANG``.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from . import _hub
from ._error import CallError

_programs = _hub.bindings("imports.programs", 'process = [{ name = "<program>" }]')


@dataclass(frozen=True)
class Ending:
    """How a program ended: with an exit code, or by a signal."""

    code: int | None = None
    signal: str | None = None
    """As in ``SIGSEGV``."""


@dataclass(frozen=True)
class Piece:
    """A piece of what a program writes, at most 64 KiB."""

    source: Literal["stdout", "stderr"]
    content: bytes


@dataclass(frozen=True)
class Output:
    """What came of a program."""

    ending: Ending
    stdout: bytes
    stderr: bytes

    def success(self) -> Self:
        """The same; raises ``other``, with what it wrote to its standard error, when it did not end with the exit code 0."""
        if self.ending.code != 0:
            how = self.ending.signal or f"the exit code {self.ending.code}"
            said = self.stderr.decode(errors="replace").strip()
            raise CallError.other(f"the program ended with {how}: {said}")
        return self

    def text(self) -> str:
        """What it wrote to its standard output as text; raises ``invalid`` when it is not UTF-8."""
        return _hub.text("what the program wrote", self.stdout)


def run(
    program: str,
    args: Sequence[str] = (),
    *,
    input: bytes | str = b"",
    folder: str | None = None,
    timeout_ms: int | None = None,
) -> Output:
    """Runs a program of this name in the grant to its end, whatever that is. See ``start``."""
    with start(program, args, input=input, folder=folder, timeout_ms=timeout_ms) as running:
        written: dict[str, list[bytes]] = {"stdout": [], "stderr": []}
        for piece in running:
            written[piece.source].append(piece.content)
        return Output(running.finish(), b"".join(written["stdout"]), b"".join(written["stderr"]))


def start(
    program: str,
    args: Sequence[str] = (),
    *,
    input: bytes | str = b"",
    folder: str | None = None,
    timeout_ms: int | None = None,
) -> "Running":
    """Starts one, to be read while it runs.

    ``input`` is what it reads from its standard input, a text as UTF-8; ``folder`` is one of the grant ``files`` to run it in, and
    not an empty one of its own. The hub takes the smaller of the time limit and what is left to the plugin itself.
    """
    content = input.encode() if isinstance(input, str) else input
    return Running(_hub.asked(_programs.Running.start, _programs.Command(program, [*args], content, folder, timeout_ms)))


class Running(_hub.Held):
    """A program that runs, and what it writes as it comes. Used with ``with``, it is killed behind it."""

    def __iter__(self) -> Iterator[Piece]:
        while (piece := _hub.asked(self._inner.next)) is not None:
            yield Piece("stderr" if isinstance(piece, _programs.Piece_Stderr) else "stdout", piece.value)

    def finish(self) -> Ending:
        """Waits for the end, skipping pieces that were not read."""
        ending: Any = _hub.asked(self._inner.finish)
        if isinstance(ending, _programs.Ending_Signal):
            return Ending(signal=ending.value)
        return Ending(code=ending.value)
