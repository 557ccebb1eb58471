"""A page to look at: what a model was asked, where it looked, what it read there and what it said, by outcome.

EVALUATION/gallery/index.html and the JPEGs beside it. The page needs nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase

from PIL import Image

from hart_lite.data.drawing import scaled
from hart_lite.errors import HartError
from hart_lite.eval.prediction import Prediction
from hart_lite.eval.results import Evaluation, read_evaluation
from hart_lite.report.html import limited, page
from hart_lite.report.looks import Keep, Look, draw_look, said
from hart_lite.types import ImageSource

FIRST_MODES = ("crops", "full+crops", "full")  # others come after these
OUTCOMES = (
    "right and grounded",
    "right but not grounded",
    "wrong but grounded",
    "wrong and not grounded",
    "no box",
    "right",  # without ground-truth boxes, or without a look
    "wrong",
)
ImageOf = Callable[[Prediction], ImageSource]


@dataclass(frozen=True)
class Card:
    """A row with its pictures: of an earlier evaluation, where there is one, and its own. `change` says what came of
    it since: "got right", "got wrong" or "no change"."""

    row: Prediction
    looks: Sequence[Look]
    change: str = ""

    @property
    def outcome(self) -> str:
        return outcome(self.row)

    @property
    def choices(self) -> list[tuple[str, str, str]]:
        """(letter, text, "right", "given" or both)."""
        at = {"right": self.row.truth, "given": self.row.answer}
        return [
            (letter, str(choice), " ".join(kind for kind, answer in at.items() if answer == letter))
            for letter, choice in zip(ascii_uppercase, self.row.choices, strict=False)  # the grader knows no 27th
        ]

    @property
    def facts(self) -> list[tuple[str, str]]:
        row, words = self.row, {True: "right", False: "wrong"}
        pairs = [] if row.choices else [("right is", limited(row.truth))]
        if row.strict != row.official:
            pairs.append(("verdict", f"strict: {words[row.strict]}, official: {words[row.official]}"))
        if row.grounding and row.grounding.targets > 1:
            pairs.append(("targets", f"{row.grounding.grounded_targets} of {row.grounding.targets} grounded"))
        return pairs

    @property
    def turns(self) -> list[tuple[str, str]]:
        return [(turn.kind, turn.text) for turn in self.row.turns] or [("response", self.row.text)]


@dataclass(frozen=True)
class Group:
    """The rows of one outcome: `count` of `total`, of which `cards` are shown."""

    benchmark: str
    mode: str
    outcome: str
    count: int
    total: int
    cards: Sequence[Card]

    @property
    def name(self) -> str:
        return f"{self.benchmark}, {self.mode}: {self.outcome}"

    @property
    def title(self) -> str:
        some = "" if len(self.cards) == self.count else f", the first {len(self.cards):,} shown"
        return f"{self.name} ({self.count:,} of {self.total:,}{some})"


def write_gallery(folder: str | Path, image_of: ImageOf, limit: int = 24, before: str | Path | None = None) -> Path:
    """The page of an evaluation, made anew; returns its path. At most `limit` rows of each outcome, the first ones;
    where there is an evaluation `before` it, each card shows both.

    `image_of` gives the image that a row of `predictions.jsonl` is about; where it or the image raises a `HartError`,
    the card says so in place of the picture. Raises `HartError` as `read_evaluation` does, and for a limit below 1.
    """
    if limit < 1:
        raise HartError(f"limit {limit}: a gallery shows at least 1 row of each outcome")
    evaluation = read_evaluation(folder)
    earlier = read_evaluation(before) if before else None
    place = evaluation.folder / "gallery"
    place.mkdir(exist_ok=True)
    for old in [*place.glob("*.jpg"), *place.glob("index.html")]:
        old.unlink()

    def keep(image: Image.Image, name: str, side: int) -> str:
        scaled(image, min(1.0, side / max(image.size))).save(place / f"{name}.jpg", quality=85)
        return f"{name}.jpg"

    groups = groups_of(evaluation, limit, image_of, keep, earlier)
    cards = [card for group in groups for card in group.cards]
    values = {
        "mode": [card.row.mode for card in cards],
        "outcome": [card.outcome for card in cards],
        "category": sorted(card.row.category for card in cards),
        "change": [card.change for card in cards],
    }
    filters = [(name, [v for v in dict.fromkeys(found) if v]) for name, found in values.items()]
    asked = f"Questions of {', '.join(evaluation.parts())}, by outcome."
    text = page(
        "gallery.html",
        images="'self' file:",  # in a file:// page 'self' names no place that every browser agrees on
        title=f"{evaluation.model}: gallery",
        model=evaluation.model,
        about=f"{asked} Beside each: {earlier.model}." if earlier else asked,
        groups=groups,
        filters=[(name, found) for name, found in filters if len(found) > 1],
        preset=FIRST_MODES[0],
        paired=earlier is not None,
    )
    (place / "index.html").write_text(text, encoding="utf-8")
    return place / "index.html"


def outcome(row: Prediction) -> str:
    """One of `OUTCOMES`."""
    right = "right" if row.strict else "wrong"
    if row.mode == "full" and not row.boxes:
        return right
    if not row.boxes:
        return "no box"
    if row.grounding is None:
        return right
    if row.grounding.grounded:
        return "right and grounded" if row.strict else "wrong but grounded"
    return "right but not grounded" if row.strict else "wrong and not grounded"


def groups_of(
    evaluation: Evaluation, limit: int, image_of: ImageOf, keep: Keep, before: Evaluation | None = None
) -> list[Group]:
    """The rows by benchmark, mode and outcome, with pictures of the first `limit` of each; what is answered from crops
    comes first. `keep` may raise a `HartError`, which the card then shows."""
    pictures = _Pictures(image_of, keep)
    earlier = {row.key: row for row in before.rows} if before else {}
    out = []
    for benchmark, modes in evaluation.parts().items():
        for mode, rows in sorted(modes.items(), key=lambda item: _place(item[0])):
            members: dict[str, list[Prediction]] = {name: [] for name in OUTCOMES}
            for row in rows:
                members[outcome(row)].append(row)
            for name, found in members.items():
                if found:
                    cards = [_card(row, earlier.get(row.key), pictures) for row in found[:limit]]
                    out.append(Group(benchmark, mode, name, len(found), len(rows), cards))
    return out


def _place(mode: str) -> int:
    return FIRST_MODES.index(mode) if mode in FIRST_MODES else len(FIRST_MODES)


def _card(row: Prediction, earlier: Prediction | None, pictures: _Pictures) -> Card:
    if earlier is None:
        return Card(row, [_look(row, "", pictures)])
    change = "no change" if row.strict == earlier.strict else "got right" if row.strict else "got wrong"
    return Card(row, [_look(earlier, "before", pictures), _look(row, "after", pictures)], change)


def _look(row: Prediction, when: str, pictures: _Pictures) -> Look:
    found = row.grounding
    note = f"IoU {100 * found.iou:.0f} %, covers {100 * found.coverage:.1f} % of the image" if found else ""
    return pictures.of(row).saying(when, [(said(row), row.strict)], note)


class _Pictures:
    """Draws and keeps what the cards show. Rows about one image share its photo, and with the same boxes all of it."""

    def __init__(self, image_of: ImageOf, keep: Keep) -> None:
        self.image_of, self.keep = image_of, keep
        self._made: dict[tuple, Look] = {}
        self._photos: dict[tuple, str] = {}

    def of(self, row: Prediction) -> Look:
        image = (row.benchmark, row.cluster)
        key = (*image, tuple(row.boxes), tuple(row.truth_boxes))
        if key not in self._made:
            name, photo = f"{len(self._made):05d}", self._photos.get(image)
            try:
                loaded = self.image_of(row).load()
                look = draw_look(loaded, row.boxes, row.truth_boxes, self.keep, name, photo)
            except HartError as error:
                look = Look(problem=str(error))
            self._made[key] = look
            if look.photo:
                self._photos[image] = look.photo
        return self._made[key]
