"""{{name}}: counts calls, and how many of them failed."""

from typing import TypedDict

from waypost_sdk import Notification, log, observer, state


class Count(TypedDict):
    calls: int
    failed: int
    missed: int


def notice(notification: Notification) -> None:
    count = counted(state.get(notification.name), notification)
    state.set(notification.name, count)
    log.info(f"{notification.name}: {count['calls']} calls, {count['failed']} failed")


Observer = observer(notice)


def counted(count: Count | None, notification: Notification) -> Count:
    """A count, one call later."""
    before = count or {"calls": 0, "failed": 0, "missed": 0}
    return {
        "calls": before["calls"] + 1,
        "failed": before["failed"] + (1 if notification.error else 0),
        "missed": before["missed"] + notification.lagged,
    }
