"""The pages as a site with search: `make docs`. Pages link to each other and to files of the project as they do on a
code host; files outside of docs/ are copied into the site, so that their links lead somewhere there, too."""

import re
import shutil
from pathlib import Path

from hart_lite import __version__

HERE = Path(__file__).parent
COPIES = HERE / "_pages"  # of Markdown outside of docs/
LINK = re.compile(r"\]\((\.\./[\w./-]+\.md)(#[\w-]+)?\)")

project, author, release = "hart-lite", "the authors of hart-lite", __version__
extensions = ["myst_parser", "sphinx.ext.autodoc"]
html_theme, html_title = "furo", f"hart-lite {release}"
exclude_patterns = ["_build"]
myst_heading_anchors = 4
autodoc_typehints = "description"
suppress_warnings = ["myst.xref_missing"]  # links between copies; tests/test_docs.py follows every link of the sources


def _copy_of(path: Path) -> str:
    """Where a Markdown file of the project lies in the site."""
    return "-".join(path.relative_to(HERE.parent).parts)


def _copy_pages(app) -> None:
    shutil.rmtree(COPIES, ignore_errors=True)
    COPIES.mkdir()
    sources = [HERE.parent / "recipes/README.md", *(HERE.parent / "experiments/results").glob("*.md")]
    for path in sources:
        (COPIES / _copy_of(path)).write_text(f"---\norphan: true\n---\n\n{path.read_text(encoding='utf-8')}")


def _links_into_the_site(app, name: str, text: list[str]) -> None:
    def inside(match: re.Match) -> str:
        target = (HERE / match[1]).resolve()
        if target == HERE.parent / "README.md":
            return "](index.md)"
        return f"](_pages/{_copy_of(target)}{match[2] or ''})"

    if not name.startswith("_pages/"):
        text[0] = LINK.sub(inside, text[0])


def setup(app) -> None:
    app.connect("builder-inited", _copy_pages)
    app.connect("source-read", _links_into_the_site)
