"""An adapter or a merged model on the Hub, with a card (hart-lite push).

What goes up is a fixed list: weights, configs, tokenizer, licence, the card, the record of the run and its pictures.
Whatever else lies in the folder stays here. The token is the one of the environment or of `hf auth login`; it is in no
message, file or traceback of ours.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, HTTPError
from huggingface_hub.utils import validate_repo_id

from hart_lite.errors import ConfigError, HartError, ModelError
from hart_lite.export.lora import find_adapter
from hart_lite.export.model_card import Kind, model_card
from hart_lite.export.shards import INDEX, Checkpoint
from hart_lite.models.adapter_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, read_adapter_config
from hart_lite.models.loading import ADAPTER_BASE
from hart_lite.runs.record import PICTURES, RECORD, RunRecord, public_name, record_of
from hart_lite.utils.text import cut, shown

CARD = "README.md"
GOES = (
    *("config.json", "generation_config.json", INDEX, ADAPTER_CONFIG, ADAPTER_BASE),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json"),
    *("merges.txt", "vocab.txt", "tokenizer.model", "chat_template.jinja", "chat_template.json"),
    *("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json"),
)
LICENCES = ("LICENSE", "LICENCE", "NOTICE")
# What huggingface_hub raises: for a refusal, a broken connection, an answer it cannot read, and from its Rust part.
FAILURES = (HTTPError, OSError, ValueError, RuntimeError)


@dataclass(frozen=True)
class UploadPlan:
    """What goes up. `files`: name in the repository -> a file here, or its content."""

    kind: Kind
    card: str
    files: dict[str, Path | bytes]
    left_out: tuple[str, ...]

    def text(self) -> str:
        sizes = {name: len(f) if isinstance(f, bytes) else f.stat().st_size for name, f in self.files.items()}
        lines = [f"{_bytes(size):>10}  {name}" for name, size in sizes.items()]
        lines.append(f"{_bytes(sum(sizes.values())):>10}  in {len(sizes)} files")
        if self.left_out:
            lines.append(f"stays here: {', '.join(self.left_out)}")
        return "\n".join(lines)


def push(source: str | Path, repo: str, dry_run: bool = False, private: bool = False, pictures: bool = True) -> str:
    """Upload a run's adapter, the folder of one, or a merged model to `repo` ("owner/name"), which is made where it is
    not there yet. Returns what to print: the files, then the card (`dry_run`, which uploads nothing) or the address.

    pictures: show rollouts of the training, which are images of the training data.

    Raises `HartError` for a folder that is neither, a missing token, missing rights, a repository that is public when
    it was to be private, and a connection that breaks; run again, it goes on where it was.
    """
    _check_name(repo)
    plan = plan_upload(Path(source), repo, pictures)
    if dry_run:
        return f"{plan.text()}\n\n{plan.card}"
    token = get_token()
    if token is None:
        raise ConfigError(
            "there is no token to upload with: make one that may write at https://huggingface.co/settings/tokens, then "
            "`hf auth login`, or set HF_TOKEN"
        )
    with tempfile.TemporaryDirectory(prefix="hart-lite-push-") as folder:
        lay_out(plan, Path(folder))
        failed = None
        try:
            _upload(HfApi(token=token), Path(folder), repo, private, f"Upload {plan.kind} with hart-lite")
        except FAILURES as error:
            failed = _explained(error, repo, token)
    if failed:
        raise failed  # outside of the handler, since the client's error holds the request with the token
    return f"{plan.text()}\n\n{constants.ENDPOINT}/{repo}"


def _upload(api: HfApi, folder: Path, repo: str, private: bool, message: str) -> None:
    # None: as the owner's settings have it, where --private does not ask for more.
    api.create_repo(repo, private=private or None, exist_ok=True)
    if private and not api.repo_info(repo).private:
        raise ConfigError(
            f"{repo} is there already, and public: make it private in its settings, or choose another name"
        )
    api.upload_folder(repo_id=repo, folder_path=folder, commit_message=message)


def plan_upload(source: Path, repo: str, pictures: bool = True) -> UploadPlan:
    """Raises `HartError` for a folder that holds neither an adapter nor a whole merged model."""
    if (source / "config.json").is_file() and not (source / ADAPTER_CONFIG).is_file():
        kind, folder = "merged", source
        weights = Checkpoint.open(folder).shards  # half a model stays here
        record, shots = _record_of_merge(folder)
        own: dict[str, Path | bytes] = {}
    else:
        kind, folder, weights = "adapter", find_adapter(source), (ADAPTER_WEIGHTS,)
        config = read_adapter_config(folder)
        base = config.get("base_model_name_or_path") or "unnamed base"
        record, shots = record_of(folder, base)
        config["base_model_name_or_path"] = public_name(base)  # PEFT writes the path of a local base here
        own = {ADAPTER_CONFIG: json.dumps(config, indent=2).encode()}
    shots = shots if pictures else {}
    record = record.model_copy(update={"pictures": [p for p in record.pictures if p.file in shots]})
    card = model_card(record, kind, repo)
    own |= {CARD: card.encode(), RECORD: record.text().encode()}
    own |= {f"{PICTURES}/{name}": data for name, data in shots.items()}
    there = {path.name: path for path in folder.iterdir() if path.is_file()}
    files = {name: path for name, path in there.items() if name in (*GOES, *weights) or name.startswith(LICENCES)}
    stays = sorted(path.name for path in folder.iterdir() if path.name not in {*files, *own, PICTURES})
    return UploadPlan(kind, card, dict(sorted((files | own).items())), tuple(stays))


def _record_of_merge(folder: Path) -> tuple[RunRecord, dict[str, bytes]]:
    record = RunRecord.load(folder)
    if record is None or record.merged is None:
        raise ModelError(
            f"{folder} holds a model that hart-lite merge did not make ({RECORD} is missing), so nothing is known of "
            "it; push a run, an adapter or a merge"
        )
    return record, record.load_pictures(folder)


def lay_out(plan: UploadPlan, folder: Path) -> None:
    """Write the plan into a folder, files of this machine as links: the client uploads a folder, and copies would take
    the disk twice."""
    for name, content in plan.files.items():
        target = folder / name
        target.parent.mkdir(exist_ok=True)
        if isinstance(content, bytes):
            target.write_bytes(content)
        else:
            target.symlink_to(content.resolve())


def _check_name(repo: str) -> None:
    try:
        validate_repo_id(repo)
        named = repo.count("/") == 1
    except ValueError:
        named = False
    if not named:
        raise ConfigError(
            f"{shown(repo)} should look like OWNER/NAME: your name or an organisation's on the Hub, then letters, "
            "digits, '-', '_' and '.'"
        )


def _explained(error: Exception, repo: str, token: str) -> HartError:
    """What went wrong and what to do. A server may echo a request, so the token is taken out of its words."""

    def quoted(words: str) -> str:
        return cut(" ".join(words.replace(token, "(token)").split()))

    if isinstance(error, HfHubHTTPError):
        code = error.response.status_code
        reasons = {
            401: "the Hub does not know the token: it is mistyped, expired or revoked. Make one that may write at "
            "https://huggingface.co/settings/tokens, then `hf auth login` or HF_TOKEN",
            403: f"the token may not write to {repo}: it needs the right to write (a read token has not), and OWNER "
            "has to be you or an organisation that lets you",
            404: f"{repo} is not there, or the token may not see it",
        }
        reason = reasons.get(code, f"the Hub refused with status {code}")
        return HartError(f"{reason}\nThe Hub said: {quoted(error.server_message or error.response.reason_phrase)}")
    if isinstance(error, ValueError) and not isinstance(error, OSError):
        return HartError(f"the Hub's answer cannot be used: {quoted(str(error))}")
    return HartError(
        f"the connection to {constants.ENDPOINT} failed: {type(error).__name__}: {quoted(str(error))}\nRun the same "
        "command again: what arrived whole is not sent twice"
    )


def _bytes(n: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if n < 1024:
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1024
    return f"{n:.2f} GiB"
