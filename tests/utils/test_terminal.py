"""Tables in a terminal: as wide as it is, nothing lost; as Markdown where there is none."""

import io
import sys

from hart_lite.utils.terminal import fitted, laid_out
from hart_lite.utils.text import RED, coloured

TABLE = """Before.

| benchmark | right, strict | wrong grounding |
| --- | ---: | ---: |
| a benchmark of many words | 62.4 (60.1-64.6) | 3.1 |
| b \\| c | 7.0 |  |

After."""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_table_that_has_room_lines_up():
    assert laid_out(TABLE, 80).splitlines() == [
        "Before.",
        "",
        "benchmark                     right, strict  wrong grounding",
        "-------------------------  ----------------  ---------------",
        "a benchmark of many words  62.4 (60.1-64.6)              3.1",
        "b | c                                   7.0",
        "",
        "After.",
    ]


def test_a_table_that_has_none_is_wrapped_and_loses_nothing():
    narrow = laid_out(TABLE, 40)
    assert max(map(len, narrow.splitlines())) <= 40
    words = sorted(TABLE.replace("|", " ").replace("\\", " ").replace("---:", "").replace("---", "").split())
    rule = max(narrow.splitlines(), key=lambda line: line.count("-"))
    assert sorted(narrow.replace(rule, "").replace("|", " ").split()) == words


def test_a_file_gets_markdown(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert fitted(TABLE) == TABLE
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setenv("COLUMNS", "40")
    assert fitted(TABLE) == laid_out(TABLE, 40) != TABLE


def test_colours_are_for_terminals_that_want_them(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert coloured("x", RED, Terminal()) == "\x1b[31mx\x1b[0m"
    assert coloured("x", RED, io.StringIO()) == "x"
    monkeypatch.setenv("NO_COLOR", "1")
    assert coloured("x", RED, Terminal()) == "x"
