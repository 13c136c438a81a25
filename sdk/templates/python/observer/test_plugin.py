import unittest

from plugin import counted
from waypost_sdk import CallError, Notification


class Counted(unittest.TestCase):
    def test_each_call_is_counted_and_each_failure(self) -> None:
        first = counted(None, Notification("fsEvent", "readFile", reply={}))
        self.assertEqual(first, {"calls": 1, "failed": 0, "missed": 0})
        second = counted(first, Notification("fsEvent", error=CallError.timeout("too slow"), lagged=3))
        self.assertEqual(second, {"calls": 2, "failed": 1, "missed": 3})
