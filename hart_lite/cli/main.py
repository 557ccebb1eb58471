"""The command line. Heavy imports happen inside the commands, so that --help answers at once."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import sys

from hart_lite import __version__
from hart_lite.cli import ask as using
from hart_lite.cli import check_base, data, export, init, serve
from hart_lite.cli import eval as evaluating
from hart_lite.cli import train as training
from hart_lite.errors import HartError
from hart_lite.training.signals import Stopped
from hart_lite.utils.text import RED, YELLOW, coloured, printable

EXAMPLES = """examples:
  hart-lite init                                    a recipe for your card and your data, by three questions
  hart-lite train tiny_cpu                          the toy data, on a laptop, in minutes
  hart-lite train tiny_cpu loop=mgpo objective=grpo a baseline, by overrides
  hart-lite plan qwen7b_lora rollout.samples=4      peak memory and fitting cards, before any download
  hart-lite check-base toy                          is a base sound on this machine with these settings?
  hart-lite serve qwen7b_80gb                       the command that starts a vLLM server for its rollouts
  hart-lite bench                                   a step against stock TRL's, in minutes, without a download
  hart-lite train recipes/qwen7b_lora.yaml data.train=my/rows.jsonl
  hart-lite train runs/tiny_cpu/recipe.yaml --resume
  hart-lite ask photo.jpg "What does the sign say?" --model runs/tiny_cpu
  hart-lite demo runs/tiny_cpu                      a page: where it looks, base beside trained
  hart-lite report runs/tiny_cpu                    one page: before and after, curves, the boxes over time
  hart-lite data check my/rows.jsonl --preview sheet.png
  hart-lite eval runs/tiny_cpu --benchmark toy      a trained run in our three modes (hart-lite eval --help for more)
  hart-lite benchmarks                              what there is to evaluate on
  hart-lite merge runs/tiny_cpu --out merged        the trained adapter and its base as one plain checkpoint

NO_COLOR=1 switches colours off. In bash and zsh, words complete after:
  eval "$(register-python-argcomplete hart-lite)"
"""
log = logging.getLogger(__name__)


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code: 0, 1 after an error that the message explains, 130 after Ctrl-C, as a shell has it, and
    that of a run that was stopped and can go on (`hart_lite.training.signals`)."""
    parser = _parser()
    if "_ARGCOMPLETE" in os.environ:  # a shell asks what the word may become
        import argcomplete

        argcomplete.autocomplete(parser)
    words = sys.argv[1:] if argv is None else argv
    if not words:
        parser.print_help()
        return 0
    arguments, rest = parser.parse_known_args(words)
    if any(word.startswith("-") for word in rest) or (rest and not hasattr(arguments, "overrides")):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:  # overrides after an option: argparse takes a list of words in one piece only
        arguments.overrides += rest
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Printable("%(message)s"))
    level = getattr(arguments, "level", None)
    logging.basicConfig(level=logging.WARNING if level == logging.WARNING else logging.INFO, handlers=[handler])
    if level:  # of this package alone: what its libraries have to say of every request helps nobody
        logging.getLogger("hart_lite").setLevel(level)
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
        log.debug("where it was found:", exc_info=error)
        print(f"{coloured('hart-lite:', RED, sys.stderr)} {printable(str(error))}", file=sys.stderr)
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
        text = printable(super().format(record))
        return coloured(text, YELLOW, sys.stderr) if record.levelno >= logging.WARNING else text


class _Parser(argparse.ArgumentParser):
    """With -q and -v, which every command has: argparse makes the parsers of commands of this class, too."""

    def __init__(self, **options) -> None:
        super().__init__(**options)
        loudness = self.add_mutually_exclusive_group()
        for flags, level, about in (
            (("-q", "--quiet"), logging.WARNING, "no progress bars, and of messages warnings and errors alone"),
            (("-v", "--verbose"), logging.DEBUG, "each phase as it begins; of an error, where it was found"),
        ):
            loudness.add_argument(
                *flags, action="store_const", dest="level", const=level, default=argparse.SUPPRESS, help=about
            )


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="hart-lite",
        description="Teach a vision-language model where to look, on one GPU, from final answers alone.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"hart-lite {__version__}")
    parser.set_defaults(go_on="")  # what to say to someone who stopped a command
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in (init, training, serve, check_base, using, evaluating, export, data):
        module.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
