"""Hostile input: text in the place of every text, files that lead astray or run code, bombs, secrets.

A run and two evaluations are made on a data set whose every text is hostile. Then what a model would have to write is
put into their files, too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from tests.reliability import bombs, hostile_files
from tests.reliability.check import Check
from tests.reliability.command_line import SECRETS, CommandLine
from tests.reliability.hostile_text import (
    FILE,
    FOLDER,
    MARK,
    RAN,
    TEXT,
    Page,
    chromium,
    moves_the_cursor,
    pages,
    poison,
    rows,
    title_in_browser,
)

SMALL = (
    *("rollout.samples=2", "stages.0.questions_per_step=1", "stages.0.steps=2", "stages.0.save_every=1"),
    *("stages.0.log_rollouts_every=1", "stages.1.steps=1", "stages.2.steps=1"),
)
NOBODY = "http://127.0.0.1:9"  # no server listens there


def checks(folder: Path, quick: bool) -> Iterator[Check]:
    yield hostile_files.paths(folder / "paths")
    yield from bombs.checks(folder)
    cli, data, home = CommandLine(folder), rows(folder), folder / f"runs {FOLDER}"
    run, evaluations = home / "run", (home / "a", home / "b")
    failed = cli("train", "tiny_cpu", f"output={run}", f"data.train={data}", f"data.eval={data}", *SMALL)
    for out, model in zip(evaluations, (run, "toy"), strict=True):
        failed += cli("eval", model, "--benchmark", f"rows={data}", "--mode", "full,crops", "--out", out)
    if failed:
        raise RuntimeError("the runs failed:\n" + "\n".join(text[-2000:] for text in cli.outputs))
    yield _pages(folder, run, evaluations, quick)
    yield _terminal(cli, data, run, evaluations)
    yield hostile_files.code(folder / "code", cli, run)
    yield _secrets(cli, data, run)


def _pages(folder: Path, run: Path, evaluations: tuple[Path, Path], quick: bool) -> Check:
    fields = sum(poison(place) for place in (run, *evaluations))
    made, harm, shown = dict(pages(run, evaluations)), [], 0
    browser = None if quick else chromium()
    if browser and title_in_browser(browser, f"<title>plain</title>{TEXT}", folder) != RAN:
        harm.append("this browser does not run the text even where it is not escaped, so it shows nothing")
    for name, html in made.items():
        page = Page(html)
        harm += [f"{name}: {what}" for what in page.harm()]
        shown += page.words.count(MARK)
        if browser and title_in_browser(browser, html, folder) == RAN:
            harm.append(f"{name}: {RAN} in the browser")
    how = f"; none ran a script in {Path(browser).name} without its content policy" if browser else ""
    measured = f"{len(made)} pages of {fields:,} hostile fields show {shown:,} of them as text{how}"
    return Check(
        "hostile text in questions, answers, choices, categories, file names and folders is text in report, gallery, "
        "card, compare and table",
        "; ".join([measured, *harm[:5]]),
        not harm and shown > 0,
    )


def _terminal(cli: CommandLine, data: Path, run: Path, evaluations: tuple[Path, Path]) -> Check:
    before = len(cli.outputs)
    broken = data.with_name("broken.jsonl")
    broken.write_text(data.read_text() + json.dumps({"image": f"no {FILE}", "question": FILE, "answer": FILE}) + "\n")
    photo = next(data.parent.glob("*.png"))
    cli("data", "check", broken)
    cli("compare", *evaluations)
    cli("paper-table", *evaluations)
    cli("push", run, "me/look", "--dry-run")
    cli("ask", photo, json.loads(data.read_text().splitlines()[0])["question"])
    cli("ask", photo.with_name(f"no {photo.name}"), FILE)
    cli("eval", "toy", "--benchmark", f"rows={broken}", "--out", cli.folder / "again")
    printed = cli.outputs[before:]
    obeyed = sorted({sign for text in printed for sign in moves_the_cursor(text)})
    return Check(
        "no character of hostile text moves a terminal's cursor",
        f"{len(printed)} commands, {sum(MARK in text or FOLDER in text for text in printed)} of them print the text, "
        f"{len(obeyed)} such characters {' '.join(obeyed)}".strip(),
        not obeyed and any(MARK in text or FOLDER in text for text in printed),
    )


def _secrets(cli: CommandLine, data: Path, run: Path) -> Check:
    """Beside all that was done before: a merge, an upload to nobody, a server that is not there, a bad recipe."""
    merged = cli.folder / "merged"
    cli("merge", run, "--out", merged)
    cli("push", merged, "me/x", HF_HUB_OFFLINE="0", HF_ENDPOINT=NOBODY, HF_HOME=str(cli.folder / "hf"))
    cli("ask", next(data.parent.glob("*.png")), "What?", "--model", "api:x", OPENAI_BASE_URL=f"{NOBODY}/v1")
    cli("train", "tiny_cpu", "stages.0.lr=nonsense", f"data.train={data}")
    files = [path for path in cli.folder.rglob("*") if path.is_file()]
    found = [str(path) for path in files for key in SECRETS.values() if key.encode() in path.read_bytes()]
    found += [f"output {n}" for n, text in enumerate(cli.outputs) for key in SECRETS.values() if key in text]
    searched = f"{len(files):,} files and the output of {len(cli.outputs)} commands searched, {len(found)} found"
    return Check(
        "HF_TOKEN and OPENAI_API_KEY are in no log, run directory, card or traceback",
        "; ".join([searched, *found[:3]]),
        bool(files) and not found,
    )
