"""The training rows of MGPO (arXiv 2507.05920), `xinyu1205/mme_realworld_train_21690`.

The set itself has not been looked into: its columns are taken to be those that the public code reads from it
(`xinyu1205/verl`, branch mgpo), with the answer where verl keeps it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from hart_lite.data.formats.base import Columns, ImageDir, id_of, images_of, read_records
from hart_lite.data.rows import Row
from hart_lite.errors import HartError

IMAGE_COLUMNS = ("image", "images", "image_path")
COLUMNS = ("id", *IMAGE_COLUMNS, "question", "choices", "reward_model", "answer", "data_source")


def read_mgpo(source: str, split: str | None, image_dir: ImageDir, columns: Columns = None) -> Iterator[Row]:
    """Of each row: `question` (`prompt` repeats it among instructions); `choices`, a text of lines "(A) ..", or a list;
    the answer, `reward_model.ground_truth` or else `answer`; the category, `data_source`; `image`, encoded or a path,
    or else `image_path`."""
    for record in read_records(source, COLUMNS, split, image_dir, columns):
        if record.problem:
            yield record
            continue
        fields = record.fields
        graded = fields.get("reward_model")
        try:
            ours = {"images": images_of(fields, *IMAGE_COLUMNS), "choices": fields.get("choices") or None}
        except HartError as error:
            yield replace(record, problem=str(error))
            continue
        ours |= {"id": id_of(record), "question": fields.get("question"), "category": fields.get("data_source")}
        ours["answer"] = graded.get("ground_truth") if isinstance(graded, dict) else fields.get("answer")
        yield replace(record, fields=ours)
