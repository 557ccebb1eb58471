"""Conversations about images (LLaVA, ShareGPT, OpenAI, TRL, ms-swift) and the RL rows of the same tools."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

from hart_lite.data.formats.base import Columns, ImageDir, first_of, id_of, images_of, read_records
from hart_lite.data.formats.turns import NEEDED, Turn, said_in, turns_of
from hart_lite.data.markers import count_markers, without_markers
from hart_lite.data.rows import Row, in_memory
from hart_lite.data.values import number_as_text
from hart_lite.errors import DataError, HartError
from hart_lite.grading import final_answer
from hart_lite.utils.text import shown

IMAGES = ("image", "images")
TURNS = ("conversations", "messages", "prompt")
QUESTIONS = ("question", "problem", "query")
PROMPTS = ("prompt", "instruction")  # the question where there is none of the above: else it repeats it among others
ANSWERS = ("answer", "solution", "response", "ground_truth", "reward_model", "completion", "output")
_BESIDE = ("choices", "options", "category", "input", "system")
KNOWN = tuple(dict.fromkeys(("id", *IMAGES, *TURNS, *QUESTIONS, *PROMPTS, *ANSWERS, *_BESIDE)))
_ONLY_BOXES = re.compile(r"(?:\"[^\"]*\"|'[^']*'|<[^<>]*>|[`\[\](){}\s,;:\d.-]|json|bbox(?:_2d)?|box|label)+")
_BOX = re.compile(r"[\[(]\s*-?\d[\d.]*\s*,\s*-?\d[\d.]*\s*[,)\]][\s(\[,]*-?\d[\d.]*\s*,\s*-?\d[\d.]*\s*[\])]")


def read_conversations(source: str, split: str | None, image_dir: ImageDir, columns: Columns = None) -> Iterator[Row]:
    """`conversations` of {from: human | gpt, value}, or `messages` (TRL: `prompt`) of {role: user | assistant,
    content}, where a content may be parts {type: text | image | image_url}; or a question (`question`, `problem`,
    `query`, `prompt`) with its answer (`answer`, `solution`, `response`, ..).

    Every question with the answer that follows it, or the one that stands beside the turns, is a row about all images
    of the record; what was said before it is not in the row. System turns are skipped. A marker of an image is dropped
    where it begins or ends a question, and is "image 2" within one. Of an answer in tags, what is in them counts.
    """
    ids: Counter[str] = Counter()
    for record in read_records(source, KNOWN, split, image_dir, columns):
        if record.problem:
            yield record
            continue
        try:
            rows = list(_rows(record))
        except HartError as error:
            yield replace(record, fields={}, problem=str(error))
            continue
        for row in rows:
            id = row.fields.get("id", "")
            ids[id] += 1
            repeated = not row.problem and ids[id] > 1  # public sets repeat their ids
            yield replace(row, fields={**row.fields, "id": f"{id}#{ids[id]}"}) if repeated else row


def _rows(record: Row) -> Iterator[Row]:
    fields = record.fields
    images = images_of(fields, *IMAGES) if first_of(fields, IMAGES) is not None else []
    said = next(
        (fields[name] for name in TURNS if fields.get(name) is not None and _is_turns(name, fields[name])), None
    )
    same = {name: fields[name] for name in ("choices", "category") if fields.get(name) is not None}
    if fields.get("options") is not None:
        same.setdefault("choices", fields["options"])
    if said is None:
        question = _one(fields, QUESTIONS) or first_of(fields, PROMPTS)
        if question is None:
            raise DataError(f"no turns; {NEEDED} are read, or one of {', '.join(QUESTIONS)} with its answer")
        if isinstance(question, str) and isinstance(fields.get("input"), str):
            question = f"{question}\n{fields['input']}".strip()
        pairs = [("", question, _beside(fields))]
        found: list[Row] = []
    else:
        turns = turns_of(said, images)
        pairs, found = _pairs(record, turns, _beside(fields))
    if not images:
        raise DataError("no image")
    if not pairs and not found:
        raise DataError("no question in its turns")
    images = in_memory(images, record.where, record.folder)
    for number, (place, question, answer) in enumerate(pairs, start=1):
        id = f"{id_of(record)}-{number}" if len(pairs) > 1 else id_of(record)
        row = replace(record, where=f"{record.where}{place}", fields={})
        try:
            ours = {"id": id, "images": images, "question": question, "answer": _final(answer)}
        except HartError as error:
            yield replace(row, problem=str(error))
            continue
        yield replace(row, fields=ours | same)
    yield from found


def _is_turns(name: str, value: Any) -> bool:
    """TRL has turns in `prompt`, other tools a text."""
    return name != "prompt" or isinstance(value, list)


def _one(fields: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    """The one of these fields that is there. Raises `DataError` for two that differ in what they come to."""
    given = {name: _bare(fields[name]) for name in names if fields.get(name) not in (None, "", [])}
    values = list(given.values())
    if any(value != values[0] for value in values):
        raise DataError(f"{' and '.join(given)} differ, and which one counts cannot be told; --column names it")
    return values[0] if values else None


def _bare(value: Any) -> Any:
    """A text without its thought, tags and markers."""
    return (final_answer(without_markers(value)) or value) if isinstance(value, str) else number_as_text(value)


def _beside(fields: Mapping[str, Any]) -> Any:
    """The answer that RL rows have beside their question."""
    graded = fields.get("reward_model")
    values = {name: fields.get(name) for name in ANSWERS}
    values["reward_model"] = graded.get("ground_truth") if isinstance(graded, dict) else graded
    answer = _one(values, ANSWERS)
    if isinstance(answer, list) and len(answer) == 1 and isinstance(answer[0], dict):
        _, answer = said_in(answer[0], 1, [])  # TRL: a completion of one turn
    return answer


def _pairs(record: Row, turns: list[Turn], beside: Any) -> tuple[list[tuple[str, str, Any]], list[Row]]:
    """(place, question, answer) of each question that is answered, and a row for each turn that is left over."""
    answered = [a.asks and not b.asks for a, b in pairwise(turns)] + [False]
    pairs: list[tuple[str, str, Any]] = []
    left: list[Row] = []
    markers = 0
    for i, turn in enumerate(turns):
        place = f" turn {turn.number}"
        question = without_markers(turn.text, markers)
        row = replace(record, where=f"{record.where}{place}", fields={})
        if turn.asks and beside is not None and i == len(turns) - 1 - answered[i]:
            pairs.append((place, question, beside))  # an answer that follows may be a sample, `solution` is the truth
        elif answered[i]:
            pairs.append((place, question, turns[i + 1].text))
        elif turn.asks:
            left.append(replace(row, problem="a question without an answer"))
        elif i == 0 or not answered[i - 1]:
            left.append(replace(row, problem="an answer without a question"))
        markers += count_markers(turn.text)
    return pairs, left


def _final(answer: Any) -> Any:
    """What a response gives as its answer. Raises `DataError` for boxes alone."""
    final = _bare(answer)
    if isinstance(final, str) and _BOX.search(final) and _ONLY_BOXES.fullmatch(final):
        raise DataError(f"answer: {shown(final)} holds boxes and no words; what is trained on is an answer in words")
    return final
