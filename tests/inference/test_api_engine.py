"""`api:` models against a real HTTP server in a process of its own: answers, errors, limits, and the key that is never
shown."""

import base64
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from chat_server import KEY, Server
from pictures import Photo
from PIL import Image

from hart_lite.errors import HartError
from hart_lite.inference.engine import Conversation
from hart_lite.inference.load import open_model
from hart_lite.inference.openai_engine import AbsoluteInterface, ApiEngine, RelativeInterface
from hart_lite.inference.protocols.base import Outcome, ProtocolRun, Say
from hart_lite.types import ImageView, Tokens, Turn
from hart_lite.utils.openai_client import Client

VIEW = ImageView(Photo(56, 84), (56, 84))


pytestmark = pytest.mark.usefixtures("no_proxy")


@pytest.fixture(autouse=True)
def _a_server_of_ones_own(monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")


def ask(client: Client, model: str, *says: Say) -> Conversation:
    engine = ApiEngine(model, client, AbsoluteInterface())
    [(number, done)] = engine.answer([conversation(*(says or [Say(["What?"])]))])
    assert number == 0
    return done


def conversation(*says: Say) -> ProtocolRun:
    heard = []
    for say in says:
        heard.append((yield say))
    return Outcome("|".join(heard))


def turn(kind: str, text: str, prompt: int | None, response: int | None, images: int, fresh: bool = True) -> Turn:
    """A turn as a server tells of it: without ids."""
    return Turn(kind, Tokens(), (), text, prompt, response, images, fresh)


# -- the format ----------------------------------------------------------------------------------------------------


def test_a_conversation_in_the_chat_format(client, server):
    first = Say(["Look: ", "here ", VIEW, "What?"], "locate", system="Be brief.", max_tokens=77)
    second = Say(["And?", VIEW], "tool", fresh=False, keep="It is", max_tokens=5)
    third = Say(["So?"], fresh=False, stop=("is",))
    done = ask(client, "ok/format", first, second, third, Say(["Anew?"]))
    bodies = server.get("requests", "ok/format")
    url = bodies[0]["messages"][1]["content"][1]["image_url"]["url"]
    kind, _, data = url.partition(",")
    assert kind == "data:image/png;base64"
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert image.format == "PNG" and image.size == (56, 84)
    assert image.tobytes() == VIEW.load().tobytes()
    picture = {"type": "image_url", "image_url": {"url": url}}
    opening = [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [{"type": "text", "text": "Look: here "}, picture, {"type": "text", "text": "What?"}],
        },
    ]
    assert bodies[0] == {"model": "ok/format", "messages": opening, "max_tokens": 77, "temperature": 0}
    follow = [{"role": "assistant", "content": "It is"},
              {"role": "user", "content": [{"type": "text", "text": "And?"}, picture]}]  # fmt: skip
    assert bodies[1]["messages"] == opening + follow
    last = [{"role": "assistant", "content": "The answer is (B)."},
            {"role": "user", "content": [{"type": "text", "text": "So?"}]}]  # fmt: skip
    assert bodies[2]["messages"] == opening + follow + last
    assert bodies[3]["messages"] == [{"role": "user", "content": [{"type": "text", "text": "Anew?"}]}]
    text = "The answer is (B)."
    assert done == Conversation(
        (
            turn("locate", text, 11, 5, 1),
            turn("tool", text, 11, 5, 2, fresh=False),
            turn("answer", "The answer is", 11, 5, 2, fresh=False),
            turn("answer", text, 11, 5, 0),
        ),
        Outcome(f"{text}|{text}|The answer is|{text}"),
    )
    assert set(server.get("secrets")) >= {f"Bearer {KEY}"}


def test_what_is_cut_after_a_stop_stands_so_in_the_conversation(client, server):
    ask(client, "ok/stop", Say(["What?"], stop=("answer",)), Say(["And?"], fresh=False))
    assert server.get("requests", "ok/stop")[1]["messages"][1] == {"role": "assistant", "content": "The answer"}


def test_a_server_that_tells_no_tokens_and_refuses(client):
    done = ask(client, "refusal")
    assert done == Conversation((turn("answer", "", None, None, 0),), Outcome(""))


def test_a_model_that_calls_the_limit_by_another_name(client, server):
    assert ask(client, "new", Say(["What?"], max_tokens=7), Say(["And?"], max_tokens=9)).outcome
    asked = [{k: v for k, v in body.items() if k.startswith("max")} for body in server.get("requests", "new")]
    assert asked == [{"max_tokens": 7}, {"max_completion_tokens": 7}, {"max_completion_tokens": 9}]


def test_threads_learn_the_other_name_together(client):
    engine = ApiEngine("new/many", client, AbsoluteInterface())
    done = dict(engine.answer([conversation(Say([f"What {n}?"])) for n in range(8)]))
    assert all(talk.outcome for talk in done.values())


def test_many_conversations_go_on_side_by_side_and_keep_apart(client, server):
    engine = ApiEngine("ok/many", client, AbsoluteInterface())
    runs = [
        conversation(*[Say([f"Question {n}, turn {turn}?"], fresh=turn == 0) for turn in range(3)]) for n in range(20)
    ]
    done = dict(engine.answer(runs))
    assert set(done) == set(range(20))
    assert all(talk.outcome for talk in done.values())
    longest = [body["messages"] for body in server.get("requests", "ok/many") if len(body["messages"]) == 5]
    said = sorted([message["content"][0]["text"] for message in messages[::2]] for messages in longest)
    assert said == sorted([f"Question {n}, turn {turn}?" for turn in range(3)] for n in range(20))


# -- errors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "failure"),
    [
        ("500", "HTTP 503: overloaded, Bearer [key], 3 times"),
        ("no-choices", "the server's response is no chat completion"),
        ("echo-error", "HTTP 400: bad header Bearer [key]  [31m"),
    ],
)
def test_what_fails_is_said_and_the_others_go_on(client, model, failure):
    assert ask(client, model) == Conversation((), None, failure)


def test_a_wrong_key_stops_everything(client, server):
    engine = ApiEngine("keyed", client, AbsoluteInterface(), threads=2)
    with pytest.raises(HartError) as caught:
        list(engine.answer([conversation(Say(["What?"])) for _ in range(50)]))
    assert str(caught.value).startswith(f"{client.url} refuses: HTTP 401: Incorrect API key provided: [key].")
    assert len(server.get("requests", "keyed")) < 10
    assert ask(Client(client.url, "right-key-123456"), "keyed").outcome


def test_the_key_is_nowhere(client, server, capfd):
    """In no answer and in no failure."""
    done = ask(client, "echo")
    assert done.outcome.text == "(B). So said the bearer of Bearer [key], ?"
    shown = [repr(done), repr(client), repr(ask(client, "500")), repr(ask(client, "not-json"))]
    assert not any(KEY in text for text in (*shown, *capfd.readouterr()))
    assert f"Bearer {KEY}" in server.get("secrets")


# -- box formats ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (4000, 3000), (3000, 4000), (10, 20_000), (672, 672), (50, 90)])
@pytest.mark.parametrize("most", [784, 16 * 784, 1280 * 784])
def test_images_are_sent_on_the_grid_within_the_budget(size, most):
    least = min(4 * 784, most)
    width, height = AbsoluteInterface().fit(size, most, least)
    assert width % 28 == height % 28 == 0 and 784 <= width * height <= most
    assert max(width, height) / min(width, height) <= 110
    if size == (4000, 3000) and most > 784:
        assert width * height > 0.7 * most and 1.1 < width / height < 1.7


def test_a_known_family_goes_by_its_own_rules():
    """The size that smart_resize gives a crop: it floors what is over the budget, so a server has nothing to change."""
    qwen = open_model("api:me/Qwen2.5-VL-7B-mine")
    assert (qwen.family, open_model("api:m", family="qwen2_5_vl").family) == ("qwen2_5_vl", "qwen2_5_vl")
    assert qwen.engine.interface.fit((124, 116), 4704, 784) == (56, 56)
    assert qwen.engine.interface.image_tokens((56, 84)) == 6
    intern = open_model("api:InternVL3_5-8B-hf").engine.interface
    assert intern.fit((1000, 400), 12 * 448**2, 448**2) == (5 * 448, 2 * 448) and intern.image_tokens((896, 448)) == 768
    assert intern.boxes_from_text("<box>[[0, 0, 500, 1000]]</box>", [(448, 448)], [(200, 100)]) == [(0, 0, 100, 100, 0)]
    llava = open_model("api:x", family="llava_onevision").engine.interface
    assert (
        llava.fit((1000, 1000), 4 * 384**2, 384**2) == (768, 768) and llava.image_tokens((384, 384)) == 2 * 27**2 + 27
    )
    assert open_model("api:gpt-4o").family == "api"


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"family": "qwen"}, "unknown family 'qwen'; allowed: qwen2_5_vl, qwen3_vl, internvl3, llava_onevision"),
        ({"family": "qwen2_5_vl", "box_format": "relative"}, "--family qwen2_5_vl says how boxes are written"),
    ],
)
def test_a_family_that_cannot_be_meant(said, message):
    with pytest.raises(HartError, match=message):
        open_model("api:x", **said)


def test_a_server_that_shrinks_images_is_told_from_one_that_does_not(client):
    view = ImageView(Photo(336, 336), (336, 336))
    for name, fails in (("counts/Qwen2.5-VL", False), ("shrinks/Qwen2.5-VL", True), ("shrinks/gpt", False)):
        engine = ApiEngine(name, client, open_model(f"api:{name}").engine.interface)
        runs = [conversation(Say([view, "Which letter is on the sign?"]))]
        if not fails:
            [(_, done)] = engine.answer(runs)
            assert done.outcome.text == "The answer is (B)."
            continue
        message = r"counts 97 tokens in a prompt with images of 144 tokens and 6 words.*\"max_pixels\": 112896"
        with pytest.raises(HartError, match=message):
            list(engine.answer(runs))


def test_box_formats_read_the_same_numbers_as_different_places():
    seen, original = [(100, 200), (50, 50)], [(1000, 1000), (500, 500)]
    text = '[{"bbox_2d": [10, 20, 30, 40]}, {"bbox_2d": [5, 5, 10, 10], "image": 2}]'
    assert AbsoluteInterface().boxes_from_text(text, seen, original) == [
        (100, 100, 300, 200, 0), (50, 50, 100, 100, 1)]  # fmt: skip
    assert RelativeInterface().boxes_from_text(text, seen, original) == [
        (10, 20, 30, 40, 0), (2.5, 2.5, 5, 5, 1)]  # fmt: skip


# -- a whole evaluation --------------------------------------------------------------------------------------------


def evaluate(server: Server, out: Path, model: str, *words: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"OPENAI_BASE_URL": server.url, "OPENAI_API_KEY": KEY, "NO_PROXY": "*"}
    command = ["-m", "hart_lite.cli.main", "eval", f"api:{model}", "--benchmark", "toy=scenes=2", "--out", str(out)]
    command += ["--full-pixels", "12544", "--crop-pixels", "4704", *words]
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment)


def rows(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.slow
def test_an_evaluation_over_a_server_in_every_mode(server, tmp_path):
    modes = "full,crops,full+crops,mgpo,deepeyes,pixel-reasoner"
    done = evaluate(server, tmp_path / "eval", "ok/eval", "--mode", modes, "--box-format", "relative")
    assert done.returncode == 0, done.stderr
    found = rows(tmp_path / "eval")
    assert len(found) == 4 * 6
    assert {row["text"] for row in found} == {"The answer is (B)."}
    seen = [0, 0, 672 * 0.056, 672 * 0.056, 0]
    boxes = {mode: [seen] for mode in modes.split(",")} | {
        "full": [],
        "pixel-reasoner": [[134.4, 134.4, 268.8, 268.8, 0]],
    }
    kinds = {"full": ["answer"], "mgpo": ["locate", "answer"]}
    kinds |= {mode: ["locate", "verify"] for mode in ("crops", "full+crops")}
    images = {"full": [1], "crops": [1, 1]}  # in sight
    for row in found:
        assert row["boxes"] == [pytest.approx(box) for box in boxes[row["mode"]]]
        assert [turn["kind"] for turn in row["turns"]] == kinds.get(row["mode"], ["answer", "tool"])
        assert [turn["images"] for turn in row["turns"]] == images.get(row["mode"], [1, 2])
        assert not row["counts"].get("tool_errors")
    kept = [body["messages"][-2]["content"] for body in server.get("requests", "ok/eval") if len(body["messages"]) == 4]
    assert sum(text.endswith("\n```") for text in kept) == 4  # what MGPO cut off is gone
    settings = json.loads((tmp_path / "eval" / "eval.json").read_text())
    assert (settings["family"], settings["box_format"], settings["weights"]) == (
        "api",
        "relative",
        {"server": server.url},
    )


@pytest.mark.slow
def test_failures_leave_no_rows_and_a_second_run_asks_for_them(server, tmp_path):
    out = tmp_path / "eval"
    first = evaluate(server, out, "two-fail", "--mode", "full")
    assert first.returncode == 1
    assert "2 without an answer: HTTP 400: image too large" in first.stderr
    assert "2 answers are missing; run the same command again" in first.stderr
    assert len(rows(out)) == 2
    assert evaluate(server, out, "two-fail", "--mode", "full").returncode == 0
    assert len({row["id"] for row in rows(out)}) == len(rows(out)) == 4


@pytest.mark.slow
@pytest.mark.parametrize("model", ["echo", "echo-error", "keyed"])
def test_the_key_is_in_no_file_and_in_no_output(server, tmp_path, model):
    done = evaluate(server, tmp_path / "eval", model, "--mode", "full,mgpo")
    assert done.returncode == (0 if model == "echo" else 1)
    assert KEY not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files and not any(KEY.encode() in path.read_bytes() for path in files)
