"""One hostile text in the place of every text of a run and of an evaluation, and the pages that are made of it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

from markdown_it import MarkdownIt
from PIL import Image

from hart_lite.eval.compare import compare, compare_text
from hart_lite.eval.questions import images_of
from hart_lite.eval.results import read_evaluation
from hart_lite.export.push import plan_upload
from hart_lite.report.gallery import write_gallery
from hart_lite.report.paper_tables.tables import write_tables
from hart_lite.report.run_report import write_report

RAN = "a script ran"
# Ways out of a tag, an attribute, a code block, a table cell and a terminal.
TEXT = (
    f"hostile </title></style></pre></code></details><script>document.title='{RAN}'</script>"
    f'"><img src=x onerror="document.title=\'{RAN}\'"><svg onload="document.title=\'{RAN}\'"></svg>'
    f"' onmouseover='x' [a](javascript:document.title='{RAN}') ![b](http://x.test/b.png) <iframe src=data:,x>\n"
    "```\n# head | cell &lt;script&gt; \x1b[2J\x1b]0;owned\x07 \u202e _x_ `y`"
)
FOLDER = f"\"><img src=x onerror=document.title='{RAN}'>"  # without a slash, and as YAML can have it
FILE = f"{FOLDER}\x1b[2J"
MARK = "hostile"
TEXTS = {"question", "answer", "text", "category", "located", "raw", "id", "truth"}  # fields that data and models fill
FORBIDDEN = {"script", "iframe", "object", "embed", "base", "link"}


def rows(folder: Path, count: int = 6) -> Path:
    """A data set whose every text is hostile, in a folder and with images of hostile names."""
    place = folder / FOLDER
    place.mkdir(parents=True)
    lines = []
    for number in range(count):
        name = f"{number} {FILE}.png"
        Image.effect_noise((160, 120), 60).convert("RGB").save(place / name)
        row = {"id": f"{number} {TEXT}", "image": name, "question": f"{number} {TEXT}", "category": TEXT}
        row |= {"choices": [f"{letter} {TEXT}" for letter in "abcd"], "answer": "B", "boxes": [[10, 10, 60, 50]]}
        lines.append(json.dumps(row) + "\n")
    path = place / "rows.jsonl"
    path.write_text("".join(lines), encoding="utf-8")
    return path


def poison(folder: Path) -> int:
    """What a model would have to write: puts the text into the fields of every JSON file below; returns how many."""
    count = 0

    def changed(value, name=""):
        nonlocal count
        if isinstance(value, dict):
            return {key: changed(item, key) for key, item in value.items()}
        if isinstance(value, list):
            return [changed(item, name) for item in value]
        if isinstance(value, str) and name in TEXTS and MARK not in value:
            count += 1
            return f"{value} {TEXT}"
        return value

    for path in sorted(folder.rglob("*.json*")):
        if path.name in ("recipe.json", "adapter_config.json", "tokenizer_config.json", "base.json", "tokenizer.json"):
            continue
        text = path.read_text(encoding="utf-8")
        lines = text.splitlines(keepends=True) if path.suffix == ".jsonl" else [text]
        path.write_text("".join(json.dumps(changed(json.loads(line))) + "\n" for line in lines), encoding="utf-8")
    return count


def pages(run: Path, evaluations: tuple[Path, Path]) -> Iterator[tuple[str, str]]:
    """(what it is, HTML) of all that shows text of theirs; Markdown is rendered as the Hub and GitHub do, with HTML."""
    render = MarkdownIt("gfm-like", {"linkify": False, "html": True}).render
    yield "report of a run", write_report(run).read_text(encoding="utf-8")
    yield "model card", render(plan_upload(run, "me/look").card.split("---\n", 2)[2])
    for number, folder in enumerate(evaluations, 1):
        images = images_of(read_evaluation(folder))
        yield f"report of evaluation {number}", write_report(folder).read_text(encoding="utf-8")
        yield f"gallery {number}", write_gallery(folder, images).read_text(encoding="utf-8")
    yield "compare", render(compare_text(compare(*map(read_evaluation, evaluations))))
    yield "paper-table", render(write_tables([*evaluations, run]))


class Page(HTMLParser):
    """What a browser would make of it: tags, attributes, words."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words = ""
        self.feed(without_own_script(text))

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes

    def handle_data(self, data):
        self.words += data

    def harm(self) -> list[str]:
        """What hostile text made of it that it should not have."""
        found = sorted(FORBIDDEN & set(self.tags))
        found += [f"{name}={value}" for name, value in self.attributes if name.startswith("on")]
        links = [value or "" for name, value in self.attributes if name in ("href", "src")]
        return found + [link for link in links if link.startswith("javascript:") or "x.test" in link]


def without_own_script(text: str) -> str:
    """A page without the script whose hash its policy names."""
    allowed = re.findall(r"script-src '([^']+)'", unescape(text))

    def kept(match: re.Match) -> str:
        digest = base64.b64encode(hashlib.sha256(match[1].encode()).digest()).decode()
        return "" if f"sha256-{digest}" in allowed else match[0]

    return re.sub(r"<script>(.*?)</script>", kept, text, flags=re.DOTALL)


def chromium() -> str | None:
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def title_in_browser(browser: str, html: str, folder: Path) -> str:
    """The title that a real browser ends with, with the page's own policy taken out: escaping has to hold alone."""
    page = folder / "page.html"
    page.write_text(re.sub(r"<meta http-equiv=[^>]*>", "", html), encoding="utf-8", errors="replace")
    command = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    command += ["--virtual-time-budget=2000", "--dump-dom", page.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    found = re.search(r"<title>(.*?)</title>", dom, re.DOTALL)
    return found[1] if found else ""


def moves_the_cursor(text: str) -> list[str]:
    """Of what was printed, the characters of the hostile text that a terminal would obey."""
    return [repr(sign) for sign in ("\x1b[2J", "\x1b]0;", "\x07", "\u202e") if sign in text]
