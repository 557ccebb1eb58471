"""The grammar: which standing a mention of a choice has, from the signs before and behind it.

Rules are regular expressions over signs (`vocabulary.SIGNS`), tried in order. `before` ends where the mention begins
and `behind` begins where it ends; both stop at the bounds of the sentence and hold at most `REACH` signs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

REACH = 18


class Standing(IntEnum):
    """What a text says of a choice. A higher one that is not negative beats a lower one."""

    DENIED = 0  # "not (A)", "(A) is wrong": no answer, and it takes back what was claimed before
    DOUBTED = 1  # "(A) does not", "not the one next to (A)", "if it is A", "is it A?": no answer
    PASSED = 2  # "next to (A)": no answer, but no more than that
    MENTIONED = 3
    HEDGED = 4  # "maybe C"
    STATED = 5  # "it is C", "C fits"
    LABELLED = 6  # a line that begins with "C. "; the one choice of a conclusion
    CHOSEN = 7  # "C corresponds to ..", "So the largest is C"
    ANNOUNCED = 8  # "the answer is C", "C is correct"; or alone on its line
    FINAL = 9  # in a box or a tag


@dataclass(frozen=True, slots=True)
class Claim:
    letters: frozenset[str]  # several at once: unclear
    standing: Standing
    at: int  # place in the text
    of_text: bool = False  # a choice's words, not its letter


@dataclass(frozen=True, slots=True)
class Rule:
    standing: Standing
    before: re.Pattern[str]
    behind: re.Pattern[str]


def _rule(standing: Standing, before: str = "", behind: str = "") -> Rule:
    return Rule(standing, re.compile(rf"(?:{before})$" if before else ""), re.compile(behind))


# What may stand between a cue and the mention that it is for.
_LINK = "[fOrRltsX,:(iv]{0,7}"
_END = r"(?:$|[,;jbcg&(])"
_CLEAR_END = r"(?:$|[;jbcg(]|,[jbcgn])"

RULES = (
    # "all but C are wrong" is for C, "all but C are right" is against it
    _rule(Standing.ANNOUNCED, "e[fO]*", r"[,xfOL]{0,8}[iI]?f*(?:w|n)"),
    _rule(Standing.DENIED, "e[fO]*", r"[,xfOL]{0,8}[iI]?f*r"),
    _rule(Standing.DOUBTED, "e[fO]*"),
    # against it, by what stands behind
    _rule(Standing.DENIED, "", r"[fihkrRNO]{0,4}d|[fO]*nf*[iv]?(?:$|[,j])"),
    _rule(Standing.DOUBTED, "", r"[fO]*h[fi]*g"),  # Aを選ぶ人も多い
    _rule(Standing.DENIED, "", r"(?:,(?=f*I)|[:\-(])?[fslOX]*[iIvy]?[fslX]*[iv]?[fp]*w(?!f*O)"),
    _rule(Standing.DENIED, "", r"[fsO]*[iIX][fslXi]*[rRYk][,f]*bf*w"),  # "is the closest, but wrong"
    _rule(Standing.DENIED, "", r"\)f*w(?:[,;.:]|$)"),
    _rule(Standing.DENIED, "", r"[:\-()]f*z(?:[,;bj(]|$)|[fO]*z(?:[,;bj]|$|[ihkvr])"),
    _rule(Standing.DOUBTED, "", r"\)f*z"),
    _rule(Standing.DENIED, "", r"[xpf]{1,8},?f*[iI]f*w|O?[:\-][^nzwbmrR]{1,14},f*w$"),
    _rule(Standing.DENIED, "", r"(?:,(?=f*I))?[fO]*[iIvyk]?[fl]*n[fl]*[rRN]"),
    _rule(Standing.DOUBTED, "", r"(?:,(?=f*I)|[:\-])?[fO]*h?f*[iIvyk]?[fl]*n(?![fOtNiRl]{0,4}m)"),
    # against it, by what stands before
    _rule(Standing.DOUBTED, r"q[fNRORLiItvrhnl]{0,6}(?:x[fNOitIvrh]{0,3}){0,2}|q.{0,14}v[fl]*i[fOrtl]*"),
    _rule(Standing.DOUBTED, "", r"[fO]*(?:v[fOihrRNk]{0,6},?)?q"),  # "C would be right if .."
    _rule(Standing.DOUBTED, "g[^,b]{0,14}"),
    _rule(Standing.DOUBTED, "u[^bsh,]{0,16}"),
    _rule(Standing.STATED, "nf*w[fi]{1,3}"),  # "the only one that is not wrong is C"
    _rule(Standing.DENIED, "[nD][fOtNRLrhkilvIpYy]{0,8}"),
    _rule(Standing.DOUBTED, "n[fOi]{0,4}:[fO]{0,3}"),
    _rule(Standing.DOUBTED, "c[fOtNRLrhkilvIpY]{0,8}"),
    _rule(Standing.DENIED, "(?:tf*n|nf*t),[xfiO]{0,4}"),
    _rule(Standing.DENIED, "zf{0,2}"),
    _rule(Standing.DENIED, "w[fOIi:NRLrph]{0,6}", r"(?!f*[rRY])"),
    _rule(Standing.DOUBTED, "[nc][fOtNrhkiIvp]{0,6}x{1,3}[fOpV]{0,3}"),
    # in doubt
    _rule(Standing.HEDGED, "v[fl]*i[fOrtl]{0,4}"),
    _rule(Standing.HEDGED, "y[&b,]?[&fOtNihkrRpxv]{0,8}"),
    _rule(Standing.HEDGED, "", r"[,(]?[fO]*[iIv]?f*y|f*v"),
    # for it, by what stands before
    _rule(Standing.ANNOUNCED, rf"[NR][fOrRlvtsX,]{{0,5}}[i:\-]{_LINK}"),
    _rule(Standing.ANNOUNCED, rf"[NR][xpfkr&,(j]{{1,10}}[iv:]{_LINK}"),
    _rule(Standing.ANNOUNCED, "[NR][fOr(]{0,3}", rf"{_END}|[:\-]|i(?:$|[,;j])"),
    _rule(Standing.ANNOUNCED, "[NR],", ",f*[iIvk]"),  # "the answer, C, is .."
    _rule(Standing.ANNOUNCED, rf"O[xpfkr]{{1,9}}[iv:]{_LINK}"),
    _rule(Standing.ANNOUNCED, "h[fOrRtlNi:v]{0,6}"),
    _rule(Standing.ANNOUNCED, "s[f,tlX]{0,4}[iv][fOrtlvi]{0,5}"),
    _rule(Standing.ANNOUNCED, "s[fOrtl,:]{0,4}", rf"{_CLEAR_END}|[xpf]{{0,5}}k"),
    _rule(Standing.CHOSEN, "^[&bf]{0,2}s[^nzwqgmb]{1,14}[iv][fOrtl]{0,4}"),
    _rule(Standing.ANNOUNCED, r"(?<!n)(?<!nf)[rRY][fkO]{0,4}[iv:][fOrtl]{0,4}"),
    _rule(Standing.CHOSEN, rf"O[fr]{{0,3}}[i:v\-]{_LINK}"),
    # for it, by what stands behind
    _rule(Standing.ANNOUNCED, "", r"(?:,(?=f*I)|[:\-(])?[fsO]*[iIX][fslXi]*[rRY](?!f*p|x)"),
    _rule(Standing.ANNOUNCED, "", rf"[:\-(]?[fO]*[rRY](?:{_END}|[.:isf])|\)f*[rRY]{_END}"),
    _rule(Standing.ANNOUNCED, "", r"O?[:\-(][^nzwbmrR]{1,14}(?:Y|,f*r)$"),  # "C: .., correct."
    _rule(Standing.ANNOUNCED, "", rf"[fO]*i[fr]*(?:[NR]|[Oh]{_END})|[fO]*R"),
    _rule(Standing.ANNOUNCED, "", r"[fO]*jf*N"),  # "C as my answer"
    _rule(Standing.CHOSEN, "", r"[fO]*h(?![fO]*m)"),
    # stated
    _rule(Standing.STATED, "[iIv],?[fOrtlXvb]{0,5}|[iI],?sf*,?[fp]*"),
    _rule(Standing.LABELLED, "^[fO]*", ",[js]f*$"),  # "C, then."
    _rule(Standing.STATED, "[kV][fO:]{0,3}|[lt][fO:,]{0,3}|m[f,]*b[fOp]*|d[,f]*"),
    _rule(Standing.STATED, r"[XzU][,\-:fO.]{0,3}"),
    _rule(
        Standing.STATED, "", r"[fO]*k|[fO]*i[flOr]{0,5}k|f*i(?:$|[.,;])|[fO]*l(?:$|[iIk])|[,(]?[cn][fOtl]{0,4}m|[,(]?c"
    ),
    _rule(Standing.STATED, "", r"[xpf]{1,8}[iIfp]{0,3}[hk]"),
    _rule(Standing.STATED, r"(?:^|[,b:\-(])[fOtlsrY]{0,5}", "f?$"),
    _rule(Standing.STATED, r"(?:^|[,b])c[fO]*m(?:[,&fOo]{1,4}m){0,4},f*"),  # "Unlike B and C, A has .."
    _rule(Standing.PASSED, "p[fO]*"),
)


def standing(before: str, behind: str) -> Standing | None:
    """The standing of a mention between these signs; None when the signs say nothing."""
    for rule in RULES:
        if rule.before.search(before) and rule.behind.match(behind):
            return rule.standing
    return None


_TAKEN_BACK = re.compile(r"U|(?:(?<=[.?\n;])|^)[zXf,i]{0,5}w(?=[,.;\n]|$)")
_DECLINES = re.compile(r"D(?![^.?\n;bm]{0,8}m)")
_TURNS = re.compile(r"(?:(?<=[.,?\n;:\-zb])|^)(?:X|z(?=[,.]))|(?<=[.?\n])n(?=,)")


def taken_back(symbols: str) -> Iterator[int]:
    """Indices of signs such as "that is wrong", which take back the last mention before."""
    return (match.start() for match in _TAKEN_BACK.finditer(symbols))


def declines(symbols: str) -> Iterator[int]:
    """Indices of signs such as "I'd rather not", which give no answer; not those of "I'd rather not pick A"."""
    return (match.start() for match in _DECLINES.finditer(symbols))


def turns(symbols: str) -> Iterator[int]:
    """Indices of signs such as "wait" and "no,", behind which a new answer replaces the ones before."""
    return (match.start() for match in _TURNS.finditer(symbols))
