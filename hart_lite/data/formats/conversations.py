"""LLaVA and ShareGPT: conversations about images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from hart_lite.data.formats.base import ImageDir, id_of, images_of, read_records
from hart_lite.data.rows import Row
from hart_lite.errors import DataError, HartError
from hart_lite.utils.text import shown

ASKING, ANSWERING, SILENT = ("human", "user"), ("gpt", "assistant"), ("system",)
MARKER = "<image>"


@dataclass(frozen=True)
class Turn:
    number: int  # from 1, among all turns of the conversation
    asks: bool
    text: str


def read_conversations(source: str, split: str | None, image_dir: ImageDir) -> Iterator[Row]:
    """`conversations` of {from: human | gpt, value}, or `messages` of {role: user | assistant, content}.

    Every question with the answer that follows it is a row about all images of the record; what was said before it is
    not in the row. System turns are skipped. The marker of an image is dropped where it begins or ends a question, and
    is "image 2" within one.
    """
    ids: Counter[str] = Counter()
    for record in read_records(source, ("id", "image", "images", "conversations", "messages"), split, image_dir):
        if record.problem:
            yield record
            continue
        try:
            images = images_of(record.fields, "image", "images")
            turns = _turns(record.fields, len(images))
        except HartError as error:
            yield replace(record, problem=str(error))
            continue
        for row in _rows(record, images, turns):
            id = row.fields.get("id", "")
            ids[id] += 1
            repeated = not row.problem and ids[id] > 1  # public sets repeat their ids
            yield replace(row, fields={**row.fields, "id": f"{id}#{ids[id]}"}) if repeated else row


def _turns(fields: Mapping[str, Any], images: int) -> list[Turn]:
    """The turns but for system ones. Raises `DataError` for turns that cannot be read, and for images that are not the
    ones spoken of."""
    entries, speaker, text = fields.get("conversations"), "from", "value"
    if entries is None:
        entries, speaker, text = fields.get("messages"), "role", "content"
    if not isinstance(entries, list) or not entries:
        raise DataError("no turns; `conversations` of {from, value} or `messages` of {role, content} are read")
    turns, markers = [], 0
    for number, entry in enumerate(entries, start=1):
        values = (entry.get(speaker), entry.get(text)) if isinstance(entry, dict) else (None, None)
        if not all(isinstance(value, str) for value in values):
            raise DataError(f"turn {number}: {shown(entry)} given; texts in `{speaker}` and `{text}` are needed")
        if values[0] not in (*ASKING, *ANSWERING, *SILENT):
            raise DataError(f"turn {number} is by {shown(values[0])}; {', '.join((*ASKING, *ANSWERING))} are read")
        if values[0] not in SILENT:
            turns.append(Turn(number, values[0] in ASKING, values[1]))
            markers += values[1].count(MARKER)
    if markers not in (0, images):
        raise DataError(f"{markers} times {MARKER} for {images} images; once for each is needed, or not at all")
    return turns


def _rows(record: Row, images: list[Any], turns: list[Turn]) -> Iterator[Row]:
    answered = [a.asks and not b.asks for a, b in pairwise(turns)] + [False]
    several = sum(answered) > 1
    pairs = markers = 0
    for i, turn in enumerate(turns):
        row = replace(record, where=f"{record.where} turn {turn.number}", fields={})
        if answered[i]:
            pairs += 1
            id = f"{id_of(record)}-{pairs}" if several else id_of(record)
            question = _without_markers(turn.text, markers)
            yield replace(row, fields={"id": id, "images": images, "question": question, "answer": turns[i + 1].text})
        elif turn.asks:
            yield replace(row, problem="a question without an answer")
        elif i == 0 or not answered[i - 1]:
            yield replace(row, problem="an answer without a question")
        markers += turn.text.count(MARKER)


def _without_markers(text: str, before: int) -> str:
    """The text without image markers at its ends, and with their images' numbers within. `before`: those of earlier
    turns."""
    parts = text.split(MARKER)
    spoken = [i for i, part in enumerate(parts) if part.strip()] or [0]
    names = [f"image {before + i}" if spoken[0] < i <= spoken[-1] else "" for i in range(len(parts))]
    return "".join(name + part for name, part in zip(names, parts, strict=True)).strip()
