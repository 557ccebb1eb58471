"""The report as text: one screen, however many layers there are."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator

from hart_lite.perf.check_base.boxes import Boxes
from hart_lite.perf.check_base.decode import Decoding, Speed
from hart_lite.perf.check_base.layers import COLUMNS, Largest
from hart_lite.perf.check_base.memory import Memory
from hart_lite.perf.check_base.run import Report
from hart_lite.perf.check_base.verdicts import FLOAT16_END, Check

WIDTH = 120


def text(report: Report) -> str:
    lines = [report.subject, *_largest(report.largest)]
    if report.decoding:
        lines += _decoding(report.decoding)
    if report.boxes:
        lines += _boxes(report.boxes)
    if report.memory:
        lines += _memory(report.memory)
    if report.speed:
        lines.append(_speed(report.speed))
    return "\n".join([*lines, "", *(line for check in report.checks for line in _check(check)), "", _verdict(report)])


def _largest(largest: Largest) -> Iterator[str]:
    """The layers that hold a maximum, and the maxima."""
    yield f"{'largest values':22}" + "".join(f"{name:>13}" for name in COLUMNS)
    by_column = list(zip(*largest.layers, strict=True))
    most = [max(values, key=_size) for values in by_column]
    worst = sorted({values.index(peak) for values, peak in zip(by_column, most, strict=True)})
    for n in worst:
        yield f"{f'  layer {n}':22}" + "".join(f"{_number(value):>13}" for value in largest.layers[n])
    yield f"{f'  all {len(largest.layers)} layers':22}" + "".join(f"{_number(value):>13}" for value in most)
    ratios = (f"x{FLOAT16_END / value:,.1f}" if value else "-" for value in most)
    yield f"{'  to float16 end':22}" + "".join(f"{ratio:>13}" for ratio in ratios)
    yield f"{'  vision tower':22}{_number(largest.vision):>13}"


def _size(value: float) -> float:
    return math.inf if math.isnan(value) else value


def _number(value: float) -> str:
    return f"{value:,.1f}" if value < 1000 else f"{value:,.0f}"


def _decoding(found: Decoding) -> Iterator[str]:
    yield f"{f'{found.tokens} tokens of {found.rows} rows':22}{'mean':>13}{'most':>13}  nats"
    yield f"{'  drawn - pack':22}{found.gap.mean:13.2g}{found.gap.most:13.2g}"
    yield f"{'  pack - library':22}{found.library.mean:13.2g}{found.library.most:13.2g}"


def _boxes(boxes: Boxes) -> Iterator[str]:
    if not boxes.named:
        return
    yield f"{f'{boxes.named} boxes read as':22}{'mean IoU':>13}{'IoU >= 0.5':>13}"
    for frame, reading in sorted(boxes.readings.items(), key=lambda item: -item[1].iou):
        yield f"  {frame:20}{reading.iou:13.2f}{reading.hits:13}{'  <- as is set' if frame == boxes.own else ''}"


def _memory(memory: Memory) -> Iterator[str]:
    yield f"{'memory, GiB':22}{'planned':>13}{'seen':>13}"
    yield f"{'  load':22}{memory.load_planned:13.3f}{memory.load:13.3f}"
    yield f"{'  read and sample':22}{memory.work_planned:13.3f}{memory.work:13.3f}"
    yield f"{'  process':22}{'':13}{memory.process:13.3f}"


def _speed(speed: Speed) -> str:
    sampled, read = (
        f"{speed.seconds_per_token:.3g} s a sampled token",
        f"{speed.tokens_read_per_second:,.0f} tokens read",
    )
    return f"speed (no check): {sampled}, {read} a second"


def _check(check: Check) -> list[str]:
    return textwrap.wrap(f"{check.status}  {check.name}: {check.text}", WIDTH, subsequent_indent=" " * 6)


def _verdict(report: Report) -> str:
    counts = {status: sum(check.status == status for check in report.checks) for status in ("fail", "warn")}
    warnings = f"{counts['warn']} warning" + "s" * (counts["warn"] != 1)
    failed = "" if report.sound else f": {counts['fail']} of {len(report.checks)} failed"
    return (
        f"verdict: {'sound' if report.sound else 'NOT sound'} on this machine with these settings{failed}, {warnings}"
    )
