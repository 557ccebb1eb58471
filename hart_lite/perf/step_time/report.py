"""The results of `hart-lite bench` as Markdown: targets first, then what they rest on."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import mean, median

import torch

from hart_lite.perf.step_time.count import image_share
from hart_lite.perf.step_time.run import SYSTEMS, Results
from hart_lite.perf.step_time.steps import PHASES

MIB = 2**20
LIBRARIES = ("torch", "transformers", "trl", "peft")
Row = tuple[str, ...]


def report(results: Results) -> str:
    parts = [_header(results), _targets(results), _steps(results), _counts(results), _growth(results), _decode(results)]
    return "\n\n".join(parts) + "\n"


# -- parts -------------------------------------------------------------------------------------------------------------


def _header(results: Results) -> str:
    preset, dims = results.work.preset, results.work.dims
    rounds = len(results.passes.packed)
    versions = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    return (
        f"`hart-lite bench --preset {preset.name} --steps {rounds}`, {datetime.now(UTC):%Y-%m-%d}, "
        f"{_machine(results)}; {versions}.\n\n"
        f"A random Qwen2.5-VL of {dims.layers} layers, hidden size {dims.hidden}, {preset.dtype}, "
        f"quant {preset.quant}. One question a step: a prompt of {results.prefix} tokens, {preset.samples} samples, "
        f"{preset.response} tokens a turn, one crop a sample, {_crop_tokens(results):.0f} tokens on average. Median of "
        f"{rounds} rounds (least-most); the systems take turns, ratios are paired by round, and a first round does not "
        f"count."
    )


def _crop_tokens(results: Results) -> float:
    counts = results.steps.counts
    crops = mean(h.images - d.images for h, d in zip(counts["hart"], counts["direct"], strict=True))
    return crops / results.work.preset.samples


def _machine(results: Results) -> str:
    if results.work.device.type == "cuda":
        return torch.cuda.get_device_name(results.work.device)
    names = (line.split(":")[1].strip() for line in _lines(Path("/proc/cpuinfo")) if line.startswith("model name"))
    return f"{next(names, platform.machine())}, {os.cpu_count()} cores, threads: {torch.get_num_threads()}"


def _lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").splitlines() if file.exists() else []


def _targets(results: Results) -> str:
    rows = [*_speed_rows(results), *_memory_rows(results), *_equivalence_rows(results)]
    return "**Targets**\n\n" + _table(("", "measured", "by token count", "target", ""), rows)


def _speed_rows(results: Results) -> Iterator[Row]:
    passes = results.passes
    faster = _ratios(passes.unpacked, passes.packed)
    layers = 2 + results.work.preset.gradient_checkpointing  # passes; the frozen tower makes one
    tower = image_share(results.work) * results.steps.counts["direct"][0].images / layers
    whole = (passes.unpacked_tokens + tower * results.work.preset.samples) / (passes.packed_tokens + tower)
    limit = f"{passes.unpacked_tokens / passes.packed_tokens:.1f}, with the tower {whole:.1f}"
    yield "update pass, unpacked / packed", _spread(faster), limit, "at least 5", _met(median(faster) >= 5)
    for loop, most in (("hart", 0.5), ("direct", 0.3)):
        ratios, limit = _against_stock(results, loop), f"{_work_ratio(results, loop):.2f}"
        yield f"step, `{loop}` / stock", _spread(ratios), limit, f"at most {most}", _met(median(ratios) <= most)


def _memory_rows(results: Results) -> Iterator[Row]:
    own = results.work.preset.response + 1  # the last token of the prompt predicts the first sampled one
    (few, low), (many, high) = results.sample_peaks.items()
    a_token = low / (results.prefix - 1 + few * own)
    extra, most = (high - low) / (many - few) / a_token, 1.25 * own
    what = "memory of an update for one more sample, in tokens"
    yield what, f"{extra:.0f}", f"{own}", f"at most {most:.0f}", _met(extra <= most)
    for loop, (measured, planned) in results.peaks.items():
        what, ratio = f"peak of the update planned / measured, `{loop}`", planned / measured
        yield what, f"{ratio:.2f}", "1", "within 10 %", _met(abs(ratio - 1) <= 0.1)


def _equivalence_rows(results: Results) -> Iterator[Row]:
    exact = results.work.preset.dtype == "float32"
    for case, (logps, gradients) in results.equivalence.items():
        met = _met(logps <= 1e-5 and gradients <= 1e-4) if exact else "float32 only"
        differences = f"{logps:.0e} log-probs, {gradients:.0e} gradients"
        yield f"packed - unpacked, {case}", differences, "0", "1e-5, 1e-4 relative", met


def _steps(results: Results) -> str:
    rows = []
    for name in SYSTEMS:
        laps = results.steps.laps[name]
        seconds = [f"{median(lap[phase] for lap in laps):.2f}" for phase in PHASES]
        peak = f"{results.steps.peaks[name] / MIB:,.0f}"
        ratio = "1" if name == "stock" else _spread(_against_stock(results, name))
        whole = _spread([lap["step"] for lap in laps])
        rows.append((_title(name), whole, *seconds, ratio, f"{_work_ratio(results, name):.2f}", peak))
    head = ("a step", "seconds", *PHASES, "/ stock", "by token count", "peak MiB beyond weights")
    return "**Seconds of a step**\n\n" + _table(head, rows)


def _counts(results: Results) -> str:
    rows = []
    for name in SYSTEMS:
        counts = results.steps.counts[name]
        numbers = [(c.rollout, c.update, c.update, c.images, c.work(results.work)) for c in counts]
        rows.append((_title(name), *(f"{mean(column):,.0f}" for column in zip(*numbers, strict=True))))
    head = ("mean tokens of a step", "rollout", "reference", "update", "image tokens encoded", "work")
    return "**What the ratios are held against**\n\n" + _table(head, rows) + "\n\n" + WORK


WORK = (
    "Work: tokens of rollout and reference once, those of the update twice (forward, backward; once more where layers "
    "are recomputed), and image tokens at what the vision tower costs for each. Head, Python and optimizer are not "
    "counted, attention under Growth alone."
)


def _growth(results: Results) -> str:
    rows = []
    for grown in results.growth:
        small, large = grown.counts
        tokens = [count.work(results.work) for count in grown.counts]
        all_ = [count.work(results.work) + count.attention(results.work) for count in grown.counts]
        what = f"{grown.what} {' -> '.join(map(str, grown.values))}"
        slower = _spread(_ratios(grown.seconds[1], grown.seconds[0]))
        counted = f"{small.update:,} -> {large.update:,}"
        rows.append((what, counted, slower, f"{tokens[1] / tokens[0]:.1f}", f"{all_[1] / all_[0]:.1f}"))
    head = ("a `direct` step with", "tokens of the update", "times as long", "by token count", "with attention")
    return "**Growth**\n\n" + _table(head, rows)


def _decode(results: Results) -> str:
    d = results.decode
    graph = "" if d.as_graph is None else f", {1e3 * d.as_graph:.1f} ms from a CUDA graph"
    return (
        f"**Decoding**\n\nA token in each of {d.rows} rows takes {1e3 * d.seconds:.1f} ms "
        f"({1e3 * d.without_adapters:.1f} ms with the adapters off{graph}), "
        f"{d.seconds / d.floor:.1f} times its floor of {1e3 * d.floor:.1f} ms: "
        f"{d.weights / MIB:,.0f} MiB of weights, {d.unpacking / MIB:,.0f} MiB of unpacking "
        f"them from 4 bits and {d.cache / MIB:,.0f} MiB of cache at {d.bandwidth / 1e9:.1f} GB/s, which a sum over a "
        f"large tensor reads here. The products with the base's matrices alone take {1e3 * d.products:.1f} ms."
    )


# -- numbers -----------------------------------------------------------------------------------------------------------


def _against_stock(results: Results, name: str) -> list[float]:
    laps = results.steps.laps
    return _ratios([lap["step"] for lap in laps[name]], [lap["step"] for lap in laps["stock"]])


def _work_ratio(results: Results, name: str) -> float:
    """Of what the same rounds count: crops differ from question to question."""
    ours, stock = ([count.work(results.work) for count in results.steps.counts[n]] for n in (name, "stock"))
    return median(_ratios(ours, stock))


def _ratios(upper: Sequence[float], lower: Sequence[float]) -> list[float]:
    return [a / b for a, b in zip(upper, lower, strict=True)]


def _spread(values: Sequence[float]) -> str:
    return f"{median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def _met(met: bool) -> str:
    return "met" if met else "**not met**"


def _title(name: str) -> str:
    return "stock `trl.GRPOTrainer`" if name == "stock" else f"`{name}`"


def _table(head: Row, rows: Sequence[Row]) -> str:
    lines = [head, ("---", *["---:"] * (len(head) - 1)), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
