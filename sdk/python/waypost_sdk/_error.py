"""How a call fails."""

from typing import Self


class CallError(Exception):
    """How a call failed: raised by your function it is the call's end, and raised at you it is the end of one you made.

    The message is one sentence for people: the thing and the remedy. Branch on ``kind``, never on the message, and treat
    the set of kinds as open. Any other exception ends the call as ``trapped``, with its traceback in the plugin's log.
    """

    KINDS = (
        "not-found",
        "denied",
        "invalid",
        "limit",
        "timeout",
        "cancelled",
        "trapped",
        "unavailable",
        "indeterminate",
        "internal",
        "other",
    )

    def __init__(self, kind: str, message: str) -> None:
        if kind not in self.KINDS:
            raise ValueError(f"{kind!r} is no case of CallError; the cases are {', '.join(self.KINDS)}")
        super().__init__(kind, message)
        self.kind = kind
        self.message = message

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}"

    @classmethod
    def not_found(cls, message: str) -> Self:
        """The named thing does not exist."""
        return cls("not-found", message)

    @classmethod
    def denied(cls, message: str) -> Self:
        """Something said no."""
        return cls("denied", message)

    @classmethod
    def invalid(cls, message: str) -> Self:
        """The input has the wrong shape or value."""
        return cls("invalid", message)

    @classmethod
    def limit(cls, message: str) -> Self:
        """A named limit was reached; the message names it."""
        return cls("limit", message)

    @classmethod
    def timeout(cls, message: str) -> Self:
        """The time limit passed, and the work has stopped."""
        return cls("timeout", message)

    @classmethod
    def cancelled(cls, message: str) -> Self:
        """The caller gave up, and the work has stopped."""
        return cls("cancelled", message)

    @classmethod
    def trapped(cls, message: str) -> Self:
        """A plugin's code trapped. The hub says this; a plugin need not."""
        return cls("trapped", message)

    @classmethod
    def unavailable(cls, message: str) -> Self:
        """Nothing was done; the hub then asks the route's next target."""
        return cls("unavailable", message)

    @classmethod
    def indeterminate(cls, message: str) -> Self:
        """The work may or may not have had its effect."""
        return cls("indeterminate", message)

    @classmethod
    def internal(cls, message: str) -> Self:
        """A defect of the hub."""
        return cls("internal", message)

    @classmethod
    def other(cls, message: str) -> Self:
        """Anything else."""
        return cls("other", message)
