"""Calls of a tool as models write them."""

import json

import pytest
from damage import processor_seconds

from hart_lite.inference.protocols.tools import ToolError, read_arguments, read_corners

CALL = '{"name": "zoom", "arguments": {"bbox_2d": [10, 20, 30, 40]}}'
OTHER = CALL.replace("10", "15")
CORNERS = [10, 20, 30, 40]


def inside(written: str) -> str:
    return f"<tool_call>{written}</tool_call>"


def box(written: str) -> str:
    return inside(f'{{"name": "zoom", "arguments": {written}}}')


FORMS = {
    "plain": inside(CALL),
    "fenced": inside(f"\n```json\n{CALL}\n```\n"),
    "fenced without a language": inside(f"```\n{CALL}```"),
    "single quotes": inside("{'name': 'zoom', 'arguments': {'bbox_2d': [10, 20, 30, 40], 'label': \"it's\"}}"),
    "escaped single quotes": inside(
        "{'name': 'zoom', 'arguments': {'label': 'it\\'s \"B\"', 'bbox_2d': [10,20,30,40]}}"
    ),
    "words of Python": inside(
        "{'name': 'zoom', 'arguments': {'bbox_2d': [10, 20, 30, 40], 'label': None, 'all': True}}"
    ),
    "a comma at the end": inside('{"name": "zoom", "arguments": {"bbox_2d": [10, 20, 30, 40,],},}'),
    "indented": inside(json.dumps(json.loads(CALL), indent=4)),
    "a word before": inside(f"call: {CALL}"),
    "not closed": f"<tool_call>{CALL}",
    "spoken of in a thought": f"<think>I will use <tool_call> now</think>{inside(CALL)}",
    "spoken of and closed": f"<think>A {inside('call')} helps.</think>{inside(CALL)}",
    "nested": box('{"bbox_2d": [[10, 20, 30, 40]]}'),
    "two points": box('{"bbox_2d": [[10, 20], [30, 40]]}'),
    "quoted numbers": box('{"bbox_2d": ["10", "20", "30", "40"]}'),
    "a quoted list": box('{"bbox_2d": "[10, 20, 30, 40]"}'),
    "the name of the schema": box('{"bbox": [10, 20, 30, 40]}'),
}


@pytest.mark.parametrize("text", FORMS.values(), ids=FORMS.keys())
def test_every_form_of_a_call_is_read(text):
    assert read_corners(read_arguments(text, ("zoom",))) == CORNERS


@pytest.mark.parametrize("text", [inside(CALL) + inside(OTHER), inside(f"{CALL}\n{OTHER}"), inside(f"{CALL}, {OTHER}")])
def test_of_two_calls_the_first_or_the_last_counts(text):
    assert read_corners(read_arguments(text)) == CORNERS
    assert read_corners(read_arguments(text, last=True)) == [15, 20, 30, 40]


@pytest.mark.parametrize(
    "written", ["null", "true", "5", "[1, 2, 3]", '[1, 2, 3, "x"]', "[1, 2, 3, true]", "[[1, 2, 3, 4], [5, 6, 7, 8]]",
                "[NaN, 0, 1, 1]", "[1e400, 0, 1, 1]", "[1e8, 0, 1, 1]", "{}", '"x1"']
)  # fmt: skip
def test_what_is_no_box_is_an_error(written):
    with pytest.raises(ToolError, match="bbox_2d is"):
        read_corners(read_arguments(box(f'{{"bbox_2d": {written}}}')))


@pytest.mark.parametrize("form", FORMS)
def test_as_published_a_call_is_read_as_the_peers_code_does(form):
    def read(published):
        return read_corners(read_arguments(FORMS[form], published=published), published)

    json_reads = form in ("plain", "indented", "not closed")
    python_reads = json_reads or form in (
        "single quotes", "escaped single quotes", "words of Python", "a comma at the end"
    )  # fmt: skip
    for published, reads in (("json", json_reads), ("python", python_reads)):
        if reads:
            assert read(published) == CORNERS
        else:
            with pytest.raises(ToolError):
                read(published)


@pytest.mark.parametrize(
    "body",
    ["{" * 100_000, '{"a":' * 20_000, "'\\" * 50_000, "'" * 100_000, '"\\' * 50_000, ", " * 50_000, "{}" * 50_000],
)
def test_hostile_calls_are_read_in_bounded_time(body):
    for text in (inside(body), "<tool_call>{" * 9_000):
        with processor_seconds(1.0), pytest.raises(ToolError):
            read_arguments(text, last=True)
