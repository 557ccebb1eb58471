"""Everything of hart-lite that reads what others wrote, as functions of bytes, with a few good inputs each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from safetensors.torch import save

from hart_lite.config.resources import shipped_recipes
from hart_lite.data.formats.coco import read_coco
from hart_lite.data.formats.conversations import read_conversations
from hart_lite.data.formats.csv_folder import read_csv_folder
from hart_lite.data.formats.mgpo import read_mgpo
from hart_lite.data.rows import Row, read_rows
from hart_lite.errors import HartError
from hart_lite.inference.openai_client import RequestError
from tests.reliability.fuzz_own_files import (
    ADAPTER,
    EVAL,
    LORA,
    METRIC,
    PREDICTION,
    RECORD,
    ROLLOUT,
    adapter,
    checkpoint,
    evaluation,
    record,
    run_folder,
    shard,
    shard_index,
)
from tests.reliability.fuzz_rows import (
    BESIDE,
    COCO,
    CONVERSATION,
    CSV,
    MESSAGES,
    MGPO,
    MME,
    ROWS,
    TABLES,
    TOLD,
    VISCOT,
    VSTAR,
    benchmark,
    read_choices,
    rows_by,
)
from tests.reliability.fuzz_samples import lists, png
from tests.reliability.fuzz_watch import Target
from tests.reliability.fuzz_written import (
    OVERRIDES,
    REPLIES,
    RESPONSES,
    api,
    protocols,
    read_named_boxes,
    read_overrides,
    read_response,
    recipes,
)

# For the coverage-guided fuzzer: those that read an input in a millisecond or so.
PARSERS = (
    *("responses", "boxes", "protocols", "choices", "overrides", "rows", "rows-mme", "layout-llava", "layout-mgpo"),
    *("layout-coco", "layout-csv", "bench-mme", "bench-vstar", "bench-vstar-beside", "bench-treebench", "bench-mmstar"),
    *("predictions", "eval-settings", "record", "shards", "shard-index", "adapter-config", "adapter-weights", "api"),
)


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
