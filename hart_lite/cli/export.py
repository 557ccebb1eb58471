"""merge, push: what was trained, as others can use it."""

from __future__ import annotations

import argparse
from pathlib import Path

from hart_lite.utils.libraries import quiet_libraries
from hart_lite.utils.text import printable


def add(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("merge", help="adapter and base as one checkpoint", description=merge.__doc__)
    command.add_argument("source", metavar="RUN", type=Path, help="a run directory, or the folder of an adapter")
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the merged checkpoint goes")
    command.add_argument(
        "--base",
        choices=("plain", "dequant"),
        default="plain",
        help="what the adapter is added to: the unquantised base, or what its 4 bits stood for in training",
    )
    command.add_argument("--base-path", type=Path, metavar="DIR", help="where the model's base is now, if it has moved")
    command.add_argument("--force", action="store_true", help="replace an earlier merge in DIR, and nothing else")
    command.set_defaults(run=merge)

    command = commands.add_parser("push", help="share an adapter or a merge on the Hub", description=push.__doc__)
    command.add_argument("folder", metavar="DIR", type=Path, help="a run, the folder of an adapter, or a merge")
    command.add_argument("repo", metavar="REPO", help="OWNER/NAME on the Hub; made where it is not there yet")
    command.add_argument("--dry-run", action="store_true", help="show files, sizes and card; upload nothing")
    command.add_argument("--private", action="store_true", help="for you alone; an error if it is there and public")
    command.add_argument("--no-pictures", action="store_true", help="leave out rollouts: they show training images")
    command.set_defaults(run=push, go_on="the same command goes on where it was")


def merge(arguments: argparse.Namespace) -> int:
    """Merge a run's adapter into its base, shard by shard, and print what was proved of the result.

    The folder appears when it is whole and proved, or not at all. Plain transformers loads it.
    """
    quiet_libraries()
    from hart_lite.export.merge import merge as merged

    print(merged(arguments.source, arguments.out, arguments.base, arguments.force, arguments.base_path).text())
    print(f"\nmerged checkpoint: {arguments.out}")
    return 0


def push(arguments: argparse.Namespace) -> int:
    """Upload a run's adapter, or a merged checkpoint, with a model card. An upload that stopped goes on when run again.

    The token comes from `hf auth login` or HF_TOKEN.
    """
    quiet_libraries()
    from hart_lite.export.push import push as pushed

    said = pushed(arguments.folder, arguments.repo, arguments.dry_run, arguments.private, not arguments.no_pictures)
    print(printable(said))
    return 0
