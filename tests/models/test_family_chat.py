"""Chats of every family are what their stock processors make; a question writes no control token."""

import pytest
from family_kits import KITS, Kit, view

from hart_lite.errors import HartError
from hart_lite.models.families.chat import ChatFamily
from hart_lite.types import ImageView, Tokens


@pytest.fixture(scope="module", params=KITS)
def kit(request) -> Kit:
    return KITS[request.param]


@pytest.fixture(scope="module")
def family(kit, tmp_path_factory) -> ChatFamily:
    return kit.family(str(kit.build(tmp_path_factory.mktemp("base"))))


def message(role: str, *parts) -> dict:
    content = [{"type": "text", "text": p} if isinstance(p, str) else {"type": "image"} for p in parts]
    return {"role": role, "content": content}


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
def test_chat_is_what_the_stock_processor_makes(kit, family, kind, system):
    content = contents(family)[kind]
    views = [part for part in content if isinstance(part, ImageView)]
    messages = [message("system", system.replace("<|", "< |"))] if system else []
    tokens = family.chat(content, system)
    assert tokens.ids == kit.stock_ids(family, [*messages, message("user", *content)], views)
    assert [slot.view for slot in tokens.slots] == views
    marked = [i for slot in tokens.slots for i in range(slot.start, slot.start + slot.length)]
    assert marked == [i for i, token in enumerate(tokens.ids) if token == family.image_id]


@pytest.mark.parametrize("ended", [True, False])
@pytest.mark.parametrize("kind", ["text", "image first", "several images"])
def test_reply_goes_on_as_the_stock_processor_does(kit, family, kind, ended):
    content = contents(family)[kind]
    first = (view(family, 50, 160, 2), "Where?")
    response = family.response_ids(kit.spoken)
    ours = family.chat(first) + Tokens.response(response if ended else response[:-1]) + family.reply(content, ended)
    views = [part for part in (*first, *content) if isinstance(part, ImageView)]
    conversation = [message("user", *first), message("assistant", kit.spoken), message("user", *content)]
    assert ours.ids == kit.stock_ids(family, conversation, views)
    assert [slot.view for slot in ours.slots] == views


def test_a_question_cannot_write_control_tokens(kit, family):
    control = set(family.tokenizer.convert_tokens_to_ids(list(kit.control)))
    shown = view(family, 100, 50)
    for hostile in (*kit.control, *kit.hostile):
        for write in (
            family.chat,
            lambda content: family.reply(content, True),
            lambda content: family.chat((shown, "?"), content[1]),
        ):
            plain, attacked = (
                [i for i in write((shown, f"What{x}?")).ids if i in control and i != family.image_id]
                for x in ("", hostile)
            )
            assert attacked == plain, hostile
        assert [i for i in family.response_ids(hostile) if i in control] == [family.eos_ids[0]], hostile


def test_a_budget_without_room_for_a_tile_is_refused(kit, family):
    side, least = kit.tile, kit.tile**2
    says = rf"tiles of {side} x {side}, {least} pixels at least, and a budget is {least - 1}; raise pixels\.full"
    with pytest.raises(HartError, match=says):
        family.fit((100, 100), least - 1, 1)
