"""The table at the end of an evaluation: whose grounding a mode shows, and why one has none at all."""

from evaluations import blind, questions, rows_of, sound, write_evaluation

from hart_lite.eval.metrics import metrics
from hart_lite.eval.results import read_evaluation
from hart_lite.eval.summary import no_box_notes, summary_table


def figures_of(tmp_path, **models) -> dict:
    asked = questions(20)
    rows = [
        row
        for mode, model in models.items()
        for row in rows_of(asked, model, mode=mode.replace("_", "+"), boxed=mode != "full")
    ]
    return metrics(read_evaluation(write_evaluation(tmp_path / "eval", rows)))


def at_a_glance(question):
    return question.truth, []


def test_a_mode_that_looks_nowhere_shows_no_grounding(tmp_path):
    found = figures_of(tmp_path, full=at_a_glance, crops=sound)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in summary_table(found).splitlines()[2:]]
    by_mode = {row[1]: row for row in rows}
    assert by_mode["full"][5:] == ["", "", ""]
    assert float(by_mode["crops"][5]) == round(
        100 * (1 - found["treebench"]["crops"]["grounding"]["grounded"]["value"]), 1
    )
    assert found["treebench"]["full"]["joint"]  # what its answers have to do with the boxes stays in the summary


def test_a_mode_without_any_box_is_said_to_have_none(tmp_path):
    found = figures_of(tmp_path, full=at_a_glance, crops=sound, deepeyes=blind, full_crops=blind)
    ours, peers = sorted(no_box_notes(found), key=len)
    assert peers.startswith("treebench, deepeyes: no response holds a box in the format that this mode asks for")
    assert "a model that was not trained on these tools" in peers and "tools" not in ours
    assert ours.startswith("treebench, full+crops: ")
    assert no_box_notes(figures_of(tmp_path / "sound", full=at_a_glance, crops=sound)) == []
