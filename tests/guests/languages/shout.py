"""A handler in Python: shouts what it is told, and counts the letters on the way."""

import json

from componentize_py_types import Err
from wit_world import exports
from wit_world.imports import answer, log
from wit_world.imports.log import Level
from wit_world.imports.types import CallError_Invalid, Reply


class Handler(exports.Handler):
    def handle(self, call):
        text = json.loads(call.message).get("text")
        if not isinstance(text, str):
            raise Err(CallError_Invalid("`text` is missing; it is a string"))
        log.log(Level.INFO, f"{call.project} shouts")
        answer.emit(json.dumps({"letters": len(text)}))
        return Reply(json.dumps({"text": text.upper(), "by": "Python"}), [])
