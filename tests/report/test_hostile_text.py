"""One hostile text in the place of every text: on pages and in terminals it stays text."""

from pathlib import Path

import pytest
from evaluations import questions, rows_of, sound, write_evaluation
from small_runs import make_up, rl_stage, sft_stage, small_recipe

from hart_lite.cli.main import main
from hart_lite.training.train import train
from hart_lite.utils.markdown import plain
from hart_lite.utils.text import printable
from tests.reliability.hostile_text import (
    MARK,
    TEXT,
    Page,
    chromium,
    moves_the_cursor,
    pages,
    poison,
    rows,
    title_in_browser,
)


@pytest.fixture(scope="module")
def hostile(tiny_base, tmp_path_factory) -> tuple[Path, Path, tuple[Path, Path]]:
    """(rows, a run on them, two evaluations), every text hostile."""
    folder = tmp_path_factory.mktemp("hostile")
    data = rows(folder)
    with pytest.MonkeyPatch.context() as patch:
        make_up(patch.setattr)
        stages = [rl_stage(steps=1, log_rollouts_every=1), sft_stage(steps=1)]
        train(small_recipe(tiny_base, folder / "run", stages, data={"train": str(data), "eval": str(data)}))
    evaluations = []
    for name in "ab":
        found = rows_of(questions(4), sound, benchmark=f"rows {TEXT}")
        out = write_evaluation(
            folder / name, found, model=TEXT, modes=["crops"], limit=None, benchmarks={"rows": str(data)}
        )
        evaluations.append(out)
    assert sum(poison(place) for place in (folder / "run", *evaluations)) > 50
    return data, folder / "run", tuple(evaluations)


def test_no_page_takes_text_for_markup(hostile):
    _, run, evaluations = hostile
    found = {name: Page(html) for name, html in pages(run, evaluations)}
    assert len(found) == 8
    for name, page in found.items():
        assert page.harm() == [], name
        assert "document.title=" in page.words or name == "paper-table", name


def test_what_is_not_escaped_is_found():
    harm = Page(f"<p>{TEXT}</p>").harm()
    assert len(harm) >= 3 and "script" in harm


@pytest.mark.slow
@pytest.mark.skipif(chromium() is None, reason="no chromium here")
def test_a_browser_runs_what_is_not_escaped_and_nothing_of_a_report(hostile, tmp_path):
    assert title_in_browser(chromium(), f"<title>plain</title>{TEXT}", tmp_path) == "a script ran"
    report = dict(pages(hostile[1], hostile[2]))["report of a run"]
    assert title_in_browser(chromium(), report, tmp_path) == "small: report"


def test_no_command_lets_it_move_the_cursor(hostile, capsys):
    data, run, (a, b) = hostile
    bad = data.with_name("bad.jsonl")
    bad.write_text(data.read_text() + '{"image": "\\u001b[2J.png", "question": "\\u001b[2J", "answer": "x"}\n')
    for words in (
        ("data", "check", bad),
        ("compare", a, b),
        ("paper-table", a, b),
        ("push", run, "me/look", "--dry-run"),
        ("ask", "\x1b[2J.png", TEXT),
    ):
        main([str(word) for word in words])
        out, err = capsys.readouterr()
        assert moves_the_cursor(out + err) == [], words
        assert MARK in out + err or words[0] in ("paper-table", "ask"), words


def test_words_for_a_terminal():
    assert printable("é 漢\n\ta") == "é 漢\n\ta"
    assert printable("\x1b[2J\u202e\r\x00") == "\ufffd[2J\ufffd\ufffd\ufffd"


@pytest.mark.parametrize(
    ("text", "shown"),
    [("tiny_cpu", "tiny_cpu"), ("_x_", r"\_x\_"), ("~~x~~ ~5", r"\~~x\~~ ~5"), ("&lt;b> R&D & x", r"\&lt;b> R\&D & x")],
)
def test_names_in_markdown(text, shown):
    assert plain(text) == shown
