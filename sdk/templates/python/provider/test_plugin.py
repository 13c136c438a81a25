import unittest

from plugin import health, purpose
from waypost_sdk import CallError, Health


class Places(unittest.TestCase):
    def test_settings_may_be_left_out(self) -> None:
        self.assertEqual(purpose({}), "any work")
        self.assertEqual(purpose({"purpose": "a release"}), "a release")

    def test_settings_that_do_not_exist_are_invalid(self) -> None:
        with self.assertRaises(CallError) as raised:
            purpose({"color": "red"})
        self.assertEqual(str(raised.exception), "invalid: there is no setting `color`; there is `purpose`")

    def test_a_place_without_its_folder_is_gone(self) -> None:
        self.assertEqual((health(True), health(False)), (Health.READY, Health.GONE))
