"""The damage that tests draw: it finds readers that fail, and it changes what it is given."""

import json
import time

import pytest
from damage import DEPTHS, as_json, check_reader, damaged, one_value_changed, processor_seconds
from hypothesis import given

from hart_lite.errors import HartError

SAMPLE = bytes(range(1, 100))


def fails_unless_whole(data: bytes) -> None:
    if data != SAMPLE:
        raise IndexError("damaged")


def fails_on_a_number(data: bytes) -> None:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise HartError("not JSON") from None
    assert isinstance(value, dict) and not isinstance(value.get("a"), int)


def test_a_reader_that_raises_another_error_is_found():
    with pytest.raises(IndexError, match="damaged"):
        check_reader(fails_unless_whole, SAMPLE)


def test_a_value_of_another_type_is_found():
    """Bytes alone would seldom make a number of a text."""
    with pytest.raises(AssertionError) as error:
        check_reader(fails_on_a_number, *as_json({"a": "text", "b": [1, 2]}))
    assert error.value.__notes__ == ['given b\'{"a": true, "b": [1, 2]}\'']


def test_a_reader_that_refuses_its_sample_is_found():
    def refuse(data: bytes) -> None:
        raise HartError("refused")

    with pytest.raises(HartError, match="refused"):
        check_reader(refuse, SAMPLE)


def test_a_reader_that_does_not_end_is_broken_off_and_one_that_waits_is_not():
    with pytest.raises(AssertionError, match="seconds of the processor"), processor_seconds(0.05):
        while True:
            pass
    with processor_seconds(0.05):
        time.sleep(0.2)


def test_what_is_drawn_is_damaged_in_most_cases():
    changed = 0

    @given(damaged(SAMPLE))
    def note(data):
        nonlocal changed
        changed += data != SAMPLE

    note()
    assert changed > 50


def test_every_value_is_removed_and_replaced_and_nested():
    found = list(one_value_changed({"a": 1, "b": [2, {"c": 3}]}))
    assert b'{"b": [2, {"c": 3}]}' in found and b'{"a": 1, "b": [2, {}]}' in found  # removed
    assert b'{"a": 1, "b": [2, null]}' in found and b'{"a": NaN, "b": [2, {"c": 3}]}' in found  # replaced
    assert sum(data.count(b"[") >= max(DEPTHS) for data in found) == 5  # one for each value
