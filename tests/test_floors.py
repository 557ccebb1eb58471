"""A room imports only from its own floor and those below it, and never in a circle. Imports are read, not run."""

import ast
from pathlib import Path

import hart_lite

PACKAGE = Path(hart_lite.__file__).parent

FLOORS = (
    # 0: plain Python, no torch, no PIL, no transformers
    (
        *("types", "boxes", "recipe", "recipe_schema", "recipe_checks", "recipe_reference"),
        *("summary", "files", "yaml_text"),
        *("locks", "stopping"),
        *("dimensions", "activations", "plan", "plan_report", "box_frames", "towers"),
        *("markdown", "predictions", "paper"),
        *("grading", "grading.normalise", "grading.vocabulary", "grading.markup", "grading.sentences", "grading.lexer"),
        *("grading.choices", "grading.mentions", "grading.claims", "grading.collect", "grading.reader"),
        *("grading.free_text",),
    ),
    # 1: tensors, no model
    ("advantages", "losses", "packing", "attention", "graph", "measure", "shards", "memory", "finite"),
    # 2: pixels and model families
    (
        *(
            "images",
            "image_headers",
            "fingerprint",
            "families.base",
            "families.box_text",
            "families.chat",
            "families.tiles",
        ),
        *("families.qwen2_5_vl", "families.internvl3", "families.llava_onevision"),
        *("protocols.base", "benchmarks.base"),
    ),
    # 3: data, and things with weight
    (
        *("rows", "data", "data_check", "contact_sheet", "world.glyphs", "world.scenes"),
        *("generate", "policy", "loading", "views", "frames", "api_client", "conversation"),
        *("benchmarks.files", "benchmarks.tsv", "benchmarks.choices", "benchmarks.examples", "benchmarks.official"),
        *("benchmarks.mme_realworld", "benchmarks.mme_realworld_lite", "benchmarks.treebench", "benchmarks.vstar"),
        *("benchmarks.hrbench", "benchmarks.hrbench4k", "benchmarks.hrbench8k", "benchmarks.mmstar"),
        *("benchmarks.visual_cot", "data_folder", "convert", "world.make"),
        *("layouts.base", "layouts.conversations", "layouts.mgpo", "layouts.coco", "layouts.csv_folder"),
        *("lora_file", "lora_sum", "base_names", "streamed"),
    ),
    # 4: the algorithm
    ("loops", "rollout"),
    # 5: what training and measuring are made of
    (
        *("analysis", "evaluate", "figures", "checkpoints", "run_dir", "rollout_log", "sources", "rl", "sft", "trl"),
        *("world.base", "engine", "api_engine", "models", "protocols.ours", "protocols.tools", "protocols.mgpo"),
        *("protocols.deepeyes", "protocols.pixel_reasoner", "protocols.registry"),
        *("benchmarks.world", "benchmarks.own_rows", "benchmarks.registry", "benchmarks.listing"),
        *("benchmarks.scores", "significance", "findings", "trained", "run_record", "model_card", "merge_proof"),
        *("progress", "report_run", "report_warnings", "guard", "callbacks", "endings"),
    ),
    # 6: whole jobs
    (
        *("train", "measure_frame", "merge", "push", "world.teacher", "world.sight", "world.pretrain"),
        *("bench.presets", "bench.models", "bench.steps", "bench.update", "bench.count", "bench.decode"),
        *("bench.run", "bench.report", "eval_questions", "eval_settings", "eval_files"),
        *("eval_run", "eval_report", "compare", "tables", "table_rows", "curves", "gallery", "gallery_page"),
        *("ask", "ask_picture", "report", "report_page", "report_charts", "report_looks", "report_table"),
        *("report_eval", "demo", "demo_gate", "demo_panels", "demo_page"),
    ),
    # 7
    (
        *("cli", "commands.libraries", "commands.training", "commands.evaluating", "commands.data"),
        *("commands.sharing", "commands.using"),
    ),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def rooms() -> dict[str, Path]:
    """By dotted name; a package that offers functions itself is a room, one with an empty `__init__` is not."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[-1] != "__init__":
            found[".".join(parts)] = path
        elif len(parts) > 1 and path.stat().st_size:
            found[".".join(parts[:-1])] = path
    return found


def imports(path: Path) -> set[str]:
    """The rooms a file names in an import, at the top or inside a function; not those for type checkers only."""
    found: set[str] = set()
    known = rooms()

    def walk(node: ast.AST) -> None:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            return
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "hart_lite":
            inner = node.module.removeprefix("hart_lite").lstrip(".")
            named = [f"{inner}.{alias.name}".lstrip(".") for alias in node.names]
            found.update(name if name in known else inner for name in named)
        elif isinstance(node, ast.Import):
            found.update(a.name.removeprefix("hart_lite.") for a in node.names if a.name.startswith("hart_lite."))
        for child in ast.iter_child_nodes(node):
            walk(child)

    walk(ast.parse(path.read_text(encoding="utf-8")))
    return found - {""}


def test_every_room_has_a_floor():
    assert set(rooms()) == set(FLOOR)
    assert len(FLOOR) == sum(map(len, FLOORS))


def test_imports_only_go_down_or_stay():
    upward = [
        f"{room} (floor {FLOOR[room]}) imports {other} (floor {FLOOR.get(other)})"
        for room, path in rooms().items()
        for other in imports(path)
        if FLOOR.get(other, 99) > FLOOR[room]
    ]
    assert not upward


def test_there_are_no_circles():
    known = {room: imports(path) for room, path in rooms().items()}
    done: set[str] = set()

    def walk(room: str, above: tuple[str, ...]) -> None:
        assert room not in above, " -> ".join([*above, room])
        if room not in done:
            for other in known[room]:
                walk(other, (*above, room))
            done.add(room)

    for room in known:
        walk(room, ())


def test_the_reader_of_imports_reads_them(tmp_path):
    file = tmp_path / "room.py"
    file.write_text(
        "from typing import TYPE_CHECKING\nimport torch\nimport hart_lite.boxes\n"
        "from hart_lite import loops\nfrom hart_lite.families.base import Family\n"
        "if TYPE_CHECKING:\n    from hart_lite.cli import main\n"
        "def f():\n    from hart_lite.train import train\n"
    )
    assert imports(file) == {"boxes", "loops", "families.base", "train"}


def test_the_page_of_the_rooms_has_them_all():
    text = (PACKAGE / "README.md").read_text(encoding="utf-8")
    lines = {int(line.split("|")[1]): line for line in text.splitlines() if line[:3].strip("| ").isdigit()}
    assert sorted(lines) == list(range(len(FLOORS)))
    shown = {number: {word.strip("`") for word in line.split("|")[2].split()} for number, line in lines.items()}
    folders = {word.rstrip("/") for words in shown.values() for word in words if word.endswith("/")}
    for number, named in enumerate(FLOORS):
        rooms_here = {room.replace(".", "/") for room in named if room.split(".")[0] not in folders}
        assert rooms_here == {word for word in shown[number] if not word.endswith("/")}, number
