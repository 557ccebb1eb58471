"""The letter that a text gives as its answer: its claims, weighed."""

from __future__ import annotations

from collections.abc import Sequence

from hart_lite.grading.claims import Claim, Standing
from hart_lite.grading.collect import collect, short_answer
from hart_lite.grading.markup import Final, finals, joined, plain

UNCLEAR = ""  # several letters at once, or one that is no choice: no answer, and no reason to look for one elsewhere


def read_letter(text: str, choices: Sequence[str]) -> str | None:
    """The capital letter that a text without thoughts, in NFKC, gives as its answer; None when it gives none."""
    letter = short_answer(text, choices)
    if letter is not None:
        return letter
    boxed = finals(text)
    return (_with_finals(text, boxed, choices) if boxed else decide(*collect(text, choices))) or None


def _with_finals(text: str, boxed: Sequence[Final], choices: Sequence[str]) -> str:
    """The last box or tag, unless it is asked about, or what follows takes it back."""
    last = boxed[-1]
    letter = _in_final(text, last, choices)
    if len(boxed) > 1 and joined(text[boxed[-2].end : last.at]) and _in_final(text, boxed[-2], choices) != letter:
        return UNCLEAR
    if not text[last.end :].strip():
        return letter
    if text[last.end : last.end + 6].lstrip("$.) *").startswith("?"):
        letter = UNCLEAR
    found, turned = collect(text[last.at :], choices)
    behind = [claim for claim in found if claim.at >= last.end - last.at]
    later = [claim for claim in behind if claim.standing >= Standing.STATED]
    if later and (turned > last.end - last.at or (not letter and later[-1].standing == Standing.ANNOUNCED)):
        return decide(behind, turned)
    denied = letter and any(claim.standing == Standing.DENIED and letter in claim.letters for claim in behind)
    return UNCLEAR if denied else letter


def _in_final(text: str, final: Final, choices: Sequence[str]) -> str:
    content = text[final.start : final.stop]
    letter = short_answer(plain(content), choices) or short_answer(content, choices)
    return letter or decide(*collect(content, choices, announced=True))


def decide(found: Sequence[Claim], turned: int) -> str:
    """The letter that the claims come to.

    1. Behind the last turn ("wait", "no,") only what follows counts, if it claims anything.
    2. A claim whose letter is denied later, and not claimed again, does not count.
    3. The highest standing wins; of announced answers the last one. Of lower standings two different letters are none.
    4. Several letters in one claim ("A or B") are none, unless what follows decides between them.
    """
    later = [claim for claim in found if claim.at > turned]
    if turned >= 0 and any(claim.standing >= Standing.STATED for claim in later):
        found = later
    kept = [claim for claim in _not_retracted(found) if claim.standing > Standing.PASSED]
    if not kept:
        return UNCLEAR
    best = max(claim.standing for claim in kept)
    of_best = [claim for claim in kept if claim.standing == best]
    settled = of_best[-1:] if best >= Standing.ANNOUNCED else _narrowed(of_best)
    letters = frozenset().union(*(claim.letters for claim in settled)) if of_best[-1].letters else frozenset()
    if len(of_best[-1].letters) > 1:
        behind = kept[kept.index(of_best[-1]) + 1 :]
        chosen = {claim.letters for claim in behind if claim.standing >= Standing.STATED and claim.letters < letters}
        letters = chosen.pop() if len(chosen) == 1 else letters
    return next(iter(letters)) if len(letters) == 1 else UNCLEAR


def _narrowed(found: Sequence[Claim]) -> list[Claim]:
    """The claims without those of several letters of which a later claim picks one: "C or D. .. Since .., C"."""
    later: set[frozenset[str]] = set()
    kept = []
    for claim in reversed(found):
        if not any(frozenset() < letters < claim.letters for letters in later):
            kept.append(claim)
        later.add(claim.letters)
    return kept


def _not_retracted(found: Sequence[Claim]) -> list[Claim]:
    """The claims without those of a letter that is denied behind them."""
    denied: set[str] = set()
    kept = []
    for claim in reversed(found):
        if claim.standing == Standing.DENIED:
            denied |= claim.letters
            continue
        if len(claim.letters) == 1 and claim.letters <= denied:
            continue
        if claim.standing >= Standing.STATED:
            denied -= claim.letters
        kept.append(claim)
    return kept[::-1]
