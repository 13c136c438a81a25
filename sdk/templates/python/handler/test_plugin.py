import unittest

from plugin import checked
from waypost_sdk import CallError


class Checked(unittest.TestCase):
    def test_a_ticket_has_a_number_and_a_title(self) -> None:
        self.assertEqual(checked({"id": 7, "title": " Slow start ", "more": 1}), {"id": 7, "title": "Slow start"})

    def test_anything_else_is_invalid_and_the_error_says_what_is_missing(self) -> None:
        for message, error in [
            ({"title": "x"}, "invalid: `id` is missing; it is a whole number"),
            ({"id": 7, "title": " "}, "invalid: `title` is missing; it is a text"),
            (None, "invalid: `id` is missing; it is a whole number"),
        ]:
            with self.assertRaises(CallError) as raised:
                checked(message)
            self.assertEqual(str(raised.exception), error)
