"""What a plan is made of: turns in tokens, phases in bytes, the work of a step, cards as sold."""

from __future__ import annotations

from dataclasses import dataclass, field

GIB = 2**30
TEXT_TOKENS = 200  # of a prompt: chat template, instruction, question with its choices
SCORED_TOKENS = 64  # of the texts that answer one question, where they are scored: letters and texts of its choices
KL_COPIES = 7  # float32 logits at one time in the backward pass of a KL divergence: the policy's and the teacher's
CARDS = (12, 16, 24, 40, 48, 80)  # GB as sold
# The CUDA context with its kernels takes about half of this and memory the allocator cannot place the rest. Cards also
# report less than their name in GiB, so a GB is taken as 10^9 bytes.
RESERVE = 1.0 * GIB
# What torch's allocator takes of a card for one byte of tensors at the peak, while there is room: 13.2 GiB for 11.2 in
# a step of `qwen7b_lora` on an H200. What it does not use it gives back before it runs out of memory.
RESERVED = 1.18


@dataclass(frozen=True)
class Turn:
    """Tokens of one turn: a prompt's `shared` part, what a sample adds of its `own` to it, and what it samples, or
    where it is `scored` the texts that are given for that."""

    name: str
    shared: int
    own: int
    sampled: int
    scored: bool = False

    def __len__(self) -> int:
        return self.shared + self.own + self.sampled


@dataclass(frozen=True)
class Phase:
    """What is held in one phase of a run at its most, in bytes."""

    name: str
    weights: int
    adapters: int
    optimizer: int
    kv: int = 0
    features: int = 0
    activations: int = 0
    logits: int = 0

    @property
    def total(self) -> int:
        return sum(value for name, value in vars(self).items() if name != "name")


@dataclass(frozen=True)
class Step:
    """Work of one RL step: tokens packed, the same without shared prefixes, and floating point operations."""

    stage: str
    sampled: int
    packed: int
    unshared: int
    rollout_flops: int
    update_flops: int
    update_flops_unshared: int


@dataclass(frozen=True)
class Plan:
    phases: tuple[Phase, ...]
    steps: tuple[Step, ...]
    problems: tuple[str, ...] = field(default=())

    @property
    def largest(self) -> Phase:
        return max(self.phases, key=lambda phase: phase.total)

    @property
    def peak(self) -> int:
        """Bytes of tensors."""
        return self.largest.total

    @property
    def reserved(self) -> int:
        """Bytes that the allocator takes for them where the card has room."""
        return round(self.peak * RESERVED)


def usable(card: int) -> int:
    """Bytes of a card of so many GB that tensors may take."""
    return round(card * 10**9 - RESERVE)


def kv_tokens(turn: Turn, questions: int, samples: int) -> int:
    """Tokens in the rollout's cache: a question's prompt once, and for every sample room for what only it has."""
    return questions * turn.shared + questions * samples * (turn.own + turn.sampled)


def prompt_tokens(turn: Turn, questions: int, samples: int) -> int:
    """Tokens that are read before sampling begins."""
    return questions * turn.shared + questions * samples * turn.own
