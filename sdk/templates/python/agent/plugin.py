"""{{name}}: asks a model, and answers what it says."""

from typing import Any

from waypost_sdk import CallError, Task, agent, gateway, log


def run(task: Task) -> str:
    reply = gateway.call("inference", {"messages": conversation(task)})
    log.info(f"run {task.run} has its answer")
    return answer(reply)


Agent = agent(run)


def conversation(task: Task) -> list[dict[str, str]]:
    """What a model is asked."""
    messages = [{"role": "system", "content": task.settings.get("instructions", "Answer in one short paragraph.")}]
    for turn in task.history:
        messages.append({"role": "user", "content": turn.prompt})
        messages.append({"role": "assistant", "content": turn.answer})
    messages.append({"role": "user", "content": task.prompt})
    return messages


def answer(reply: Any) -> str:
    """What a model answered."""
    match reply:
        case {"content": str(content)} if content.strip():
            return content.strip()
    raise CallError.other("the model answered nothing; ask again, or ask another model")
