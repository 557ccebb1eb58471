"""The page of `hart-lite demo` and the server behind it, on the loopback interface of this machine and nowhere else."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from html import escape
from pathlib import Path

import gradio as gr
import uvicorn
from fastapi import FastAPI

from hart_lite.demo.gate import CONNECTIONS, HOST, Gate
from hart_lite.demo.panels import STYLE, notice, panels
from hart_lite.demo.session import (
    MAX_BYTES,
    MAX_WORDS,
    SCENES,
    Demo,
    Request,
    as_request,
    choice_words,
    held_out_examples,
    read_photo,
    read_request,
)
from hart_lite.errors import HartError
from hart_lite.report.html import Pictures
from hart_lite.types import Example

WAITING = 16  # questions in the queue; a further one is told so
KEPT_BYTES = 8 * MAX_BYTES  # of uploaded photos
THUMBNAIL = 224  # pixels
FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
PAGE_STYLE = """
.gradio-container main { width: 100%; max-width: 76rem; margin: 0 auto; }
.head h1 { font-size: 1.7rem; font-weight: 700; letter-spacing: -.01em; margin: .4rem 0 .2rem; }
.try { container-type: inline-size; }  /* its strip scrolls, and makes the page no wider */
.head p, .try p { margin: .15rem 0; color: var(--body-text-color-subdued); overflow-wrap: anywhere; }
.try p { font-size: .9rem; margin-bottom: .5rem; }
.try div { display: grid; grid-auto-flow: column; grid-auto-columns: minmax(11rem, 1fr); gap: .6rem; overflow-x: auto;
  padding: 2px 2px .6rem; scroll-snap-type: x proximity; }
.try button { display: grid; grid-template-columns: 3.5rem 1fr; align-items: center; gap: .6rem; padding: .4rem;
  text-align: left; font-size: .8rem; font-weight: 400; line-height: 1.25; cursor: pointer; scroll-snap-align: start;
  margin: 0;
  color: var(--body-text-color); background: var(--block-background-fill);
  border: 1px solid var(--border-color-primary); border-radius: .7rem; }
.try button:hover, .try button:focus-visible { border-color: var(--primary-500); }
.try img { width: 3.5rem; height: 3.5rem; border-radius: .4rem; margin: 0; }
"""
CLICKS = (
    "element.addEventListener('click', event => { const button = event.target.closest('button'); "
    "if (button) trigger('click', {number: Number(button.dataset.number)}); });"
)


def build_page(demo: Demo, about: str, folder: Path) -> gr.Blocks:
    """`about` says who answers. Examples are drawn into `folder` as they are asked for."""
    samples = held_out_examples()

    def answer(request: Request, truth: Example | None = None) -> Iterator[str]:
        found = {}
        yield panels(request, demo.answerers, found, truth)
        for who, asked in demo.answers(request):
            found[who] = asked
            yield panels(request, demo.answerers, found, truth)

    def on_ask(photo: dict | None, questions: str | None, choices: str | None) -> Iterator[str]:
        try:
            yield from answer(read_request(_path(photo), str(questions or ""), str(choices or "")))
        except HartError as error:
            yield notice(str(error))

    def on_photo(photo: dict | None) -> str:
        try:
            read_photo(_path(photo))
        except HartError as error:
            return notice(str(error))
        return ""

    def on_example(event: gr.EventData) -> tuple[str, str, str]:
        example = samples[_number(event)]
        path = folder / f"{example.images[0].key}.png"
        example.images[0].load().save(path)
        return str(path), example.question, choice_words(example.choices)

    def answer_example(event: gr.EventData) -> Iterator[str]:
        example = samples[_number(event)]
        yield from answer(as_request(example), example)

    with gr.Blocks(title="hart-lite demo", analytics_enabled=False, fill_width=True) as page:
        gr.HTML(
            f'<div class="head"><h1>Where does it look?</h1><p>{escape(about)}</p></div>',
            js_on_load=None,
            padding=False,
        )
        with gr.Row(equal_height=True):
            with gr.Column(min_width=300):
                photo = gr.Image(
                    label="Photo", type="filepath", sources=["upload", "clipboard"], buttons=[], height=300
                )
            with gr.Column(min_width=300):
                question = gr.Textbox(
                    label="Question",
                    info="Several go one a line.",
                    placeholder="What does the red sign say?",
                    lines=2,
                    max_length=MAX_WORDS,
                )
                choices = gr.Textbox(
                    label="Choices",
                    info="Optional: apart by commas.",
                    placeholder="STOP, SLOW, EXIT",
                    max_length=MAX_WORDS,
                )
                button = gr.Button("Ask", variant="primary")
        tries = gr.HTML(_tries(samples), js_on_load=CLICKS, padding=False, elem_id="examples")
        result = gr.HTML(js_on_load=None, padding=False, elem_id="result")

        # One thing at a time goes through the model, or a decoder. Nothing of this is an API. The library is kept from
        # opening the photo (`preprocess`): it would do so without our bounds, and answer for a broken one.
        shared = {
            "concurrency_id": "model",
            "concurrency_limit": 1,
            "api_visibility": "private",
            "show_progress": "hidden",
            "preprocess": False,
        }
        button.click(on_ask, [photo, question, choices], result, scroll_to_output=True, **shared)
        photo.upload(on_photo, photo, result, **shared)
        # Two listeners: what a stream of results leaves unchanged beside them, the page loses (gradio 6.31).
        tries.click(on_example, None, [photo, question, choices], **shared)
        tries.click(answer_example, None, result, **shared)
    page.queue(max_size=WAITING)
    return page


def _number(event: gr.EventData) -> int:
    return int(event._data["number"]) % SCENES


def _path(photo: dict | None) -> Path | None:
    return Path(photo["path"]) if photo and photo.get("path") else None


def _tries(samples: list[Example]) -> str:
    pictures = Pictures()
    buttons = "".join(
        f'<button type="button" data-number="{n}">'
        f'<img src="{pictures.url(example.images[0].load(), THUMBNAIL)}" alt="">'
        f"<span>{escape(example.question)}</span></button>"
        for n, example in enumerate(samples)
    )
    return f'<div class="try"><p>Or try a held-out scene of the embedded world:</p><div>{buttons}</div></div>'


def serve(demo: Demo, about: str, listener: socket.socket) -> None:
    """Until it is stopped. Uploads lie in a folder of their own, which goes with the server."""
    with tempfile.TemporaryDirectory(prefix="hart-lite-demo-") as name:
        os.environ["GRADIO_TEMP_DIR"] = name  # where gradio keeps files, and from where it gives them out
        theme = gr.themes.Default(
            primary_hue="indigo", font=FONTS, font_mono=("ui-monospace", "Menlo", "Consolas", "monospace")
        )
        theme.set(body_text_color_subdued="*neutral_500", block_info_text_color="*neutral_500")
        app = gr.mount_gradio_app(
            FastAPI(docs_url=None, redoc_url=None, openapi_url=None),
            build_page(demo, about, Path(name)),
            path="/",
            server_name=HOST,
            footer_links=[],
            run_history=False,
            allowed_paths=[],
            show_error=False,
            max_file_size=MAX_BYTES,
            ssr_mode=False,
            enable_monitoring=False,
            pwa=False,
            mcp_server=False,
            theme=theme,
            css=PAGE_STYLE + STYLE,
        )
        gate = Gate(app, Path(name), MAX_BYTES, KEPT_BYTES)
        config = uvicorn.Config(
            gate, log_level="warning", limit_concurrency=CONNECTIONS, timeout_graceful_shutdown=2, server_header=False
        )
        print(f"hart-lite: the demo is at http://{HOST}:{listener.getsockname()[1]} (Ctrl+C stops it)", flush=True)
        uvicorn.Server(config).run(sockets=[listener])
