import unittest

from plugin import answer, conversation
from waypost_sdk import CallError, Task, Turn


class Conversation(unittest.TestCase):
    def test_a_model_is_told_what_was_said_before(self) -> None:
        task = Task("And now?", history=[Turn("Hello", "Good day.")], settings={"instructions": "Be brief."})
        self.assertEqual(
            [f"{message['role']}: {message['content']}" for message in conversation(task)],
            ["system: Be brief.", "user: Hello", "assistant: Good day.", "user: And now?"],
        )

    def test_an_answer_without_words_is_an_error(self) -> None:
        self.assertEqual(answer({"content": " Yes.\n"}), "Yes.")
        with self.assertRaises(CallError):
            answer({"content": None})
