"""{{name}}: keeps tickets."""

from typing import Any, TypedDict

from waypost_sdk import Call, CallError, handler, log, state


class Ticket(TypedDict):
    id: int
    title: str


Handler = handler()


@Handler.serves("ticket:add")
def add(call: Call, message: Any) -> Ticket:
    ticket = checked(message)
    log.info(f"{call.project} adds ticket {ticket['id']}")
    state.set(f"ticket/{ticket['id']}", ticket)
    return ticket


@Handler.serves("ticket:find")
def find(_: Call, message: Any) -> Ticket:
    id = id_of(message)
    ticket: Ticket | None = state.get(f"ticket/{id}")
    if ticket is None:
        raise CallError.not_found(f"there is no ticket {id}; see `ticket:add`")
    return ticket


@Handler.serves("ticket:list")
def every(call: Call, _: Any) -> dict[str, int]:
    keys = state.keys("ticket/")
    for key in keys:
        call.emit(state.get(key))
    return {"count": len(keys)}


def id_of(message: Any) -> int:
    """Which ticket a message means."""
    match message:
        case {"id": int(id)} if not isinstance(id, bool):
            return id
    raise CallError.invalid("`id` is missing; it is a whole number")


def checked(message: Any) -> Ticket:
    """A message as a ticket."""
    id = id_of(message)
    match message:
        case {"title": str(title)} if title.strip():
            return {"id": id, "title": title.strip()}
    raise CallError.invalid("`title` is missing; it is a text")
