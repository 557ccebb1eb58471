"""Three models behind a real server that only seem good: what `hart-lite eval` prints of each gives it away."""

import json
from pathlib import Path

import pytest
from PIL import Image

from hart_lite.cli import main

SIGNS, SIGNS_PER_IMAGE, SIDE = 60, 3, 1000


@pytest.fixture
def rows(tmp_path) -> Path:
    """Each sign takes a hundredth of its image; each letter is right for a quarter of them."""
    lines = []
    for number in range(SIGNS):
        image = f"{number // SIGNS_PER_IMAGE}.png"
        x, y = 37 * number % 900, 61 * number % 900
        row = {"id": str(number), "image": image, "question": f"What is written on sign {number}?"}
        row |= {"choices": ["STOP", "SLOW", "EXIT", "OPEN"], "answer": "ABCD"[number % 4]}
        lines.append(json.dumps(row | {"boxes": [[x, y, x + 100, y + 100]]}))
        Image.new("RGB", (SIDE, SIDE), (number, 90, 160)).save(tmp_path / image)
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    return tmp_path / "rows.jsonl"


@pytest.mark.parametrize(
    ("model", "right", "grounded", "given_away"),
    [
        ("always-a", 0.25, 0.15, "It says A whatever is asked: that is a habit, not an answer."),
        ("whole-image", 1.0, 1.0, "Boxes of this size (100.0 % of the image) would ground nearly as many questions"),
        ("random-boxes", 1.0, 0.15, "the answers do not rest on the boxes."),
    ],
)
def test_a_model_that_only_seems_good(server, rows, monkeypatch, model, right, grounded, given_away):
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setenv("NO_PROXY", "*")
    out = rows.parent / "eval"
    words = ["eval", f"api:{model}", "--benchmark", f"rows={rows}", "--mode", "crops", "--box-format", "relative"]
    assert main.main([*words, "--full-pixels", "50176", "--crop-pixels", "12544", "--out", str(out)]) == 0
    figures = json.loads((out / "summary.json").read_text())["benchmarks"]["rows"]["crops"]
    assert figures["questions"] == SIGNS
    assert figures["answers"]["strict"]["micro"]["value"] == right
    assert figures["grounding"]["grounded"]["value"] == pytest.approx(grounded, abs=0.15)
    warnings = [line for line in (out / "summary.md").read_text().splitlines() if line.startswith("    - **")]
    assert any(given_away in line for line in warnings)
