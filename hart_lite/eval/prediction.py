"""One row of predictions.jsonl: a question in a mode, what was said, and what it comes to."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError

from hart_lite.errors import DataError
from hart_lite.types import Box
from hart_lite.utils.text import shown

Key = tuple[str, str, str]  # benchmark, mode, id
_LARGEST = 1e15  # JSON has integers that no float holds
Number = Annotated[float, Field(gt=-_LARGEST, lt=_LARGEST)]
Count = Annotated[int, Field(ge=0, lt=_LARGEST)]


def _read_box(value: Any) -> Any:
    if not (isinstance(value, list) and len(value) == 5 and all(type(v) in (int, float) for v in value)):
        raise ValueError("a box should be [x1, y1, x2, y2, image]")
    if not all(abs(v) < _LARGEST for v in value):
        raise ValueError("a box should be [x1, y1, x2, y2, image], in pixels")
    return Box.from_list(value)


def _check_box(box: Box) -> Box:
    if not (box.x1 < box.x2 and box.y1 < box.y2):
        raise ValueError("x1 should be below x2, and y1 below y2")
    return box


def _from_any(value: Any) -> Any:
    return value if isinstance(value, Box) else _read_box(value)


BoxField = Annotated[Box, BeforeValidator(_from_any), AfterValidator(_check_box), PlainSerializer(Box.to_list)]


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)  # what a later version adds is passed by


class Grounding(_Row):
    """Where the model looked, against the targets (method.md, section 5)."""

    grounded: bool  # one of the targets is covered by more than 0.3 by one box
    grounded_targets: Count
    targets: Annotated[int, Field(ge=1, lt=_LARGEST)]
    iogt: Number = 0.0  # the best
    iou: Number  # of each target the best, averaged
    coverage: Number  # share of the images that the boxes cover


class TurnText(_Row):
    """One call of the model; the counts are None where a server does not tell."""

    kind: str = "response"
    text: str
    prompt_tokens: Count | None = None
    response_tokens: Count | None = None
    images: Count = 0


class Prediction(_Row):
    """Boxes are original pixels. `answer` is what the grader read, None for nothing."""

    benchmark: str
    mode: str
    id: str
    category: str
    cluster: str  # key of the first image: questions about one image stand or fall together
    question: str
    choices: list[str]
    truth: str
    text: str
    answer: str | None
    strict: bool  # right by the grader of the rewards
    official: bool  # right by the benchmark's own scorer
    boxes: list[BoxField]
    truth_boxes: list[BoxField] = []
    turns: list[TurnText] = []
    counts: dict[str, Number] = {}
    grounding: Grounding | None = None

    @property
    def key(self) -> Key:
        return self.benchmark, self.mode, self.id

    def to_dict(self) -> dict[str, Any]:
        return self.model_dump(exclude={"grounding"} if self.grounding is None else None)


def read_prediction(row: dict[str, Any], where: str) -> Prediction:
    """Raises `DataError` for what is no such row: all that is made of rows relies on it."""
    try:
        return Prediction.model_validate(row)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key = ".".join(map(str, problem["loc"]))
        given = "is missing" if problem["type"] == "missing" else f"is {shown(problem['input'])}: {problem['msg']}"
        raise DataError(f"{where}: {key} {given}") from error
