"""What goes up, what the card says, and what is said when it does not work. The client is the real one."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from hub_stand_in import TOKEN, Hub
from markdown_it import MarkdownIt
from merging import PLAIN_PROCESSOR, edit_config, make_adapter, make_base, python
from PIL import Image
from small_runs import make_up, rl_stage, sft_stage, small_recipe

from hart_lite.config.recipe import dump_recipe, load_recipe
from hart_lite.errors import HartError
from hart_lite.export.merge import merge
from hart_lite.export.model_card import fenced, model_card, plain
from hart_lite.export.push import lay_out, plan_upload, push
from hart_lite.runs.record import RunRecord, licence_of, public_name, public_recipe, record_of, run_of
from hart_lite.training.train import train

HOSTILE = (
    "<script>alert(1)</script> ![x](http://evil/x.png) [y](javascript:z) `a` | b\n# head\n---\nwww.evil.org @you $x^2$"
)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A whole run on a local base, with evaluations and pictures."""
    folder = tmp_path_factory.mktemp("home-of-alice")
    base = make_base(folder / "my-base")
    (base / "README.md").write_text("---\nlicense: other\nlicense_name: qwen-research\n---\n\n# Base\n")
    with pytest.MonkeyPatch.context() as patch:
        make_up(patch.setattr)
        stages = [rl_stage(steps=3, log_rollouts_every=1), sft_stage(steps=1)]
        train(small_recipe(base, folder / "run", stages, name="small"))
    return folder / "run"


@pytest.fixture(scope="module")
def merged(run, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("merged") / "out"
    merge(run, out)
    return out


def front_matter(card: str) -> dict:
    return yaml.safe_load(card.split("---\n")[1])


def record(**changes) -> RunRecord:
    return RunRecord.model_validate({"base": "Qwen/Qwen2.5-VL-7B-Instruct", "family": "qwen2_5_vl"} | changes)


class Page(HTMLParser):
    """The tags of a card as a browser would see them, with their links, and its words."""

    def __init__(self, card: str) -> None:
        super().__init__()
        self.tags, self.links, self.words = [], [], ""
        body = card.split("---\n", 2)[2]
        self.feed(MarkdownIt("gfm-like", {"linkify": False, "html": True}).render(body))

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in ("href", "src")]

    def handle_data(self, data):
        self.words += data


# -- what goes up --------------------------------------------------------------------------------------------------


def test_an_adapter_goes_up_with_what_it_needs_and_nothing_else(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    for name in ("optimizer.pt", ".env", "credentials.json", "training_args.bin", "notes.txt"):
        (copy / "adapter" / name).write_text("secret")
    plan = plan_upload(copy, "me/small")
    assert plan.kind == "adapter"
    pictures = [f"pictures/1-rl-step-0000{step}-{n}.jpg" for step in (0, 2) for n in (0, 1)]
    assert sorted(plan.files) == sorted(
        [
            *("README.md", "adapter_config.json", "adapter_model.safetensors", "base.json", "chat_template.jinja"),
            *("preprocessor_config.json", "tokenizer.json", "tokenizer_config.json", "training.json", *pictures),
        ]
    )
    assert plan.left_out == (".env", "credentials.json", "notes.txt", "optimizer.pt", "training_args.bin")
    assert not (copy / "adapter/README.md").exists()  # the card is made for the upload; PEFT's says nothing


def test_a_merge_goes_up_with_all_its_shards_or_not_at_all(merged, tmp_path):
    copy = shutil.copytree(merged, tmp_path / "out")
    (copy / "old.safetensors").write_bytes(b"of an earlier base")
    plan = plan_upload(copy, "me/small")
    assert plan.kind == "merged" and plan.left_out == ("old.safetensors",)
    assert {
        "model.safetensors",
        "config.json",
        "training.json",
        "pictures/1-rl-step-00000-0.jpg",
    } <= plan.files.keys()
    (copy / "model.safetensors").write_bytes((copy / "model.safetensors").read_bytes()[:-4])
    with pytest.raises(HartError, match="is damaged"):
        plan_upload(copy, "me/small")
    (copy / "training.json").unlink()
    shutil.copyfile(merged / "model.safetensors", copy / "model.safetensors")
    with pytest.raises(HartError, match="hart-lite merge did not make"):
        plan_upload(copy, "me/small")
    with pytest.raises(HartError, match="neither a run directory nor the folder of an adapter"):
        plan_upload(tmp_path, "me/small")


def test_no_path_of_this_machine_goes_up(run, merged):
    home = run.parent
    assert (
        str(home) in (run / "recipe.yaml").read_text()
        and str(home) in (run / "adapter/adapter_config.json").read_text()
    )
    for source in (run, merged):
        for name, content in plan_upload(source, "me/small").files.items():
            data = content if isinstance(content, bytes) else content.read_bytes()
            assert str(home).encode() not in data and b"home-of-alice" not in data, name
    assert b'"my-base"' in plan_upload(run, "me/small").files["adapter_config.json"]
    assert "path/to/my-base" in plan_upload(run, "me/small").card


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("toy", "toy"),
        ("toy", "toy"),
        ("Qwen/Qwen2.5-VL-7B-Instruct", "Qwen/Qwen2.5-VL-7B-Instruct"),
        ("/home/alice/models/qwen", "qwen"),
        ("/home/alice/models/qwen/", "qwen"),
        (r"C:\Users\alice\qwen", "qwen"),
        ("../alice/qwen", "qwen"),
        ("~/alice/qwen", "qwen"),
        ("alice/rows.jsonl", "rows.jsonl"),
        ("/home/alice/toy", "folder toy"),
        ("/home/alice/<b>", "-b-"),
        ("/", "folder "),
    ],
)
def test_names_as_others_may_see_them(name, shown):
    assert public_name(name) == shown


def test_a_local_folder_that_looks_like_a_hub_id_is_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert public_name("alice/qwen") == "alice/qwen"
    (tmp_path / "alice/qwen").mkdir(parents=True)
    assert public_name("alice/qwen") == "qwen"


def test_pictures_are_bounded_jpegs_without_metadata(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    logged = copy / "stages/1-rl/rollouts"
    exif = Image.Exif()
    exif[0x010E] = "taken at home"
    Image.effect_noise((4000, 300), 60).convert("RGB").save(logged / "step-00000-0.jpg", exif=exif, quality=100)
    (logged / "step-00002-1.jpg").write_bytes(b"\xff\xd8 cut off")
    found, pictures = record_of(copy / "adapter", "my-base")
    assert list(pictures) == [p.file for p in found.pictures] and len(pictures) == 3  # the broken one is left out
    data = pictures["1-rl-step-00000-0.jpg"]
    (tmp_path / "shown.jpg").write_bytes(data)
    with Image.open(tmp_path / "shown.jpg") as image:
        assert image.format == "JPEG" and image.size == (1024, 77) and not image.getexif()
    assert b"taken at home" not in data
    plan = plan_upload(copy, "me/small", pictures=False)
    assert not [name for name in plan.files if name.startswith("pictures")]
    assert "Where it looks" not in plan.card


def test_images_whose_licence_forbids_it_are_not_shown(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    recipe = load_recipe(copy / "recipe.yaml")
    closed = {"train": "full.json", "format": "mme_realworld", "lite": "lite.json"}
    dump_recipe(recipe.model_copy(update={"data": recipe.data.model_copy(update=closed)}), copy / "recipe.yaml")
    found, pictures = record_of(copy / "adapter", "my-base")
    assert found.pictures == [] and pictures == {} and found.recipe.data.train == "full.json"


def test_the_record_of_a_stage_ends_with_it(run):
    whole, _ = record_of(run / "adapter", "my-base")
    stage, _ = record_of(run / "stages/1-rl/adapter", "my-base")
    assert list(whole.evaluations) == ["before", "after-1-rl", "after-2-sft"] and len(whole.recipe.stages) == 2
    assert list(stage.evaluations) == ["before", "after-1-rl"] and len(stage.recipe.stages) == 1


def test_a_recipe_further_up_is_another_ones(run, tmp_path):
    shutil.copyfile(run / "recipe.yaml", tmp_path / "recipe.yaml")
    shutil.copytree(run / "adapter", tmp_path / "shared/adapter")
    assert run_of(tmp_path / "shared/adapter") is None and run_of(Path("/")) is None
    assert record_of(tmp_path / "shared/adapter", "my-base")[0].recipe is None
    assert (
        run_of(run / "adapter")
        == run
        == run_of(run / "stages/1-rl/adapter")
        == run_of(run / "stages/1-rl/checkpoint-2")
    )


def test_the_adapter_that_training_began_from_is_told_without_its_place():
    recipe = load_recipe("qwen7b_lora", ["model.adapter=/home/alice/first/adapter", "data.train=me/q"])
    public = public_recipe(recipe)
    assert public.model.adapter == "adapter"
    assert "Training began from another adapter (adapter)." in model_card(record(recipe=public), "adapter", "me/x")
    assert "another adapter" not in model_card(record(recipe=load_recipe("qwen7b_lora")), "adapter", "me/x")


def test_two_files_of_one_name_stay_two(run):
    recipe = load_recipe(run / "recipe.yaml")
    data = recipe.data.model_copy(update={"train": "/a/rows.jsonl", "sft": "/b/rows.jsonl", "image_dir": "/a/images"})
    shown = public_recipe(recipe.model_copy(update={"data": data}))
    assert (shown.data.train, shown.data.sft, shown.data.image_dir) == ("rows.jsonl", "sft rows.jsonl", None)


def test_what_lies_beside_a_model_makes_the_same_card_elsewhere(run, merged, tmp_path):
    """The adapter as it went up, without its run, and the merge."""
    lay_out(plan_upload(run, "me/small"), tmp_path)
    assert (tmp_path / "adapter_model.safetensors").is_symlink()
    assert plan_upload(tmp_path, "me/small").files["README.md"] == plan_upload(run, "me/small").files["README.md"]
    card = plan_upload(merged, "me/small").card
    assert "Measured with the adapter on its base, before merging." in card
    assert card.split("## How it was trained")[1].split("## Eval")[0] in plan_upload(run, "me/small").card


def test_a_damaged_record_is_an_error(merged, tmp_path):
    copy = shutil.copytree(merged, tmp_path / "out")
    (copy / "training.json").write_text('{"base": "x<script>"}')
    with pytest.raises(HartError, match=r"training.json is damaged"):
        plan_upload(copy, "me/small")


# -- the card ------------------------------------------------------------------------------------------------------


def test_the_card_of_a_run(run):
    card = plan_upload(run, "me/small").card
    assert front_matter(card) == {
        "license": "other",
        "license_name": "qwen-research",
        "library_name": "peft",
        "pipeline_tag": "image-text-to-text",
        "tags": ["hart-lite", "visual-grounding", "ap-grpo", "sft", "lora"],
    }
    page = Page(card)
    for said in (
        "A LoRA adapter for my-base, trained with hart-lite to look before it answers",
        "AP-GRPO: 3 steps of 2 questions with 3 samples each, k = 0.6, beta = 0.01, learning rate 0.01",
        "SFT, full+crops in sight: 1 steps of 2 rows",
        "8 scenes drawn by hart-lite, 2 questions each",
        "Asked in RL: 6 questions, 18 samples",
        "is of no use on photographs",
        "The licence of my-base applies: qwen-research.",
    ):
        assert said in page.words, said
    summary = (run / "summary.md").read_text().strip()
    assert summary.splitlines()[2] in card and summary in card
    assert page.tags.count("img") == 4 and page.tags.count("table") == 1
    assert [link for link in page.links if not link.startswith("pictures/")] == []


def test_the_card_of_a_7b_run_on_the_hub(run):
    recipe = load_recipe(
        "qwen7b_lora", ["data.train=me/questions", "model.revision=abc123", "model.lora.parts=[vision]"]
    )
    shown = record(recipe=public_recipe(recipe), licence={"license": "apache-2.0"}, libraries={"torch": "2.13.0"})
    card = model_card(shown, "adapter", "me/look")
    assert front_matter(card)["base_model"] == "Qwen/Qwen2.5-VL-7B-Instruct"
    assert front_matter(card)["base_model_relation"] == "adapter" and front_matter(card)["datasets"] == ["me/questions"]
    page = Page(card)
    assert page.links == ["https://huggingface.co/Qwen/Qwen2.5-VL-7B-Instruct"] * 2
    for said in (
        'from_pretrained("Qwen/Qwen2.5-VL-7B-Instruct", revision="abc123", dtype="auto"',
        'PeftModel.from_pretrained(model, "me/look")',
        '[{"bbox_2d": [x1, y1, x2, y2]}]',
        "hart-lite ask photo.jpg",
        "trained and measured on a base in 4 bits (nf4)",
        "leaves such adapters out (vLLM) needs it merged",
        "Nothing was measured on held-out questions.",
        "4-bit (nf4) weights",
    ):
        assert said in page.words, said
    merged = model_card(shown.model_copy(update={"merged": "dequant"}), "merged", "me/look")
    assert front_matter(merged)["base_model_relation"] == "finetune" and "Peft" not in merged
    assert 'from_pretrained("me/look", dtype="auto"' in merged and "4 bits (nf4) stand for" in merged
    answers_at_once = load_recipe("qwen7b_lora", ["loop=direct", "objective=grpo", "data.train=me/q"])
    card = model_card(record(recipe=public_recipe(answers_at_once)), "adapter", "me/look")
    assert "look before it answers" not in card and "grpo" in front_matter(card)["tags"]


def test_the_code_of_the_card_is_python_and_short():
    for kind in ("adapter", "merged"):
        for base in ("toy", "Qwen/Qwen2.5-VL-7B-Instruct", "my base"):
            card = model_card(record(base=base), kind, "me/look")
            code = re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]
            compile(code, "card", "exec")
            statements = [line for line in code.splitlines() if line and not line.startswith((" ", ")", "from "))]
            assert len(statements) <= 10


def test_the_code_of_the_card_asks_in_the_words_of_the_recipe():
    prompts = {"locate": "\u770b{image}\u95ee\uff1a{question}{box_format}", "system": 'You say "where".'}
    recipe = {"name": "x", "data": {"train": "me/q"}, "prompts": prompts, "stages": [{"kind": "rl"}]}
    code = re.search(r"```python\n(.*?)```", model_card(record(recipe=recipe), "merged", "me/x"), re.DOTALL)[1]
    lines = code[code.index("content = [") : code.index("inputs =")].replace('Image.open("photo.jpg")', '"photo"')
    made: dict = {}
    exec(lines, made)
    system, user = made["chat"]
    assert system == {"role": "system", "content": 'You say "where".'}
    before, image, after = user["content"]
    assert (before["text"], image) == ("\u770b", {"type": "image", "image": "photo"})
    assert after["text"].startswith("\u95ee\uff1aWhat does the red sign say?") and "bbox_2d" in after["text"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["merged", "adapter"])
def test_the_code_of_a_card_runs_without_hart_lite(run, merged, tmp_path, kind):
    """With folders in the place of the repository, and of the base that an adapter's card names."""
    folder = merged if kind == "merged" else run / "adapter"
    base = json.loads((run / "adapter/adapter_config.json").read_text())["base_model_name_or_path"]
    code = re.search(r"```python\n(.*?)```", plan_upload(folder, "me/small").card, re.DOTALL)[1]
    code = re.sub(r'"path/to/[^"]*"', repr(base), code.replace('"me/small"', repr(str(folder))))
    Image.linear_gradient("L").convert("RGB").resize((112, 112)).save(tmp_path / "photo.jpg")
    before = 'import sys\nsys.modules["hart_lite"] = None\n' + PLAIN_PROCESSOR
    done = python(before + code.replace("max_new_tokens=256", "max_new_tokens=4"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]


def test_nothing_from_data_becomes_markup():
    assert Page("---\n\n---\n" + HOSTILE).tags.count("script") == 1  # the page would have seen it
    figures = {"questions": 3, "accuracy": {HOSTILE: 0.5}, "valid_box": 1.0}
    recipe = {
        "name": "x",
        "model": {"base": "b"},
        "data": {"train": HOSTILE, "split": HOSTILE, "columns": {"question": HOSTILE + "\n```\n<script>"}},
        "stages": [{"kind": "rl"}],
    }
    picture = {"file": "a.jpg", "stage": HOSTILE, "step": 1, "question": HOSTILE * 50, "right": 1, "samples": 2}
    card = model_card(
        record(
            base="some base",
            recipe=recipe,
            evaluations={HOSTILE: figures},
            licence={"license": "other"},
            libraries={HOSTILE: HOSTILE},
            pictures=[picture],
        ),
        "adapter",
        "me/x",
    )
    page = Page(card)
    assert set(page.tags) <= {
        *("h1", "h2", "p", "pre", "code", "ol", "ul", "li", "details", "summary", "table", "thead", "tbody", "tr"),
        *("th", "td", "img"),
    }
    assert page.links == ["pictures/a.jpg"] and page.tags.count("h1") == 1
    assert page.words.count("<script>alert(1)</script>") >= 8  # shown as text
    assert page.tags.count("td") == 2 * 2
    with pytest.raises(ValueError, match="pattern"):  # it would stand in the front matter
        record(licence={"license": "x\n---\n<script>"})
    assert "http&#58;//evil" in card and "www&#46;evil" in card  # no link either where bare addresses become one
    assert len(plain("x" * 10_000)) < 250


@pytest.mark.parametrize("text", ["a", "```", "x ````` y", "~~~", "``"])
def test_a_fence_is_longer_than_what_it_holds(text):
    (block,) = [t for t in MarkdownIt().parse(fenced(text, "yaml") + "\n\nafter") if t.type == "fence"]
    assert block.content == text + "\n"


@pytest.mark.parametrize(
    "figures",
    [{}, {"questions": "<b>", "accuracy": {}, "valid_box": 1}, {"questions": 1, "accuracy": 3, "valid_box": 1}],
)
def test_damaged_figures_are_an_error(figures):
    with pytest.raises(HartError, match="evaluations are damaged"):
        model_card(record(evaluations={"before": figures}), "adapter", "me/x")


@pytest.mark.parametrize(
    ("card", "said"),
    [
        ("---\nlicense: apache-2.0\ntags: [a]\n---\n# x", {"license": "apache-2.0"}),
        ("---\nlicense: [a]\n---\n", {}),
        ("---\nlicense: a: b\n---\n", {}),
        ("---\nlicense: mit\nday: 2024-99-99\n---\n", {}),
        ("# no front matter\n---\nlicense: mit\n---", {}),
        ("---\nlicense: mit", {}),
        ("---\nlicense: |\n  x\n  ---\n  <script>\n---\n", {}),
        ("", {}),
    ],
)
def test_the_licence_is_what_the_card_of_the_base_says(tmp_path, card, said):
    (tmp_path / "README.md").write_text(card)
    assert licence_of(str(tmp_path)) == said
    assert licence_of(str(tmp_path / "nowhere")) == {} and licence_of("toy") == {"license": "apache-2.0"}


def test_an_adapter_without_its_run_has_a_card_too(tmp_path):
    make_adapter(make_base(tmp_path / "base"), tmp_path / "adapter", parts=["language"])
    card = plan_upload(tmp_path / "adapter", "me/x").card
    assert "A LoRA adapter for base" in card and "How it was trained" not in card
    edit_config(tmp_path / "adapter", base_model_name_or_path=None)
    assert "A LoRA adapter for unnamed base" in plan_upload(tmp_path / "adapter", "me/x").card


# -- the Hub -------------------------------------------------------------------------------------------------------


PUSHES = """
    import json, os, sys, traceback
    from hart_lite.export.push import push
    from hart_lite.errors import HartError
    results = {}
    for name, source, repo, token, more in json.loads(sys.argv[1]):
        os.environ.pop("HF_TOKEN", None)
        os.environ.pop("HUGGING_FACE_HUB_TOKEN", None)
        if token:
            os.environ["HF_TOKEN"] = token
        try:
            results[name] = {"said": push(source, repo, **more)}
        except HartError as error:
            results[name] = {"error": str(error), "trace": traceback.format_exc()}
    print(json.dumps(results))
"""


def pushes(hub: Hub, home: Path, *asked: tuple, **environment: str) -> tuple[dict, str]:
    """(what came of each push, all that was printed)."""
    here = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "NO_PROXY": "127.0.0.1"}
    here["HF_XET_CLIENT_RETRY_MAX_ATTEMPTS"] = "1"
    done = python(PUSHES, json.dumps(asked), **here, **environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1]), done.stdout + done.stderr


@pytest.fixture(scope="module")
def results(run, merged, tmp_path_factory):
    """One process that pushes again and again, to a Hub that is unkind to some repositories."""
    home = tmp_path_factory.mktemp("hf-home")

    def refuse(method: str, path: str) -> int | None:
        if "/me/locked/commit" in path:
            return 403
        if "/me/odd/commit" in path:
            return 400
        if "/me/gone/xet-write-token" in path:
            return 0
        return None

    with Hub(refuse=refuse) as hub:
        asked = [
            ("adapter", str(run), "me/adapter", TOKEN, {}),
            ("again", str(run), "me/adapter", TOKEN, {}),
            ("merged", str(merged), "me/merged", TOKEN, {}),
            ("private", str(run), "me/secret", TOKEN, {"private": True}),
            ("not private", str(run), "me/adapter", TOKEN, {"private": True}),
            ("of another", str(run), "you/adapter", TOKEN, {}),
            ("read only", str(run), "me/locked", TOKEN, {}),
            ("odd", str(run), "me/odd", TOKEN, {}),
            ("cut off", str(run), "me/gone", TOKEN, {}),
            ("unknown token", str(run), "me/adapter", "hf_" + "w" * 30, {}),
            ("no token", str(run), "me/adapter", "", {}),
            ("dry run", str(merged), "me/nothing", "", {"dry_run": True}),
        ]
        found, printed = pushes(hub, home, *asked)
        yield found, printed, hub, home


def test_what_is_pushed_is_there(results, run, merged):
    found, _, hub, _ = results
    assert found["adapter"]["said"].endswith(f"{hub.url}/me/adapter")
    for repo, source in (("me/adapter", run), ("me/merged", merged)):
        there, sent = hub.repos[repo].files, plan_upload(source, repo).files
        assert there.keys() == sent.keys()
        assert there["README.md"] == sent["README.md"] and there["training.json"] == sent["training.json"]
        assert there["tokenizer.json"] == sent["tokenizer.json"].read_bytes()
    assert not hub.repos["me/adapter"].private and hub.xorbs
    assert sum(hub.xorbs.values()) > 3e6  # the weights, in xet's own pieces


def test_a_repository_that_exists_is_fine(results):
    found, _, hub, _ = results
    assert found["again"]["said"] == found["adapter"]["said"]
    assert hub.repos["me/adapter"].commits[0] == "Upload adapter with hart-lite"


def test_private_is_private_or_an_error(results):
    found, _, hub, _ = results
    assert "said" in found["private"] and hub.repos["me/secret"].private
    assert "me/adapter is there already, and public" in found["not private"]["error"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("of another", "the token may not write to you/adapter"),
        ("read only", "the token may not write to me/locked"),
        ("odd", "the Hub refused with status 400"),
        ("cut off", r"failed: ConnectionError: .*\nRun the same command again"),
        ("unknown token", "the Hub does not know the token"),
        ("no token", "there is no token to upload with: .*hf auth login.*HF_TOKEN"),
    ],
)
def test_what_goes_wrong_is_said_plainly(results, name, message):
    assert re.search(message, results[0][name]["error"])


def test_a_dry_run_shows_all_and_sends_nothing(results, merged):
    found, _, hub, _ = results
    said = found["dry run"]["said"]
    for name in plan_upload(merged, "me/nothing").files:
        assert re.search(rf"^ *[\d.]+ [KMG]?i?B  {re.escape(name)}$", said, re.MULTILINE)
    assert "# nothing" in said and f"in {len(plan_upload(merged, 'me/nothing').files)} files" in said
    assert "me/nothing" not in hub.repos and not [line for line in hub.requests if "me/nothing" in line]


def test_the_token_is_nowhere(results):
    found, printed, hub, home = results
    assert "refused; the request said Bearer (token)" in found["read only"]["error"]  # the server had shown it
    assert TOKEN not in printed and "w" * 30 not in printed
    for result in found.values():
        assert TOKEN not in json.dumps(result)
        assert "During handling" not in result.get("trace", "") and "direct cause" not in result.get("trace", "")
    files = [path for path in home.rglob("*") if path.is_file()]
    assert all(TOKEN.encode() not in path.read_bytes() for path in files)
    for repo in hub.repos.values():
        assert all(TOKEN.encode() not in data for data in repo.files.values())


@pytest.mark.parametrize("client", ["xet", "lfs"])
@pytest.mark.slow
def test_an_upload_that_stopped_goes_on_where_it_was(run, tmp_path, client):
    """Over xet all is there but the commit; over LFS, where each file is one upload, two files are there."""

    def refuse(method: str, path: str) -> int | None:
        stop = "/commit/" in path if client == "xet" else path.startswith("/lfs/") and len(hub.stored) >= 2
        return 403 if stop else None

    with Hub() as hub:
        hub.refuse = refuse
        asked = ("it", str(run), "me/adapter", TOKEN, {})
        first, _ = pushes(hub, tmp_path, asked, HF_HUB_DISABLE_XET="0" if client == "xet" else "1")
        assert "error" in first["it"] and not hub.repos["me/adapter"].files  # no half model is there
        arrived, sent = {*hub.stored, *hub.xorbs}, len(hub.uploads())
        assert arrived
        hub.refuse = lambda method, path: None
        second, _ = pushes(hub, tmp_path, asked, HF_HUB_DISABLE_XET="0" if client == "xet" else "1")
        assert second["it"]["said"].endswith("/me/adapter")
        assert not [line for line in hub.uploads()[sent:] if any(key in line for key in arrived)]
        assert hub.repos["me/adapter"].files.keys() == plan_upload(run, "me/adapter").files.keys()


@pytest.mark.parametrize(
    "repo", ["adapter", "me/ad apter", "me/a/b", "", "me/", "../x", "me/x.git", "https://hf.co/me/x"]
)
def test_a_name_that_is_none_is_refused(run, repo):
    with pytest.raises(HartError, match="should look like OWNER/NAME"):
        push(run, repo)
