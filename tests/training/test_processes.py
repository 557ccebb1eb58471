"""Two processes train what one process trains: each owns whole groups of the same step."""

import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from small_runs import metrics
from vllm_server import StandIn, serving

from hart_lite.config.resources import TOY_BASE

SMALL = [
    "data.toy.scenes=80",
    "data.toy.eval_scenes=4",
    "rollout.samples=4",
    "stages.0.steps=2",
    "stages.0.questions_per_step=8",
    "stages.0.save_every=0",
    "stages.0.log_rollouts_every=0",
    "stages.1.steps=2",
    "stages.1.micro_batch_size=8",
    "stages.1.save_every=0",
    # One pass over 50 rows: of a batch one process has a row more, and in the last one, of one row, the other has none.
    "stages.2.steps=null",
    "stages.2.batch_size=7",
    "stages.2.micro_batch_size=7",
    "stages.2.save_every=0",
]

# Scored verification against control regions; then distillation in place of the first SFT stage.
BEYOND = [
    *("rollout.verify=score", "rollout.control_region=true", "rollout.max_overlap=0.5"),
    "stages.1={kind: distil, steps: 2, questions_per_step: 4, lr: 5.0e-4, save_every: 0}",
]

# What a step says about its questions; how they are cut into packs, and the clock, are the machine's affair.
FIGURES = {"loss", "policy_loss", "kl", "reward", "flat_groups", "valid_box", "rejected_boxes", "coverage", "skipped"}
FIGURES |= {"tokens_locate", "tokens_verify", "tokens_answer", "grad_norm", "mean_token_accuracy"}
FIGURES |= {"answers_mass", "crops_reward", "control_reward", "control_unplaced", "boxes_overlap"}


def run(folder, processes: int, *overrides: str) -> dict[str, torch.Tensor]:
    # Not `accelerate launch --cpu --num_processes=2`: without MPI that starts one.
    launcher = ["torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", "-m"] * (processes > 1)
    program = [sys.executable, "-m", *launcher, "hart_lite.cli.main"]
    command = [*program, "train", "tiny_cpu", f"output={folder}", *overrides]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NO_PROXY": "*"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("base toy: ") == processes  # each loads its own
    return load_file(folder / "adapter" / "adapter_model.safetensors")


WAYS = {"as the paper": SMALL, "beyond it": [*(key for key in SMALL if not key.startswith("stages.1")), *BEYOND]}


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_two_processes_train_what_one_does(tmp_path, way):
    one, two = (run(tmp_path / name, n, *WAYS[way]) for name, n in (("one", 1), ("two", 2)))
    compare(tmp_path, one, two, 2 + 2 + 8)


@pytest.mark.slow
def test_two_processes_share_two_servers(tmp_path):
    """Each asks for its own questions, and both learn what one process learns from one server."""
    stand_ins = [StandIn(TOY_BASE, {"r": 16}) for _ in range(2)]
    with serving(stand_ins[0]) as first, serving(stand_ins[1]) as second:
        changes = [*SMALL, "rollout.engine=vllm", "stages=[{kind: rl, steps: 2, questions_per_step: 8, lr: 5.0e-4}]"]
        one = run(tmp_path / "one", 1, *changes, f"rollout.servers=['{first}']")
        alone = drawn_seeds(stand_ins[0])
        stand_ins[0].asked.clear()
        two = run(tmp_path / "two", 2, *changes, f"rollout.servers=['{first}', '{second}']")
        compare(tmp_path, one, two, 2)
    asked = [drawn_seeds(stand_in) for stand_in in stand_ins]
    assert len(asked[0]) > 8 and len(asked[1]) > 8 and asked[0] & asked[1] <= {0}  # 0: of the checks
    assert len((asked[0] | asked[1]) & alone) > 0.6 * len(alone)  # after the first step rounding may part the two


def drawn_seeds(stand_in: StandIn) -> set[int]:
    """Of the requests that draw; a greedy answer needs none."""
    return {body["seed"] for body in stand_in.asked if body["temperature"] > 0}


def compare(folder, one: dict[str, torch.Tensor], two: dict[str, torch.Tensor], steps: int) -> None:
    """The adapters and the metrics of two runs."""
    assert all(value.abs().max() > 1e-4 for name, value in one.items() if "lora_B" in name)  # it was zero, and learned
    for name, value in one.items():  # by norm: Adam makes much of the noise in a gradient that is all but zero
        assert (two[name] - value).norm() <= 0.02 * value.norm(), name
    rows = metrics(folder / "two")
    assert len(rows) == steps  # one process writes
    for row, expected in zip(rows, metrics(folder / "one"), strict=True):
        assert row.keys() == expected.keys()
        for name in FIGURES & row.keys():
            assert row[name] == pytest.approx(expected[name], rel=0.02, abs=2e-5), name
