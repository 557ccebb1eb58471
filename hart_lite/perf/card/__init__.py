"""One command that checks hart-lite on a card, without weights, data or a network: `python -m hart_lite.perf.card`.

Everything runs on random weights at the true dimensions of Qwen2.5-VL-7B, so speed, memory and arithmetic are those of
a real run; what the model says is not. Stages run in the order of `stages.STAGES`, the cheap and deciding ones first.
Each has an alarm of its own and leaves one JSON line in `results.jsonl` whatever happened to it, so that a call that is
cut off, or a stage that crashes, costs nothing of the others.
"""
