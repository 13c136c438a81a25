"""What the trials ask of a handler beside what its template serves: every error, calls of its own, and what goes wrong."""

import random
import time
from typing import Any

from plugin import Handler
from waypost_sdk import Call, CallError, files, gateway, http, process, socket, state


@Handler.serves("trial:fail")
def fail(_: Call, message: Any) -> None:
    raise getattr(CallError, message["kind"].replace("-", "_"))(message["text"])


@Handler.serves("trial:call")
def make(_: Call, message: Any) -> Any:
    try:
        reply = gateway.call(message["name"], message["message"], timeout_ms=20_000, meta=[("why", "a trial")])
    except CallError as error:
        return {"error": str(error), "kind": error.kind, "text": error.message}
    return {"reply": reply}


@Handler.serves("trial:stream")
def stream(call: Call, message: Any) -> Any:
    with gateway.start("chunks", message) as running:
        for chunk in running.chunks():
            call.emit({"passed": chunk["number"]})
        return running.finish()


@Handler.serves("trial:cancel")
def cancel(_: Call, message: Any) -> Any:
    with gateway.start("sleeper", None):
        pass
    return gateway.call("confirmationRequest", {"message": "Is it gone?"})


@Handler.serves("trial:facts")
def facts(call: Call, _: Any) -> Any:
    return {
        "facts": {"name": call.name, "action": call.action, "project": call.project, "run": call.run},
        "unique": call.id,
        "timeLeft": call.time_left_ms > 0,
        "random": random.random(),
        "now": int(time.time() * 1000),
    }


@Handler.serves("trial:state")
def keep(_: Call, value: Any) -> Any:
    state.set("a", value)
    state.set("b/1", None)
    state.remove("nothing")
    kept = [state.get("a"), state.get("nothing") or "nothing", state.keys("b/"), "a" in state.keys()]
    state.remove("a")
    return [*kept, state.get("a") or "nothing"]


@Handler.serves("trial:print")
def say(_: Call, __: Any) -> None:
    print("printed", {"it": 1})


@Handler.serves("trial:crash")
def crash(_: Call, __: Any) -> None:
    raise ValueError("a fault of its author")


@Handler.serves("trial:loop")
def loop(_: Call, message: Any) -> Any:
    message["self"] = message
    return message


@Handler.serves("trial:ask")
def ask(call: Call, message: Any) -> Any:
    headers: list[tuple[str, str | http.Secret]] = [(name, value) for name, value in message.get("headers", [])]
    if "bearer" in message:
        headers += http.bearer(message["bearer"]).items()
    body = {"json": message["json"]} if "json" in message else {"body": message.get("text", "")}
    method, url = message.get("method", "GET"), message["url"]
    with http.send(method, url, headers=headers, timeout_ms=message.get("millis"), **body) as answer:
        match message.get("read", "text"):
            case "pieces":
                for piece in answer.pieces():
                    call.emit(piece.decode("latin-1"))
                return {"status": answer.status, "again": len(list(answer.pieces()))}
            case "first":
                return next(answer.pieces()).decode("latin-1")
            case read:
                kind, same = answer.header("Content-Type"), len(answer.headers) > 0
                return {"status": answer.status, "kind": kind, "same": same, "body": getattr(answer.success(), read)()}


@Handler.serves("trial:files")
def work(_: Call, message: Any) -> Any:
    folder, path = message["folder"], message["path"]
    files.write(folder, path, message["text"])
    info = files.stat(folder, path)
    assert info is not None and info.changed is not None
    seen = {
        "stat": [info.kind, info.size, info.changed.year > 2020],
        "none": files.stat(folder, "none"),
        "list": [[entry.name, entry.kind, entry.size] for entry in files.list(folder)],
        "text": files.read_text(folder, path),
        "bytes": len(files.read(folder, path)),
    }
    files.remove(folder, path)
    return seen


@Handler.serves("trial:pieces")
def pieces(_: Call, message: Any) -> list[int]:
    sizes = []
    for _time in range(message.get("times", 1)):
        with files.open(message["folder"], message["path"], message["offset"]) as reader:
            sizes = [len(piece) for piece in reader]
    return sizes


@Handler.serves("trial:read")
def read(_: Call, message: Any) -> str:
    return files.read_text(message["folder"], message["path"])


@Handler.serves("trial:run")
def run(call: Call, message: Any) -> Any:
    program, args = message["program"], message["args"]
    options = {"input": message.get("input", ""), "folder": message.get("folder"), "timeout_ms": message.get("millis")}
    for _ in range(1, message.get("times", 1)):
        process.run(program, args, **options)
    match message.get("read", "output"):
        case "pieces":
            with process.start(program, args, **options) as running:
                for piece in running:
                    call.emit([piece.source, piece.content.decode("latin-1")])
                ending = running.finish()
                return [ending.code, ending.signal]
        case "text":
            return process.run(program, args, **options).success().text()
        case _:
            output = process.run(program, args, **options)
            return [output.ending.code, output.ending.signal, len(output.stdout), len(output.stderr)]


@Handler.serves("trial:talk")
def talk(_: Call, message: Any) -> Any:
    for _time in range(1, message.get("times", 1)):
        with socket.open(message["name"]) as connection:
            connection.send(message["text"])
            connection.finish()
            connection.read()
    with socket.open(message["name"], timeout_ms=message.get("millis")) as connection:
        connection.send(message["text"])
        if "more" in message:
            first = len(next(iter(connection)))
            connection.send(message["more"])
            return [first, connection.text()]
        connection.finish()
        return connection.text()


@Handler.serves("trial:full")
def full(_: Call, __: Any) -> None:
    state.set("", 1)
