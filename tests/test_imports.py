"""The import contract of the package: downward only, no cycles, no private names. Imports are read, not run."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import hart_lite

PACKAGE = Path(hart_lite.__file__).parent

# Each layer may import from the layers before it; packages of one layer do not know each other.
LAYERS = (
    ("errors",),
    ("types", "utils"),
    ("boxes", "box_formats", "grading"),
    ("rl",),
    ("config", "data"),
    ("models", "toy"),
    ("runs",),
    ("inference",),
    ("eval",),
    ("training", "report", "export"),
    ("perf", "demo"),
    ("api", "cli"),
)
LAYER = {name: number for number, names in enumerate(LAYERS) for name in names}


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for path in PACKAGE.rglob("*.py")}


def imports(tree: ast.AST) -> set[tuple[str, str]]:
    """(module, name) of each import from this package, wherever it stands, TYPE_CHECKING included."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {(alias.name, "") for alias in node.names if alias.name.startswith("hart_lite")}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hart_lite"):
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add((full, "") if full in FILES else (node.module, alias.name))
    return found


def part(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


GRAPH = {module: imports(ast.parse(path.read_text(encoding="utf-8"))) for module, path in FILES.items()}


def upward(graph: dict[str, set[tuple[str, str]]]) -> list[str]:
    out = []
    for module, targets in graph.items():
        for target, _ in targets:
            here, there = part(module), part(target)
            if here and there and here != there and LAYER[there] >= LAYER[here]:
                out.append(f"{module} -> {target}")
    return sorted(out)


def test_every_part_of_the_package_has_a_layer():
    assert {part(module) for module in FILES} - {""} == set(LAYER)


def test_no_package_imports_one_beside_or_above_it():
    assert upward(GRAPH) == []


def test_there_is_no_cycle_between_modules():
    TopologicalSorter({module: {target for target, _ in targets} for module, targets in GRAPH.items()}).prepare()


def test_no_module_imports_a_private_name_of_another():
    private = [
        f"{m}: {t}.{n}" for m, found in GRAPH.items() for t, n in found if n.startswith("_") and n != "__version__"
    ]
    assert private == []


def test_the_contract_notices_what_it_forbids():
    tree = ast.parse("if TYPE_CHECKING:\n    from hart_lite.cli.main import main\nfrom hart_lite.eval import _x")
    found = imports(tree)
    assert found == {("hart_lite.cli.main", "main"), ("hart_lite.eval", "_x")}
    assert upward({"hart_lite.rl.losses": found}) == [
        "hart_lite.rl.losses -> hart_lite.cli.main",
        "hart_lite.rl.losses -> hart_lite.eval",
    ]
