"""The command line. Heavy imports happen inside the commands, so that --help answers at once."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import sys

from hart_lite.cli import ask as using
from hart_lite.cli import check_base, data, export, serve
from hart_lite.cli import eval as evaluating
from hart_lite.cli import train as training
from hart_lite.errors import HartError
from hart_lite.training.signals import Stopped
from hart_lite.utils.text import printable

EXAMPLES = """examples:
  hart-lite train tiny_cpu                          the toy data, on a laptop, in minutes
  hart-lite train tiny_cpu loop=mgpo objective=grpo a baseline, by overrides
  hart-lite plan qwen7b_lora rollout.samples=4      peak memory and fitting cards, before any download
  hart-lite check-base toy                     is a base sound on this machine with these settings?
  hart-lite serve qwen7b_80gb                  the command that starts a vLLM server for its rollouts
  hart-lite bench                                   a step against stock TRL's, in minutes, without a download
  hart-lite train recipes/qwen7b_lora.yaml data.train=my/rows.jsonl
  hart-lite train runs/tiny_cpu/recipe.yaml --resume
  hart-lite ask photo.jpg "What does the sign say?" --model runs/tiny_cpu
  hart-lite demo runs/tiny_cpu                      a page: where it looks, base beside trained
  hart-lite report runs/tiny_cpu                    one page: before and after, curves, the boxes over time
  hart-lite data check my/rows.jsonl --preview sheet.png
  hart-lite eval runs/tiny_cpu --benchmark toy    a trained run in our three modes (hart-lite eval --help for more)
  hart-lite benchmarks                              what there is to evaluate on
  hart-lite merge runs/tiny_cpu --out merged        the trained adapter and its base as one plain checkpoint
"""


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code: 0, 1 after an error that the message explains, 130 after Ctrl-C, as a shell has it, and
    that of a run that was stopped and can go on (`hart_lite.training.signals`)."""
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    if any(word.startswith("-") for word in rest) or (rest and not hasattr(arguments, "overrides")):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:  # overrides after an option: argparse takes a list of words in one piece only
        arguments.overrides += rest
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Printable("%(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    for noisy in ("httpx", "bitsandbytes", "trl", "accelerate"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    os.environ.setdefault(
        "HF_HUB_DISABLE_TELEMETRY", "1"
    )  # trl counts its trainers; who wants to be counted sets it to 0
    try:
        code = arguments.run(arguments)
        sys.stdout.flush()
        return code
    except HartError as error:
        print(f"hart-lite: {printable(str(error))}", file=sys.stderr)
    except Stopped as stop:
        print(f"hart-lite: {printable(str(stop))}", file=sys.stderr)
        return stop.code
    except KeyboardInterrupt:
        print("; ".join(["hart-lite: stopped", *filter(None, [arguments.go_on])]), file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read the output, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains at its end
    except OSError as error:
        if error.filename is None and error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = str(error.filename or "the run directory")
        where = where if len(where) < 200 else where[:80] + " .. " + where[-80:]
        print(f"hart-lite: {error.strerror}: {printable(where)}; what was saved is intact", file=sys.stderr)
    return 1


class _Printable(logging.Formatter):
    """Messages quote names and rows that others wrote."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hart-lite",
        description="Teach a vision-language model where to look, on one GPU, from final answers alone.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(go_on="")  # what to say to someone who stopped a command
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in (training, serve, check_base, using, evaluating, export, data):
        module.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
