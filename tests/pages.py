"""A page as a browser reads it: what is loaded, what may run, which text is shown."""

import base64
import hashlib
import re
from html.parser import HTMLParser

HOSTILE = '</pre></article><script>alert(1)</script><img src="http://x.test/a" onerror=alert(2)>"\'&'
VOID = {"meta", "img", "source", "input", "br"}


def digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


class Page(HTMLParser):
    """Checks that tags close in order, that nothing is loaded from elsewhere, and that the policy lets a browser run
    the page's own script and style and nothing else."""

    def __init__(self, text: str, images: str = "data:") -> None:
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], ""
        self.feed(text)
        assert not self.open
        loaded = [v for _, name, v in self.attributes if name in ("src", "srcset", "data", "action")]
        loaded += [v for tag, name, v in self.attributes if name == "href" and tag in ("image", "use", "link")]
        own = ("data:image/jpeg;base64,", "data:image/svg+xml;base64,", "#")
        assert [v for v in loaded if not (v or "").startswith(own)] == self.files(loaded)
        assert not {"link", "iframe", "object", "embed", "base"} & set(self.tags)
        assert not [name for _, name, _ in self.attributes if name.startswith("on") or name == "style"]
        assert self.tags.count("script") == 1
        [policy] = [v for v in self.values("meta", "content") if "default-src" in v]
        style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]
        script = re.search(r"<script>(.*?)</script>", text, re.DOTALL)[1]
        assert policy.replace("connect-src 'self'; ", "") == (
            f"default-src 'none'; img-src {images}; style-src {digest(style)}; script-src {digest(script)}; "
            "base-uri 'none'; form-action 'none'"
        )
        assert "url(" not in style and "@import" not in style and "prefers-color-scheme: dark" in style
        assert "width=device-width, initial-scale=1" in self.values("meta", "content")

    @staticmethod
    def files(loaded: list[str]) -> list[str]:
        """Pictures beside the page."""
        return [v for v in loaded if re.fullmatch(r"[\d-]+\.jpg", v)]

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attributes]
        if tag not in VOID and not self.get_starttag_text().endswith("/>"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.text += data

    def values(self, tag: str, name: str) -> list[str]:
        return [value for t, n, value in self.attributes if (t, n) == (tag, name)]

    def classes(self, tag: str) -> list[str]:
        return self.values(tag, "class")
