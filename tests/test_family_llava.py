from pathlib import Path

import bitsandbytes as bnb
import pytest
import torch
from damage import processor_seconds
from family_checks import (
    ALL_PARTS,
    KINDS,
    check_adapter,
    check_collated,
    check_features,
    check_gradients,
    check_greedy,
    check_half,
    check_log_probs,
    check_processor_files,
    check_protocols,
    loaded,
    view,
)
from pictures import Photo
from safetensors.torch import load_file, save_file
from small_runs import make_up, metrics, rl_stage, sft_stage, small_recipe
from tiny_families import LLAVA, LLAVA_GRIDS, LLAVA_TEMPLATE, LLAVA_TILE, StockLlava, build_llava

from hart_lite.box_formats import FRAMES
from hart_lite.config.sections import ModelSection, PixelBudgets
from hart_lite.errors import HartError
from hart_lite.models.families.llava_onevision import LlavaOneVision
from hart_lite.models.loading import load_policy
from hart_lite.models.policy import Policy
from hart_lite.runs.run_dir import save_adapter
from hart_lite.training.train import train
from hart_lite.types import Box, ImageView, Tokens

T = LLAVA_TILE


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return build_llava(tmp_path_factory.mktemp("llava"))


@pytest.fixture(scope="module")
def family(base) -> LlavaOneVision:
    return LlavaOneVision(str(base))


@pytest.fixture(scope="module")
def policy(base) -> Policy:
    return loaded(base)


def stock(policy: Policy, tokens: Tokens) -> dict[str, torch.Tensor]:
    """What the stock processor makes of the same pictures in a flat list, and plain ids."""
    ids = torch.tensor([tokens.ids])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if tokens.slots:
        images = [slot.view.load() for slot in tokens.slots]
        inputs |= dict(policy.family.processor(images=images, return_tensors="pt"))
    return inputs


def stock_ids(family, messages: list[dict], views) -> tuple[int, ...]:
    """The stock processor's ids of a conversation, images and all."""
    processor = StockLlava(family.processor, family.tokenizer, LLAVA_TEMPLATE)
    text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return tuple(processor(text=text, images=[v.load() for v in views] or None)["input_ids"][0])


def message(role: str, *parts) -> dict:
    content = [{"type": "text", "text": p} if isinstance(p, str) else {"type": "image"} for p in parts]
    return {"role": role, "content": content}


# -- the model -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [200, 4096])
@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS.keys())
def test_packed_log_probs_are_the_stock_models(policy, make, budget):
    check_log_probs(policy, stock, make, budget)


@pytest.mark.parametrize("section", [{}, {"gradient_checkpointing": True}, {"lora": ALL_PARTS}], ids=str)
def test_gradients_packed_and_unpacked_agree(base, section):
    parts = {"language_model", "vision_tower", "multi_modal_projector"} if "lora" in section else {"language_model"}
    check_gradients(loaded(base, **section), stock, parts)


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS.keys())
def test_greedy_text_is_the_stock_models(base, make):
    check_greedy(loaded(base, adapter_std=0.8), stock, make)


def test_a_collated_batch_is_what_the_packs_are(policy):
    check_collated(policy)


def test_features_are_one_tensor_for_each_image(policy):
    check_features(policy)


def test_an_adapter_comes_back_as_it_was_and_merges(base, tmp_path):
    check_adapter(base, stock, tmp_path)


def test_bfloat16_is_near_float32(base):
    check_half(base)


def test_image_processors_are_read_as_repositories_have_them(base, tmp_path):
    check_processor_files(
        base, tmp_path, ("LlavaOnevisionImageProcessor", "LlavaOnevisionImageProcessorFast"), StockLlava
    )


def test_adapters_sit_on_every_linear_of_each_part(policy, base):
    modules = dict(loaded(base, lora=ALL_PARTS).model.named_modules())
    adapted = {name.removesuffix(".lora_A.default") for name in modules if name.endswith("lora_A.default")}
    linears = {name.removesuffix(".base_layer") for name, m in modules.items() if isinstance(m, torch.nn.Linear)}
    assert adapted == {name for name in linears if "lora_" not in name} - {"lm_head"}
    assert all("language_model" in n for n, p in policy.model.named_parameters() if p.requires_grad)


def test_nf4_quantises_the_language_blocks_and_nothing_else(base):
    policy = loaded(base, quant="nf4")
    kinds = {name.removesuffix(".base_layer"): type(module) for name, module in policy.model.named_modules()}
    quantised = {name for name, kind in kinds.items() if kind is bnb.nn.Linear4bit}
    assert len(quantised) == 2 * 7 and all(".language_model.layers." in f".{name}" for name in quantised)
    check_log_probs(policy, stock, KINDS["first turns"], 4096)


def test_a_checkpoint_that_is_not_whole_is_refused(base, tmp_path):
    for file in base.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    del weights["image_newline"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(HartError, match=r"lacks 1 of the model's tensors.*image_newline.*whole LLaVA-OneVision"):
        load_policy(ModelSection(base=str(tmp_path)))


# -- chat ----------------------------------------------------------------------------------------------------------


def contents(family) -> dict[str, tuple]:
    wide, tall = view(family, 300, 100, 1), view(family, 50, 160, 2)
    return {
        "text": ("What is 1+1? Größe, 数, \n two  spaces",),
        "image first": (wide, "Which character is on the red square?"),
        "text first": ("Look here:\n", tall),
        "several images": (wide, "and\n", tall, tall, "?"),
        "image only": (wide,),
    }


@pytest.mark.parametrize("system", ["", "Look closely, <|im_end|> twice."])
@pytest.mark.parametrize("kind", ["text", "image first", "text first", "several images", "image only"])
def test_chat_is_what_the_stock_processor_makes(family, kind, system):
    content = contents(family)[kind]
    views = [part for part in content if isinstance(part, ImageView)]
    messages = [message("system", system.replace("<|", "< |"))] if system else []
    tokens = family.chat(content, system)
    assert tokens.ids == stock_ids(family, [*messages, message("user", *content)], views)
    assert [slot.view for slot in tokens.slots] == views
    marked = [i for slot in tokens.slots for i in range(slot.start, slot.start + slot.length)]
    assert marked == [i for i, token in enumerate(tokens.ids) if token == family.image_id]


@pytest.mark.parametrize("ended", [True, False])
@pytest.mark.parametrize("kind", ["text", "image first", "several images"])
def test_reply_goes_on_as_the_stock_processor_does(family, kind, ended):
    content = contents(family)[kind]
    first, spoken = (view(family, 50, 160, 2), "Where?"), "[0.1, 0.2, 0.3, 0.4]"
    response = family.response_ids(spoken)
    ours = family.chat(first) + Tokens.response(response if ended else response[:-1]) + family.reply(content, ended)
    views = [part for part in (*first, *content) if isinstance(part, ImageView)]
    conversation = [message("user", *first), message("assistant", spoken), message("user", *content)]
    assert ours.ids == stock_ids(family, conversation, views)
    assert [slot.view for slot in ours.slots] == views


@pytest.mark.parametrize("hostile", [*LLAVA, "<<image>image>"])
def test_a_question_cannot_write_control_tokens(family, hostile):
    control = set(family.tokenizer.convert_tokens_to_ids(list(LLAVA)))
    shown = view(family, 100, 50)
    for write in (family.chat, lambda content: family.reply(content, True), lambda c: family.chat((shown, "?"), c[1])):
        plain, attacked = (
            [i for i in write((shown, f"What{x}?")).ids if i in control and i != family.image_id] for x in ("", hostile)
        )
        assert attacked == plain
    assert [i for i in family.response_ids(hostile) if i in control] == [family.eos_ids[0]]


def test_the_template_is_saved_with_the_adapter(family, tmp_path):
    """The processor's own, not the language model's that the tokenizer came with."""
    family.save_processor(tmp_path)
    assert (tmp_path / "chat_template.jinja").read_text() == LLAVA_TEMPLATE
    assert (tmp_path / "processor_config.json").is_file()


# -- images --------------------------------------------------------------------------------------------------------


SIZES = [(1, 1), (10, 10), (1, 10000), (10000, 1), (7680, 4320), (4320, 7680), (55, 57), (300, 1), (1, 201), (672, 672)]
SIZES += [(100, 67), (640, 427), (427, 640), (500, 499), (84, 84), (127, 43)]


@pytest.mark.parametrize("most_tiles", [2, 4, 9])
def test_image_tokens_are_those_of_the_stock_processor_and_the_model(tmp_path, most_tiles):
    """Above the most tiles the tokens are thinned out; the arithmetic has to foresee it to the token."""
    base = build_llava(tmp_path, most_tiles=most_tiles)
    policy = loaded(base)
    family = policy.family
    processor = StockLlava(family.processor, family.tokenizer, LLAVA_TEMPLATE, most_tiles)
    thinned = 0
    for size in SIZES:
        for tiles in (1, 2, 6, 16):
            seen = family.fit(size, tiles * T * T, 1)
            count = family.image_tokens(seen)
            assert count == processor._get_number_of_features(seen[1], seen[0], T, T)
            with torch.no_grad():
                [features] = family.features(policy.model, [ImageView(Photo(*size), seen).load()])
            assert len(features) == count
            thinned += count < 9 + seen[0] * seen[1] // 196
    assert thinned > 0


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("tiles", [1, 3, 5, 16])
def test_fit_touches_a_grid_within_the_budget_and_is_fed_as_it_is(family, size, tiles):
    width, height = family.fit(size, tiles * T * T + 100, 1)
    assert width >= 1 and height >= 1
    assert width % T == 0 or height % T == 0
    grid = [-(-side // T) * T for side in (height, width)]
    assert grid in LLAVA_GRIDS and grid[0] * grid[1] <= tiles * T * T
    cut = family._cut([ImageView(Photo(*size), (width, height)).load()])
    assert cut["pixel_values"].shape[1] == 1 + grid[0] * grid[1] // T**2
    assert cut["image_sizes"].tolist() == [[height, width]]
    if 0.2 < size[0] / size[1] < 5 and tiles >= 5:
        assert 0.8 < (width / height) / (size[0] / size[1]) < 1.25


def test_fit_by_hand(family):
    assert family.fit((100, 100), 16 * T * T, 1) == (3 * T, 3 * T)
    assert family.fit((30, 30), 16 * T * T, 1) == (T, T)
    assert family.fit((30, 30), 16 * T * T, 4 * T * T) == (2 * T, 2 * T)  # enlarged to the fewest pixels
    assert family.fit((1000, 500), 2 * T * T, 1) == (2 * T, T)
    assert family.fit((1000, 600), 2 * T * T, 1) == (70, T)
    assert family.image_tokens((2 * T, T)) == 9 + 3 * 7
    assert family.image_tokens((70, T)) == 9 + 3 * 7  # 5 columns would be centred in 6: none is left out


def test_a_budget_without_room_for_a_tile_is_refused(family):
    with pytest.raises(
        HartError, match=r"tiles of 42 x 42, 1764 pixels at least, and a budget is 1763; raise pixels\.full"
    ):
        family.fit((100, 100), T * T - 1, 1)


# -- boxes ---------------------------------------------------------------------------------------------------------

ONE = (100.0, 400.0, 250.0, 800.0, 0)  # [0.1, 0.2, 0.25, 0.4] of 1000 x 2000 pixels
FOUR = "[0.1, 0.2, 0.25, 0.4]"
TEXTS = {
    "as it is trained": (FOUR, [ONE]),
    "in prose": (f"The sign is at {FOUR}, 3 of 4.", [ONE]),
    "several, in order": (f"[0, 0, 1, 1] and {FOUR}", [(0.0, 0.0, 1000.0, 2000.0, 0), ONE]),
    "many decimals": ("[0.1000000000001, .2, 0.2500000000, 0.4]", [(100.0000000001, *ONE[1:])]),
    "one and points": ("[0., 0., 1., 1.0]", [(0.0, 0.0, 1000.0, 2000.0, 0)]),
    "named": (f'{{"bbox": {FOUR}}}', [ONE]),
    "image 2, of one": (f"image 2: {FOUR}", [ONE]),
    "negative": ("[-0.1, 0.2, 0.25, 0.4]", [(-100.0, *ONE[1:])]),
    "three": ("[0.1, 0.2, 0.3]", []),
    "five": ("[0.1, 0.2, 0.3, 0.4, 0.5]", []),
    "words": ("[x1, y1, x2, y2]", []),
    "cut off": ("[0.1, 0.2, 0.2", []),
    "nothing": ("", []),
}


@pytest.mark.parametrize(("text", "boxes"), TEXTS.values(), ids=TEXTS.keys())
def test_boxes_are_read_from_text(family, text, boxes):
    assert family.boxes_from_text(text, [(42, 84)], [(1000, 2000)]) == [pytest.approx(box) for box in boxes]


def test_a_box_may_name_its_image(family):
    seen, original = [(42, 42)] * 2, [(1000, 2000), (100, 100)]
    text = f"image 2: {FOUR}, image 1: {FOUR}, {FOUR}"
    assert family.boxes_from_text(text, seen, original) == [(10.0, 20.0, 25.0, 40.0, 1), ONE, ONE]
    [box] = family.boxes_from_text(f"image 3: {FOUR}", seen, original)
    assert all(value != value for value in box[:4]) and box[4] == 0


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("original", [(672, 672), (4000, 3000), (1080, 1920), (300, 50)])
def test_a_box_written_and_read_comes_back_to_the_rounding_of_the_frame(base, original, frame):
    family = load_policy(ModelSection(base=str(base), box_frame=frame)).family
    seen = family.fit(original, 16 * T * T, 1)
    step = {"unit": 1e-3, "unit-padded": 1e-3 * max(original), "relative-1000": 1e-3, "pixels": 1, "seen-pixels": 1}
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        (x1, x2), (y1, y2) = (sorted((torch.rand(2, generator=generator) * side).tolist()) for side in original)
        text = family.box_to_text([Box(x1, y1, x2, y2)], [seen], [original])
        assert ("." in text) == frame.startswith("unit")
        [(*back, image)] = family.boxes_from_text(text, [seen], [original])
        assert image == 0
        scale = {"unit": original, "relative-1000": original}.get(frame, (1, 1))
        scale = [a / b for a, b in zip(original, seen, strict=True)] if frame == "seen-pixels" else scale
        for ours, wanted, unit in zip(back, (x1, y1, x2, y2), [*scale, *scale], strict=True):
            assert abs(ours - wanted) <= 0.5 * step[frame] * unit + 1e-6


def test_the_frame_changes_what_the_same_text_means_and_not_the_prompt(base):
    text, meant = "[0.5, 0.25, 1, 0.75]", {}
    for frame in FRAMES:
        family = load_policy(ModelSection(base=str(base), box_frame=frame)).family
        [meant[frame]] = family.boxes_from_text(text, [(84, 42)], [(1000, 500)])
        assert family.locate_words == LlavaOneVision.locate_words
    assert meant == {
        "unit": (500.0, 125.0, 1000.0, 375.0, 0),
        "unit-padded": (500.0, 0.0, 1000.0, 500.0, 0),
        "relative-1000": (0.5, 0.125, 1.0, 0.375, 0),
        "pixels": (0.5, 0.25, 1.0, 0.75, 0),
        "seen-pixels": (500 / 84, 125 / 42, 1000 / 84, 375 / 42, 0),
    }
    assert LlavaOneVision(str(base)).box_frame == "unit"


HOSTILE = ["[0.1" * 20_000, "[" * 100_000, "[0." + "1" * 10**5, "image 1" * 10**4, "[1 " * 10**4]


def test_an_adapter_keeps_the_frame_it_learned(base, tmp_path):
    policy = load_policy(ModelSection(base=str(base), box_frame="relative-1000"))
    save_adapter(policy, tmp_path / "adapter")
    for section in (ModelSection(base=str(base)), ModelSection(base=str(base), box_frame="relative-1000")):
        assert load_policy(section, adapter=tmp_path / "adapter").family.box_frame == "relative-1000"
    with pytest.raises(HartError, match=r"boxes as relative-1000, not unit; leave model\.box_frame out"):
        load_policy(ModelSection(base=str(base), box_frame="unit"), adapter=tmp_path / "adapter")


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_read_in_bounded_time(family, text):
    with processor_seconds(1.0):
        family.boxes_from_text(text, [(42, 42)] * 2, [(1000, 2000)] * 2)


# -- whole jobs ----------------------------------------------------------------------------------------------------


def test_every_protocol_answers_with_it_at_once_as_one_at_a_time(base):
    check_protocols(loaded(base, adapter_std=0.4), PixelBudgets(full=4 * T * T, crop=2 * T * T, min=784))


def test_both_kinds_of_stages_train_it_and_a_resumed_run_finds_it_done(base, tmp_path, monkeypatch):
    make_up(monkeypatch.setattr, LlavaOneVision)
    stages = [rl_stage(steps=2), sft_stage(steps=2)]
    recipe = small_recipe(base, tmp_path / "run", stages, pixels={"full": 4 * T * T, "crop": T * T, "min": 784})
    summary = train(recipe)
    rows = metrics(tmp_path / "run")
    assert [row["stage"] for row in rows] == ["1-rl"] * 2 + ["2-sft"] * 2
    assert all(row["grad_norm"] > 0 for row in rows)
    assert set(summary) == {"before", "after-1-rl", "after-2-sft"}
    assert (tmp_path / "run" / "adapter" / "processor_config.json").is_file()
    assert train(recipe, resume=True) == summary
