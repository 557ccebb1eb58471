"""Everything of hart-lite that reads what others wrote, as functions of bytes, with a few good inputs each."""

from __future__ import annotations

import base64
import io
import json
import queue
import socket
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save

from benchmarks.trust.fuzz_watch import Target
from hart_lite import checkpoints
from hart_lite.answers import grade, normalise, read_answer
from hart_lite.api_client import Client, RequestError
from hart_lite.api_engine import ApiEngine
from hart_lite.benchmarks.choices import from_question, from_text, lines
from hart_lite.benchmarks.official import (
    hrbench_letter,
    mme_realworld_letter,
    mmstar_right,
    treebench_miou,
    treebench_right,
    vstar_letter,
)
from hart_lite.benchmarks.registry import BENCHMARKS
from hart_lite.boxes import valid_boxes
from hart_lite.data import checked
from hart_lite.families.internvl3 import InternVL3
from hart_lite.families.llava_onevision import LlavaOneVision
from hart_lite.frames import AbsoluteFrame, RelativeFrame
from hart_lite.images import ImageBytes
from hart_lite.layouts.coco import read_coco
from hart_lite.layouts.conversations import read_conversations
from hart_lite.layouts.csv_folder import read_csv_folder
from hart_lite.layouts.mgpo import read_mgpo
from hart_lite.lora_file import read_lora
from hart_lite.predictions import read_evaluation
from hart_lite.protocols.base import Say, Setting
from hart_lite.protocols.registry import PROTOCOLS
from hart_lite.recipe import dump_recipe, load_recipe, shipped_recipes
from hart_lite.recipe_schema import Recipe
from hart_lite.report_run import read_run
from hart_lite.rows import Row, read_rows
from hart_lite.run_record import RunRecord, record_of
from hart_lite.shards import Checkpoint
from hart_lite.types import Box, Example, HartError

# For the coverage-guided fuzzer: those that read an input in a millisecond or so.
PARSERS = (
    *("responses", "boxes", "protocols", "choices", "overrides", "rows", "rows-mme", "layout-llava", "layout-mgpo"),
    *("layout-coco", "layout-csv", "bench-mme", "bench-vstar", "bench-vstar-beside", "bench-treebench", "bench-mmstar"),
    *("predictions", "eval-settings", "record", "shards", "shard-index", "adapter-config", "adapter-weights", "api"),
)
CHOICES = ("red", "blue", "green", "white")
SIZE = (1120, 560)


def text_of(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def lists(*values: object) -> tuple[bytes, ...]:
    return tuple(json.dumps(value).encode() for value in values)


def png(size: tuple[int, int] = (24, 16)) -> bytes:
    stream = io.BytesIO()
    Image.linear_gradient("L").resize(size).convert("RGB").save(stream, "PNG")
    return stream.getvalue()


# -- what a model writes -------------------------------------------------------------------------------------------

RESPONSES = (
    b"<think>It is red.</think>The answer is (A) red.",
    rb"So \boxed{\text{B}} </s>",
    b"<answer>C. green</answer>",
    b"A or B? I choose D.\n\nAnswer: option (D)",
    "\uff21. \u201cred\u201d \u2014 not (B), because 1,000.0".encode(),
    b'[{"bbox_2d": [100, 40, 200, 140], "label": "x"}, {"bbox_2d": [1, 2, 3e9, nan], "image": 2}]',
    b'```json\n[{"bbox_2d": [10, 20, 110, 220], "label": "sign"}]\n```\nand more',
    b"<ref>image 2</ref><box>[[100, 200, 300, 400],[1,2,3]]</box>",
    b"image 1: [0.1, 0.25, 0.5, .75] <box>[10,20,30,40]</box>",
    b'<tool_call>\n{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [10, 20, 100, 200]}}\n</tool_call>',
    b'<tool_call>{"name": "crop_image_normalized", "arguments": {"bbox_2d": [0.1, 0.2, 1.0, 0.9], "target_image": 1}}'
    b"</tool_call>",
)


def read_response(data: bytes) -> None:
    """The grader and the official scorers: no error at all."""
    text = text_of(data)
    for choices in ((), CHOICES, CHOICES[:2]):
        letter = read_answer(text, choices)
        assert letter is None or not choices or letter in "ABCD"[: len(choices)], letter
        assert grade(text, "B" if choices else "12", choices) in (True, False)
    assert normalise(normalise(text)) == normalise(text)
    mme_realworld_letter(text, [f"({a}) {c}" for a, c in zip("ABCD", CHOICES, strict=True)])
    vstar_letter(text)
    hrbench_letter(text, CHOICES)
    mmstar_right(text, "B")
    treebench_right(text, "B")
    assert 0 <= treebench_miou(text, [(0, 0, 30, 40)]) <= 1


class _InternVL(InternVL3):
    def __init__(self) -> None:
        """Without a checkpoint: reading boxes needs none."""


class _Llava(LlavaOneVision):
    def __init__(self) -> None:
        """As above."""


FAMILIES = (AbsoluteFrame(), RelativeFrame(), _InternVL(), _Llava())


def read_named_boxes(data: bytes) -> None:
    """Every family's reader: boxes inside the image, or none."""
    text = text_of(data)
    for frame in FAMILIES:
        for originals in ([SIZE], [SIZE, (3, 5)]):
            seen = [(448, 224), (28, 28)][: len(originals)]
            for *corners, image in frame.boxes_from_text(text, seen, originals):
                boxes, rejected = valid_boxes([corners], originals[image], 4, image=image)
                assert len(boxes) + rejected == 1
                for box in boxes:
                    _inside(box, originals[image])


def _inside(box: Box, size: tuple[int, int]) -> None:
    assert 0 <= box.x1 < box.x2 <= size[0] and 0 <= box.y1 < box.y2 <= size[1], box


def protocols(folder: Path) -> Callable[[bytes], None]:
    image = ImageBytes(png(SIZE), "photo")
    example = Example("q", (image,), "Which?", "B", CHOICES)
    plain = Setting(AbsoluteFrame(), "words", 128 * 784, 16 * 784, 784, 0.1, 4, 1.0, 50, 60)

    def read(data: bytes) -> None:
        """Every way of answering, with the pieces of one text for the model's answers."""
        pieces = text_of(data).split("\x1e")
        for protocol in PROTOCOLS.values():
            for setting in (plain, replace(plain, as_published=True)):
                run = protocol(example, setting)
                next(run)
                for turn in range(20):
                    try:
                        run.send(pieces[turn % len(pieces)])
                    except StopIteration as end:
                        for box in end.value.boxes:
                            _inside(box, SIZE)
                        break
                else:
                    raise AssertionError("a conversation of 20 turns")

    return read


# -- recipes -------------------------------------------------------------------------------------------------------

OVERRIDES = (
    *(b"k=0.3", b"stages.0.steps=20", b"data.eval_world.colours=[red,green]", b"rollout.samples=8", b"name=x"),
    *(b"stages.1.kind=rl", b"model.lora.parts=[language,vision]", b"data.columns={id: Question}", b"=", b"a.b"),
)


def recipes(folder: Path) -> Callable[[bytes], None]:
    path, again = folder / "recipe.yaml", folder / "again.yaml"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        recipe = load_recipe(path)
        dump_recipe(recipe, again)
        assert load_recipe(again) == recipe

    return read


def read_overrides(data: bytes) -> None:
    load_recipe("tiny_cpu", text_of(data).split("\x1e"))


# -- rows ----------------------------------------------------------------------------------------------------------

ROW = {"id": 7, "image": "a.png", "question": "What is it?", "choices": ["cat", "dog"], "answer": "B"}
ROWS = (
    ROW | {"boxes": [[0, 0, 20, 16], [1.5, 2, 3, 4]], "category": "ocr"},
    {"images": ["a.png", "b.png"], "question": "Which?", "answer": "the left", "boxes": [[0, 0, 24, 16, 1]]},
)
CONVERSATION = {
    "id": "1",
    "image": "a.png",
    "conversations": [
        *({"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A car."}),
        *({"from": "human", "value": "And?"}, {"from": "gpt", "value": "No."}),
    ],
}
MESSAGES = {
    "images": ["a.png"],
    "messages": [{"role": "user", "content": "<image>?"}, {"role": "assistant", "content": "x"}],
}
MGPO = {"image": "a.png", "question": "Q?", "choices": "(A) x\n(B) y", "reward_model": {"ground_truth": "A"}, "id": 3}
COCO = {
    "images": [{"id": 1, "file_name": "a.png", "width": 24, "height": 16}],
    "annotations": [
        {"id": 5, "image_id": 1, "category_id": 2, "bbox": [1, 2, 10, 9.5], "question": "What?", "answer": "x"},
        {"id": 6, "image_id": 1, "category_id": 2, "bbox": [1, 2, 10, 9], "captions": ["a", "b"], "answer": "y"},
    ],
    "categories": [{"id": 2, "name": "cat"}],
}
MME = {
    "Question_id": "Perception/Autonomous_Driving/Objects_Identify/0001",
    "Image": "a.png",
    "Text": "What is to the left?",
    "Answer choices": ["(A) A bus", "(B) A truck", "(C) A tree", "(D) Nothing", "(E) No such object."],
    "Ground truth": "B",
    "Subtask": "Autonomous_Driving",
    "Task": "Perception",
}
VSTAR = {
    "image": "a.png",
    "text": "What is it made of?\n(A) rubber\n(B) cotton\nAnswer with the option's letter.",
    "category": "direct_attributes",
    "label": "B",
    "question_id": "0",
}
BESIDE = {"target_object": ["x"], "bbox": [[2, 1, 10, 4]], "question": "What?", "options": ["of wood", "of tin"]}
VISCOT = {"img_path": "a.png", "expression": "Who?", "bbox": [1, 2, 9, 9], "height": 16, "width": 24, "question_id": 0}
TOLD = {
    "question_id": 0,
    "image": ["a.png"],
    "conversations": [{"from": "human", "value": "<image>\nWho? Please provide the bounding box of"}] * 3
    + [{"from": "gpt", "value": "Ann"}],
}
CSV = b'id,image,question,choices,answer,category\n1,a.png,"What, then?",cat|dog,A,x\n2,a.png,Who?,,Ann,\n'


def _tsv(**cells: object) -> bytes:
    return ("\t".join(cells) + "\n" + "\t".join(map(str, cells.values())) + "\n").encode()


_CELL = base64.b64encode(png()).decode()
_LETTERS = {"A": "red", "B": "blue", "C": "green", "D": "white"}
_OPTIONS = {"multi-choice options": '"A. red\nB. blue"', "target_instances": "[[1, 2, 9, 9]]"}
TABLES = {
    "treebench": _tsv(index=0, image=_CELL, question="What?", answer="A", category="Perception/OCR", **_OPTIONS),
    "hrbench4k": _tsv(
        index=0, question="What?", answer="A", category="single", **_LETTERS, cycle_category=0, image=_CELL
    ),
    "mmstar": _tsv(index=0, question="What? Options: A: x, B: y", image=_CELL, answer="B", category="math"),
}


def _images(folder: Path) -> None:
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes(png())


def rows_by(folder: Path, name: str, rows: Callable[[str], Iterable[Row]]) -> Callable[[bytes], None]:
    """A layout's rows, read and checked as training and `hart-lite data convert` check them."""
    path = folder / name
    _images(folder)

    def read(data: bytes) -> None:
        path.write_bytes(data)
        for where, result in checked(iter(rows(str(path)))):
            assert isinstance(where, str) and isinstance(result, Example | HartError)
            str(result)

    return read


def benchmark(folder: Path, name: str, file: str, source: str = "") -> Callable[[bytes], None]:
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    _images(path.parent)

    def read(data: bytes) -> None:
        path.write_bytes(data)
        for row in BENCHMARKS[name].read(str(folder / source) if source else str(path)):
            if isinstance(row, Example):
                BENCHMARKS[name].prompt(row)
                for image in row.images:
                    image.load()

    return read


def read_choices(data: bytes) -> None:
    for reader in (from_text, from_question):
        try:
            reader(text_of(data))
        except HartError:
            continue
    lines(text_of(data))


# -- what our own commands left behind -----------------------------------------------------------------------------

PREDICTION = {
    "benchmark": "treebench", "mode": "crops", "id": "1", "category": "Perception/OCR", "cluster": "i",
    "question": "Q?",
    "choices": ["a", "b"], "truth": "A", "text": "A", "answer": "A", "strict": True, "official": True,
    "boxes": [[1, 2, 3, 4, 0]], "truth_boxes": [[1, 2, 3, 4, 0]], "counts": {"rejected_boxes": 0},
    "turns": [{"kind": "verify", "text": "..", "prompt_tokens": 5, "response_tokens": None, "images": 1}],
    "grounding": {"grounded": 1, "grounded_targets": 1, "targets": 1, "iou": 1.0, "coverage": 0.5},
}  # fmt: skip
EVAL = {"model": "runs/small", "benchmarks": {"treebench": "T.tsv"}, "modes": ["crops"], "seed": 0}
METRIC = {"stage": "1-rl", "step": 1, "reward": 0.5, "kl": 0.01}
ROLLOUT = {"picture": "step-00001-0.jpg", "id": "1", "question": "Q?", "boxes": [[0, 0, 9, 9, 0]], "reward": 1.0}
RECORD = {
    "base": "Qwen/Qwen2.5-VL-7B-Instruct", "family": "qwen2_5_vl", "licence": {"license": "apache-2.0"}, "recipe": None,
    "libraries": {"torch": "2"}, "evaluations": {"before": {"n": 1}}, "merged": None,
    "pictures": [{"file": "a.jpg", "stage": "1-rl", "step": 1, "question": "Q", "right": 1, "samples": 2}],
}  # fmt: skip
STATE = {"global_step": 2, "max_steps": 4}
ADAPTER = {"peft_type": "LORA", "base_model_name_or_path": "embedded", "r": 2, "lora_alpha": 4, "lora_dropout": 0.0}


def evaluation(folder: Path, file: str) -> Callable[[bytes], None]:
    (folder / "eval.json").write_text(json.dumps(EVAL))
    (folder / "predictions.jsonl").write_text(json.dumps(PREDICTION) + "\n")

    def read(data: bytes) -> None:
        (folder / file).write_bytes(data)
        found = read_evaluation(folder)
        found.parts()
        str(found.label)

    return read


def run_folder(folder: Path, file: str) -> Callable[[bytes], None]:
    """A run directory with one file that anybody wrote, read for its report and for its model card."""
    (folder / "evaluation").mkdir()
    (folder / "progress").mkdir()
    (folder / "adapter").mkdir()
    (folder / "stages/1-rl/rollouts").mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(folder / "stages/1-rl/rollouts/step-00001-0.jpg")
    stage = {"kind": "rl", "steps": 4}
    dump_recipe(Recipe.model_validate({"name": "small", "stages": [stage]}), folder / "recipe.yaml")
    path = folder / file

    def read(data: bytes) -> None:
        path.write_bytes(data)
        run = read_run(folder)
        assert all(stage.done >= 0 for stage in run.stages)
        record_of(folder / "adapter", "embedded")

    return read


def record(folder: Path) -> Callable[[bytes], None]:
    def read(data: bytes) -> None:
        (folder / "training.json").write_bytes(data)
        if found := RunRecord.load(folder):
            found.text()
            found.load_pictures(folder)

    return read


def checkpoint(folder: Path) -> Callable[[bytes], None]:
    stage = folder / "1-rl"

    def read(data: bytes) -> None:
        """A seal that is none is a damaged checkpoint, which is passed by; metrics are rewound."""
        (stage / "checkpoint-2").mkdir(parents=True, exist_ok=True)
        (stage / "checkpoint-2" / checkpoints.SEAL).write_bytes(data)
        assert checkpoints.newest_checkpoint(stage) is None
        (folder / "metrics.jsonl").write_bytes(data)
        checkpoints.rewind_metrics(folder / "metrics.jsonl", "1-rl", 1)

    return read


def state(folder: Path) -> Callable[[bytes], None]:
    def read(data: bytes) -> None:
        (folder / "trainer_state.json").write_bytes(data)
        assert checkpoints.is_last(folder) in (True, False)

    return read


def shard(folder: Path) -> Callable[[bytes], None]:
    def read(data: bytes) -> None:
        (folder / "model.safetensors").write_bytes(data)
        found = Checkpoint.open(folder)
        assert found.parameters >= 0
        for name, place in found.places.items():
            if place.dtype in ("F32", "F16"):
                assert found.read(name).numel() == place.numel

    return read


def shard_index(folder: Path) -> Callable[[bytes], None]:
    (folder / "a.safetensors").write_bytes(save({"x": torch.ones(2, 3)}))

    def read(data: bytes) -> None:
        (folder / "model.safetensors.index.json").write_bytes(data)
        Checkpoint.open(folder)

    return read


def adapter(folder: Path, file: str) -> Callable[[bytes], None]:
    (folder / "adapter_config.json").write_text(json.dumps(ADAPTER))
    (folder / "adapter_model.safetensors").write_bytes(LORA)

    def read(data: bytes) -> None:
        (folder / file).write_bytes(data)
        read_lora(folder)

    return read


_LAYER = "base_model.model.x.lora_{}.weight"
LORA = save({_LAYER.format("A"): torch.ones(2, 3), _LAYER.format("B"): torch.ones(4, 2)})


# -- what a server sends -------------------------------------------------------------------------------------------

COMPLETION = {
    "choices": [{"message": {"role": "assistant", "content": "(A)"}}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 2},
}
REPLIES = tuple(
    f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n{headers}\r\n".encode() + body
    for status, headers, body in (
        ("200 OK", "", lists(COMPLETION)[0]),
        ("200 OK", "Transfer-Encoding: chunked\r\n", b"3\r\n{}\n\r\n0\r\n\r\n"),
        ("200 OK", "Content-Length: 2\r\n", b"{}"),
        ("429 Slow", "Retry-After: 2\r\n", lists({"error": {"message": "wait"}})[0]),
        ("503 Busy", "Retry-After: Wed, 21 Oct 2015 07:28:00 GMT\r\n", b""),
        ("401 No", "WWW-Authenticate: Bearer\r\n", lists({"error": "no"})[0]),
        ("302 Found", "Location: http://127.0.0.1/\r\n", b""),
    )
)


def api(folder: Path) -> Callable[[bytes], None]:
    """The real client and engine; the bytes are what a server on loopback sends back, head and all."""
    server = socket.create_server(("127.0.0.1", 0))
    replies: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def serve() -> None:
        while True:
            connection, _ = server.accept()
            with connection, connection.makefile("rb") as request:
                length = 0
                while (line := request.readline()).strip():
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                request.read(length)
                connection.sendall(replies.get())

    threading.Thread(target=serve, daemon=True).start()
    client = Client(f"http://127.0.0.1:{server.getsockname()[1]}", "sk-1234", timeout=0.5, attempts=1)
    engine = ApiEngine("m", client, AbsoluteFrame(), threads=1)

    def read(data: bytes) -> None:
        replies.put(data)
        text, turn = engine._request(Say(["?"]), [{"role": "user", "content": [{"type": "text", "text": "?"}]}])
        assert isinstance(text, str) and turn.text == text
        text.encode()

    return read


def targets(folder: Path) -> dict[str, Target]:
    """By name; each works in a folder of its own under `folder`."""

    def of(name: str) -> Path:
        (folder / name).mkdir(parents=True)
        return folder / name

    def made(name: str, reader: Callable[..., Callable[[bytes], None]], seeds: Sequence[bytes], *arguments) -> Target:
        return Target(name, reader(of(name), *arguments), tuple(seeds))

    def layout(read: Callable[[str], Iterable[Row]]) -> tuple[Callable[[str], Iterable[Row]]]:
        return (read,)

    shipped = [path.read_bytes() for path in shipped_recipes()]
    jsonl = (b"\n".join(lists(*ROWS)),)
    told = of("visual-cot") / "benchmark"
    found = [
        Target("responses", read_response, RESPONSES, ()),
        Target("boxes", read_named_boxes, RESPONSES, ()),
        Target("protocols", protocols(folder), (*RESPONSES, b"\x1e".join(RESPONSES)), ()),
        Target("choices", read_choices, (b"Q? (A) x (B) y", b"A. x\nB. y", b"Q Options: A: x, B: y", *RESPONSES), ()),
        made("recipes", recipes, shipped),
        Target("overrides", read_overrides, (*OVERRIDES, b"\x1e".join(OVERRIDES))),
        made("rows", rows_by, jsonl, "rows.jsonl", read_rows),
        made("rows-mme", rows_by, lists([MME]), "MME.json", lambda path: read_rows(path, format="mme_realworld")),
        made(
            "layout-llava",
            rows_by,
            lists([CONVERSATION, MESSAGES]),
            "x.json",
            lambda p: read_conversations(p, None, None),
        ),
        made("layout-mgpo", rows_by, lists(MGPO), "x.jsonl", lambda path: read_mgpo(path, None, None)),
        made(
            "layout-coco",
            rows_by,
            lists(COCO),
            "x.json",
            lambda path: read_coco(path, None, "Where is {category}?", True),
        ),
        made("layout-csv", rows_by, (CSV,), "x.csv", lambda path: read_csv_folder(path, None)),
        made("bench-mme", benchmark, lists([MME]), "mme-realworld", "MME_RealWorld.json"),
        made("bench-vstar", benchmark, lists(VSTAR), "vstar", "test_questions.jsonl"),
        made("bench-vstar-beside", benchmark, lists(BESIDE), "vstar", "direct_attributes/a.json", "."),
        *(made(f"bench-{name}", benchmark, (table,), name, "x.tsv") for name, table in TABLES.items()),
        made("predictions", evaluation, lists(PREDICTION), "predictions.jsonl"),
        made("eval-settings", evaluation, lists(EVAL), "eval.json"),
        made("metrics", run_folder, lists(METRIC), "metrics.jsonl"),
        made("run-evaluation", run_folder, lists({"full": {"strict": 0.5}}), "evaluation/before.json"),
        made("run-answers", run_folder, lists(PREDICTION), "evaluation/before.jsonl"),
        made("run-looks", run_folder, lists([ROLLOUT]), "progress/before.json"),
        made(
            "run-questions",
            run_folder,
            lists({"questions": [{"id": "1"}], "held_out": True}),
            "progress/questions.json",
        ),
        made("run-versions", run_folder, lists({"torch": "2.13", "python": "3.11"}), "versions.json"),
        made("rollouts", run_folder, lists(ROLLOUT), "stages/1-rl/rollouts/step-00001.jsonl"),
        made("record", record, lists(RECORD)),
        made("checkpoints", checkpoint, lists({"a.bin": "00"}, METRIC)),
        made("trainer-state", state, lists(STATE)),
        made("shards", shard, (save({"a": torch.ones(2, 3), "b": torch.zeros(4, dtype=torch.float16)}),)),
        made("shard-index", shard_index, lists({"weight_map": {"x": "a.safetensors"}})),
        made("adapter-config", adapter, lists(ADAPTER), "adapter_config.json"),
        made("adapter-weights", adapter, (LORA,), "adapter_model.safetensors"),
    ]
    found.append(Target("api", api(folder), REPLIES, (RequestError, HartError)))
    told.mkdir()
    (told / "gqa.json").write_bytes(lists([TOLD])[0])
    found.append(
        Target("bench-visual-cot", benchmark(told.parent, "visual-cot", "benchmark_det/gqa.jsonl", "."), lists(VISCOT))
    )
    (told.parent / "a.png").write_bytes(png())
    return {target.name: target for target in found}
