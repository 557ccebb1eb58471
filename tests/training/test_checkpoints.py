"""Checkpoints are whole or not there; the metrics file goes with them."""

import errno
import json
import logging
import warnings
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from small_runs import make_up, metrics, rl_stage, small_recipe
from trainers import adapters, rl_trainer, same
from transformers import TrainerState

from hart_lite.errors import CheckpointError, HartError
from hart_lite.models.loading import load_policy
from hart_lite.runs.checkpoints import KEPT, SEAL, damage, newest_checkpoint, seal
from hart_lite.runs.metrics_file import rewind_metrics
from hart_lite.training import rl_trainer as rl
from hart_lite.training.callbacks import LiveProgress, MetricsFile, WarnWithoutSignal, step_in_words
from hart_lite.training.checkpointing import train_from
from hart_lite.training.train import train
from hart_lite.utils import files
from hart_lite.utils.files import write_whole
from hart_lite.utils.jsonl import write_jsonl


def checkpoint(folder, step: int):
    """A sealed one with a weight file and a nested one."""
    made = folder / f"checkpoint-{step}"
    (made / "inner").mkdir(parents=True)
    (made / "weights.bin").write_bytes(bytes(range(256)) * 16)
    (made / "inner" / "state.json").write_text('{"step": 1}')
    seal(made)
    return made


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def empty(path):
    path.write_bytes(b"")


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def remove(path):
    path.unlink()


def test_a_sealed_checkpoint_is_whole_and_nothing_partial_is_left(tmp_path):
    made = checkpoint(tmp_path, 3)
    assert damage(made) is None
    assert set(json.loads((made / SEAL).read_text())) == {"weights.bin", "inner/state.json"}
    assert not list(made.rglob("*.part"))


@pytest.mark.parametrize("name", ["weights.bin", "inner/state.json", SEAL])
@pytest.mark.parametrize("harm", [truncate, empty, flip_a_bit, remove])
def test_a_harmed_checkpoint_is_passed_by_for_the_one_before(tmp_path, harm, name, caplog):
    older, newer = checkpoint(tmp_path, 9), checkpoint(tmp_path, 10)  # by number, not by name
    assert newest_checkpoint(tmp_path) == newer
    harm(newer / name)
    assert damage(newer)
    assert newest_checkpoint(tmp_path) == older
    assert "checkpoint-10 is passed by" in caplog.text
    assert not newer.exists()
    assert damage(older) is None


@pytest.mark.parametrize("text", ["null", "[]", "{}", '"x"', '{"weights.bin": 3}', "\udcff"])
def test_a_seal_of_nonsense_seals_nothing(tmp_path, text):
    made = checkpoint(tmp_path, 1)
    (made / SEAL).write_text(text, errors="surrogateescape")
    assert damage(made)


def test_without_checkpoints_there_is_none(tmp_path):
    assert newest_checkpoint(tmp_path / "nowhere") is None
    remove(checkpoint(tmp_path, 1) / "weights.bin")
    assert newest_checkpoint(tmp_path) is None


def test_copies_beside_the_checkpoints_are_left_alone(tmp_path):
    mine = checkpoint(tmp_path, 2)
    mine.rename(tmp_path / "checkpoint-2 (copy)")
    made = checkpoint(tmp_path, 1)
    assert newest_checkpoint(tmp_path) == made
    assert (tmp_path / "checkpoint-2 (copy)").exists()


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_whole(path, "old")

    def fail(number):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        write_whole(path, "new")
    assert path.read_text() == "old"


def test_metrics_are_rewound_to_a_step_of_a_stage(tmp_path):
    path = tmp_path / "metrics.jsonl"
    rows = [{"stage": stage, "step": step, "loss": 0.5} for stage in ("1-rl", "2-sft") for step in (1, 2, 3)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"stage": "2-sft", "st')
    rewind_metrics(path, "2-sft", 2)
    assert metrics(tmp_path) == rows[:5]
    assert path.read_text().endswith("\n")
    rewind_metrics(path, "2-sft", 0)
    assert metrics(tmp_path) == rows[:3]
    rewind_metrics(tmp_path / "none.jsonl", "1-rl", 0)
    assert not (tmp_path / "none.jsonl").exists()


def test_a_last_line_without_its_end_is_not_glued_to_the_next(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"stage": "1-rl", "step": 1}')  # killed between the row and its newline
    rewind_metrics(path, "1-rl", 1)
    assert path.read_text() == '{"stage": "1-rl", "step": 1}\n'


# -- a full disk ---------------------------------------------------------------------------------------------------


def full_disk(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


def broken_writer(*args, **kwargs):
    raise RuntimeError("[enforce fail at inline_container.cc] . PytorchStreamWriter failed writing file data/12")


def broken_weights(*args, **kwargs):
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


@pytest.fixture
def new_rl(new_policy, tiny_base, tmp_path, monkeypatch):
    make_up(monkeypatch.setattr)
    return partial(rl_trainer, new_policy, tiny_base, tmp_path)


@pytest.mark.parametrize("failure", [full_disk, broken_writer, broken_weights])
def test_a_full_disk_names_the_last_whole_checkpoint(new_rl, tmp_path, monkeypatch, failure):
    trainer, save, calls = new_rl(stage={"steps": 3, "save_every": 1}), torch.save, []

    def count(content, place, **kwargs):
        calls.append(Path(place).name)
        return failure() if calls.count("optimizer.pt") == 3 else save(content, place, **kwargs)

    monkeypatch.setattr(torch, "save", count)
    with pytest.raises(CheckpointError) as caught:
        train_from(trainer, None)
    folder = tmp_path / "stages" / "1-rl"
    assert f"{folder / 'checkpoint-3'} could not be saved" in str(caught.value)
    assert f"The last whole checkpoint is {folder / 'checkpoint-2'}" in str(caught.value)
    assert "--resume" in str(caught.value)
    assert damage(folder / "checkpoint-2") is None
    assert not (folder / "checkpoint-3").exists()
    assert torch.load(folder / "checkpoint-2" / "optimizer.pt", weights_only=True)["state"]


def test_an_error_of_a_step_is_not_taken_for_one_of_saving(new_rl, monkeypatch):
    """A full disk may come as a plain RuntimeError; here one comes between two saves."""
    trainer = new_rl(stage={"steps": 3, "save_every": 1})
    policy_loss, calls = rl.policy_loss, []

    def broken(**inputs):
        calls.append(1)
        if trainer.state.global_step == 1:
            raise RuntimeError("shapes cannot be multiplied")
        return policy_loss(**inputs)

    monkeypatch.setattr(rl, "policy_loss", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        train_from(trainer, None)


def test_from_the_checkpoint_of_the_last_step_no_step_is_taken(new_rl, tmp_path):
    stage = {"steps": 2, "save_every": 1}
    first = new_rl(stage=stage)
    train_from(first, None)
    again = new_rl(stage=stage)
    again.training_step = None
    train_from(again, tmp_path / "stages" / "1-rl" / "checkpoint-2")
    assert again.state.global_step == 2
    assert same(adapters(again), adapters(first))


def test_a_checkpoint_that_holds_code_is_refused_and_runs_none(new_rl, tmp_path):
    stage = {"steps": 2, "save_every": 1}
    train_from(new_rl(stage=stage), None)
    checkpoint = tmp_path / "stages" / "1-rl" / "checkpoint-1"

    class Code:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "it-ran",))

    torch.save(Code(), checkpoint / "optimizer.pt")
    with pytest.raises(CheckpointError, match="asks to run code, and none was run"):
        train_from(new_rl(stage=stage), checkpoint)
    assert not (tmp_path / "it-ran").exists()


def test_a_checkpoint_holds_numbers_and_plain_text_alone(new_rl, tmp_path):
    """No pickle but those that `weights_only` reads, and no arguments, which name folders of this machine."""
    train_from(new_rl(stage={"steps": 1, "save_every": 1}), None)
    files = {path.name: path for path in (tmp_path / "stages" / "1-rl" / "checkpoint-1").iterdir()}
    assert "training_args.bin" not in files
    for name in ("optimizer.pt", "scheduler.pt"):
        assert torch.load(files[name], weights_only=True)
    assert {path.suffix for path in files.values()} <= {".pt", ".pth", ".json", ".safetensors", ".md"}


def test_only_the_newest_checkpoints_are_kept(tiny_base, tmp_path, monkeypatch):
    make_up(monkeypatch.setattr)
    recipe = small_recipe(tiny_base, tmp_path / "run", [rl_stage(steps=4, save_every=1)], data={"toy": WITHOUT_EVAL})
    train(recipe)
    kept = sorted(p.name for p in (tmp_path / "run" / "stages" / "1-rl").glob("checkpoint-*"))
    assert kept == ["checkpoint-3", "checkpoint-4"]
    assert len(kept) == KEPT


WITHOUT_EVAL = {"scenes": 4, "eval_scenes": 0, "size": 168}


def test_a_full_disk_while_the_adapter_is_saved_keeps_the_checkpoint(tiny_base, tmp_path, monkeypatch):
    """The stage is done in all but its adapter: going on saves that, from the checkpoint."""
    make_up(monkeypatch.setattr)
    run = tmp_path / "run"
    recipe = small_recipe(tiny_base, run, [rl_stage(steps=2)], data={"toy": WITHOUT_EVAL})
    with monkeypatch.context() as patch:
        patch.setattr("hart_lite.models.families.qwen2_5_vl.Qwen25VL.save_processor", broken_weights)
        with pytest.raises(HartError, match=r"adapter .*1-rl/adapter could not be saved.*\n.*--resume"):
            train(recipe)
    assert not (run / "stages" / "1-rl" / "adapter").exists()
    assert not list(run.rglob("*.part"))
    train(recipe, resume=True)
    saved, last = run / "adapter", run / "stages" / "1-rl" / "checkpoint-2"
    assert (saved / "adapter_model.safetensors").read_bytes() == (last / "adapter_model.safetensors").read_bytes()
    assert [row["step"] for row in metrics(run)] == [1, 2]


def test_saving_and_loading_on_the_toy_base_warns_of_nothing(tmp_path, monkeypatch):
    """Neither a checkpoint nor an adapter: PEFT would ask the Hub for a base called `toy`."""
    make_up(monkeypatch.setattr)
    recipe = small_recipe("toy", tmp_path / "run", [rl_stage(steps=2, save_every=1)], data={"toy": WITHOUT_EVAL})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(recipe)
        load_policy(recipe.model, tmp_path / "run" / "adapter")
    assert not [w for w in caught if "config file" in str(w.message) or "embedding" in str(w.message)]


# -- progress ------------------------------------------------------------------------------------------------------

FIGURES = ["3 h 5 min left in the run", "reward 0.51", "coverage 0.034", "KL 0.012", "14 GiB", "loss -0.2"]


@pytest.mark.parametrize(("columns", "shown"), [(20, 0), (60, 1), (80, 3), (160, 6), (None, 6)])
def test_the_bar_shows_whole_figures_as_far_as_the_terminal_goes(columns, shown, capsys, caplog, monkeypatch):
    caplog.set_level(logging.INFO, "hart_lite")  # else nothing is shown
    monkeypatch.setattr("tqdm.std._screen_shape_wrapper", lambda: lambda file: (columns, None))
    progress = LiveProgress("1-rl", lambda logs: FIGURES)
    state = TrainerState(max_steps=500, global_step=0)
    progress.on_train_begin(None, state, None)
    state.global_step = 120
    progress.on_log(None, state, None, logs={"loss": 1.0})
    line = capsys.readouterr().err.rsplit("\r", 1)[-1]
    progress.on_train_end(None, state, None)
    assert line.startswith("1-rl 120/500 ")
    assert columns is None or len(line.rstrip()) <= columns
    assert line.rstrip().endswith("".join(f", {text}" for text in FIGURES[:shown]))
    assert [text in line for text in FIGURES] == [n < shown for n in range(6)]


def test_the_bar_of_a_step_has_room_for_the_time_left_the_reward_and_the_seconds_of_each_phase():
    """At 120 columns, in a run of hours."""
    metrics = {"loss": -0.244, "reward": 0.515625, "coverage": 0.0494, "kl": 0.0826, "valid_box": 1.0, "skipped": 0.0,
               "seconds_rollout": 9.648, "seconds_reference": 2.153, "seconds_update": 12.21,
               "tokens_per_second": 1649.7}  # fmt: skip
    texts = step_in_words(metrics, 9000)
    assert texts[:3] == ["2 h 30 min left in the run", "reward 0.52", "rollout 9.6 + reference 2.2 + update 12 s"]
    assert texts[3:] == ["box coverage 0.049", "valid boxes 1.0", "KL 0.083", "loss -0.24", "tokens a second 1,650"]
    assert len(", ".join(["1-rl 1200/2500 ████████", *texts[:3]])) <= 120
    assert step_in_words({"loss": 0.3, "mean_token_accuracy": 0.9}, None) == ["loss 0.30", "tokens right 0.90"]


@pytest.mark.parametrize(("flat", "said"), [([1, 1, 1, 1], 1), ([1, 1], 0), ([1, 0.9, 1, 1], 0), ([], 0)])
def test_first_steps_without_any_signal_are_said_once(flat, said, tmp_path, caplog):
    steps, state = MetricsFile(tmp_path / "metrics.jsonl", "2-rl"), TrainerState(is_world_process_zero=True)
    write_jsonl(tmp_path / "metrics.jsonl", [{"stage": "1-rl", "step": 1, "flat_groups": 1.0}] * 3)
    steps.on_train_begin(None, state, None)
    warn = WarnWithoutSignal(steps)
    for state.global_step, share in enumerate(flat, 1):
        for callback in (steps, warn):
            callback.on_log(None, state, None, logs={"flat_groups": share, "reward": 0.25})
    message = (
        f"2-rl: in each of its first 3 steps all samples of a question earned the same (0.25 on average), and "
        f"nothing can be learned from that. What to do: hart-lite report {tmp_path}"
    )
    assert caplog.messages == [message] * said


def test_a_program_that_wants_no_messages_sees_no_bar(capsys):
    progress, state = LiveProgress("1-rl", lambda logs: FIGURES), TrainerState(max_steps=500)
    progress.on_train_begin(None, state, None)
    progress.on_log(None, state, None, logs={"loss": 1.0})
    progress.on_train_end(None, state, None)
    assert capsys.readouterr().err == ""
