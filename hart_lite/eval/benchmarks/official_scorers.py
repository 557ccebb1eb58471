"""What the official scorers read in a response, to the letter and with their faults. Our own reading is `answers`.

Each function names the script it agrees with. Where that script would ask a language model, no answer is read.
All take time linear in the response.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from string import ascii_uppercase

from hart_lite.boxes import iou

# The last two lines are two prefixes each: the script lacks the commas between them, so neither is ever removed.
_MME_PREFIXES = (
    "The best answer is",
    "The correct answer is",
    "The answer is",
    "The answer",
    "The best option is" + "The correct option is",
    "Best answer:" + "Best option:",
)
_MME_LETTER = re.compile("[ABCDE]")

_VSTAR = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"(?:ANSWER|CHOICE|OPTION)(?:\s+IS)?[\s:]+([A-D])",
        r"\(([A-D])\)",
        r"([A-D])\s*[.)\]]",
        r"(?:^|\s)([A-D])(?:\s|$)",
    )
)

_NO_ANSWER = "Failed to obtain answer via API"
_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
_SPACED = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))

_NUMBER = re.compile(r"[+-]?(?:\d+|[1-9]\d{0,2}(?:,\d{3})+)(?:\.\d+)?")
_TREE_BOX = re.compile(
    r"\[(\d{1,18}),(\d{1,18}),(\d{1,18}),(\d{1,18})\]"
)  # larger numbers give an IoU of 0 all the same


def mme_realworld_letter(text: str, labelled: Sequence[str]) -> str:
    """MME-RealWorld, `evaluation/eval_your_results.py`; `labelled` are the choices as its JSON has them, "(A) .."."""
    text = text.strip()
    for prefix in _MME_PREFIXES:
        text = text.replace(prefix, "")
    if letter := _MME_LETTER.search(text):
        return letter[0]
    if len(text.split()) > 10:
        return ""
    return next((choice[1] for choice in labelled if text.lower() in choice.lower()), "")


def vstar_letter(text: str) -> str | None:
    """V*, `extract_answer_letter` of lmms-eval. The benchmark's own script compares likelihoods and reads no text."""
    text = text.strip().upper()
    if text[:1] in ("A", "B", "C", "D"):
        return text[0]
    for pattern in _VSTAR:
        if match := pattern.search(text):
            return match[1]
    letters = [letter for letter in text if letter in "ABCD"]
    return letters[0] if len(letters) == 1 else None


def hrbench_letter(text: str, choices: Sequence[str]) -> str | None:
    """HR-Bench, `can_infer` of lmms-eval; "Z" for a refusal, None where it would go on to ask a judge."""
    text = text.strip()
    letters = ascii_uppercase[: len(choices)]
    if _NO_ANSWER not in text:
        if any(refusal in text for refusal in _REFUSALS):
            return "Z"
        words = set(text.translate(_SPACED).split())
        named = [letter for letter in letters if letter in words]
        if len(named) == 1:
            return named[0]
        if not named and "Z" in words:
            return "Z"
    lower = text.lower()
    told = [letter for letter, choice in zip(letters, choices, strict=True) if choice.lower() in lower]
    return told[0] if len(told) == 1 else None


def mmstar_right(text: str, answer: str) -> bool:
    """MMStar, `eval/vlmeval/evaluate/mmstar.py`."""
    text, answer = text.lower().strip().replace("\n", " "), answer.lower().strip()
    places = [0]
    if text.startswith("("):
        places.append(1)
    for opening in ("option ", "the answer is "):
        if text.startswith(opening):
            places.append(len(opening))
    return any(text[place : place + 1] == answer for place in places)


def treebench_right(text: str, answer: str) -> bool:
    """TreeBench, `inference_treebench.py`: the first pair of tags, else the whole response, holds just the letter."""
    inside = _first_between(text, "<answer>", "</answer>")
    given = text if inside is None else inside.strip()
    return given.upper() == answer.upper()


def treebench_miou(text: str, truth_boxes: Sequence[Sequence[float]]) -> float:
    """TreeBench, `compute_box_iou`: the best IoU of each target, averaged over targets.

    Reads `<box>[x1,y1,x2,y2]</box>`, whole numbers without spaces, taken as ORIGINAL pixels whatever size the model
    saw. `truth_boxes` in original pixels, xyxy. A missed target counts 0, a superfluous box nothing.
    """
    found = []
    start = 0
    while (inside := _first_between(text, "<box>", "</box>", start)) is not None:
        start = text.index("<box>", start) + len("<box>") + len(inside) + len("</box>")
        if match := _TREE_BOX.match(inside.strip()):
            found.append(tuple(map(int, match.groups())))  # corners the wrong way round have no area
    best = [max((iou(box, tuple(truth[:4])) for box in found), default=0.0) for truth in truth_boxes]
    return sum(best) / len(best) if best else 0.0


def _first_between(text: str, opening: str, closing: str, start: int = 0) -> str | None:
    begin = text.find(opening, start)
    end = -1 if begin < 0 else text.find(closing, begin + len(opening))
    return None if end < 0 else text[begin + len(opening) : end]


def visual_cot_form(text: str) -> str:
    """The form in which a Visual-CoT response and its answer are compared, in place of the judge that the paper asks.

    It has NFKC, one case, single spaces, no quotes or stops at its ends, and one spelling for 1,000 = 1000 and 3.0 = 3.
    It stays as it is while the grader's `normalise` learns more, so that older and newer figures can be compared.
    """
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    plain = plain.lstrip("\"'`").rstrip(".,;:!?\"'` ") or plain
    if not _NUMBER.fullmatch(plain):
        return plain
    number = plain.replace(",", "").lstrip("+")
    if "." in number:
        number = number.rstrip("0").rstrip(".")
    return "0" if number == "-0" else number
