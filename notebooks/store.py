"""Run a notebook on this machine and store it with its outputs: `python notebooks/store.py notebooks/tour.ipynb ..`

It runs from the beginning, in its own folder, without the `runs/` of an earlier time, and is written only if every cell
went well. Of a progress bar the last state is kept.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def store(path: Path) -> None:
    shutil.rmtree(path.parent / "runs", ignore_errors=True)
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, resources={"metadata": {"path": str(path.parent)}}, record_timing=False)
    client.execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = merged([tidy(output) for output in cell.outputs])
            refuse_failures(cell.outputs)
    notebook.metadata.language_info = {"name": "python"}  # the version is the machine's
    nbformat.validate(notebook)
    path.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")


def refuse_failures(outputs: list[dict]) -> None:
    """A notebook goes on after a command that failed; a stored one must not."""
    for output in outputs:
        for line in output.get("text", "").splitlines():
            if line.startswith("hart-lite: ") or "command not found" in line:
                raise SystemExit(line)


def tidy(output: dict) -> dict:
    """What a terminal would show in the end: of text that was written over, the last."""
    if output.output_type == "stream":
        lines = ANSI.sub("", output.text).replace("\r\n", "\n").split("\n")
        seen = ([part for part in line.split("\r") if part.strip()] for line in lines)
        output.text = "\n".join(parts[-1].rstrip() if parts else "" for parts in seen)
    return output


def merged(outputs: list[dict]) -> list[dict]:
    """Neighbouring pieces of one stream as one."""
    whole: list[dict] = []
    for output in outputs:
        if whole and output.output_type == "stream" == whole[-1].output_type and output.name == whole[-1].name:
            whole[-1].text += output.text
        else:
            whole.append(output)
    return whole


if __name__ == "__main__":
    # The commands of the environment that this Python belongs to.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    for name in sys.argv[1:]:
        store(Path(name))
