"""The local engine: batched answers are those of one at a time and of `Runner`, and what is shared is read once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
from hart_lite.inference.conversation import Conversation, Spoken, cut_after
from pictures import Photo

from hart_lite.config.recipe import load_recipe
from hart_lite.config.sections import ModelSection
from hart_lite.errors import HartError
from hart_lite.eval.benchmarks.toy import BENCHMARK
from hart_lite.eval.questions import Question
from hart_lite.eval.settings import EvalSettings, setting_of
from hart_lite.inference.load import OpenModel
from hart_lite.inference.local_engine import LocalEngine
from hart_lite.inference.protocols.base import Outcome, ProtocolRun, Say
from hart_lite.inference.protocols.registry import PROTOCOLS
from hart_lite.inference.rollout import Runner
from hart_lite.models.attention import Branches
from hart_lite.models.generation import Sampling, generate
from hart_lite.models.loading import load_policy
from hart_lite.models.policy import Policy
from hart_lite.types import Box, ImageView, Tokens

TINY = load_recipe("tiny_cpu")
MODES = list(PROTOCOLS)


@pytest.fixture(scope="module")
def seeing() -> Policy:
    """The embedded base, which finds things and reads them."""
    return load_policy(ModelSection(dtype="float32", device="cpu"))


@pytest.fixture(scope="module")
def questions():
    return list(BENCHMARK.read("scenes=3"))


def runs(policy: Policy, examples, modes=MODES, **settings) -> list[ProtocolRun]:
    engine = LocalEngine(policy, 65_536, 8)
    model = OpenModel(engine, "qwen2_5_vl", {}, TINY.pixels, TINY.rollout)
    asked = EvalSettings({}, **{"max_tokens": 24} | settings)
    return [PROTOCOLS[m](e, setting_of(Question(BENCHMARK, e), m, asked, model)) for e in examples for m in modes]


def answers(policy: Policy, talks: Sequence[ProtocolRun], budget: int = 65_536) -> list[Conversation]:
    done = dict(LocalEngine(policy, budget, 8).answer(talks))
    return [done[n] for n in range(len(talks))]


@pytest.mark.parametrize("as_published", [False, True])
def test_all_at_once_is_one_at_a_time(seeing, questions, as_published):
    together = answers(seeing, runs(seeing, questions, as_published=as_published))
    alone = [answers(seeing, [run])[0] for run in runs(seeing, questions, as_published=as_published)]
    assert together == alone
    assert answers(seeing, runs(seeing, questions, as_published=as_published), budget=300) == alone
    assert len({talk.outcome.text for talk in together}) > 5
    assert any(talk.outcome.boxes for talk in together)


def test_ours_are_the_answers_of_the_runner(seeing, questions):
    rollout = TINY.rollout.model_copy(update={"max_tokens_locate": 24, "max_tokens_answer": 24})
    runner = Runner(seeing, TINY.pixels, rollout)
    ways = {"full": "direct", "crops": "hart", "full+crops": "full+crops"}
    for mode, way in ways.items():
        ours = answers(seeing, runs(seeing, questions, [mode]))
        theirs = runner.run(questions, way, 0, seed=0)
        assert [talk.outcome.text for talk in ours] == [trajectory.answer for trajectory in theirs]
        assert [talk.outcome.boxes for talk in ours] == [trajectory.boxes for trajectory in theirs]
        assert [talk.turns for talk in ours] == [
            tuple(Spoken(t.kind, t.text, len(t.prompt), len(t.response), len(t.prompt.slots)) for t in trajectory.turns)
            for trajectory in theirs
        ]


def test_what_prompts_share_is_read_once(seeing, questions, monkeypatch):
    """Every distinct beginning of a prompt is read once, every view is encoded once, and every prompt is asked once."""
    seeing.forget_images()
    calls, fed, encoded = [], [], []
    generate, feed, encode = Policy.generate, Branches.feed, Policy._encode

    def watched(self, prompts, sampling):
        calls.append(prompts)
        return generate(self, prompts, sampling)

    monkeypatch.setattr(Policy, "generate", watched)
    monkeypatch.setattr(Branches, "feed", lambda self, real: (fed.append(int(real.sum())), feed(self, real))[1])
    monkeypatch.setattr(Policy, "_encode", lambda self, views: (encoded.extend(views), encode(self, views))[1])
    on_one_image = [e for e in questions if e.images == questions[0].images]
    assert len(on_one_image) == 2
    talks = answers(seeing, runs(seeing, on_one_image))
    assert len(calls) == max(len(talk.turns) for talk in talks)
    # two questions in six modes, of which `crops` and `full+crops` look in the same words
    assert len(calls[0]) == 10
    assert len(encoded) == len(set(encoded))
    assert encoded[0] == calls[0][0].slots[0].view
    per_call = [len({key for prompt in prompts for key in distinct(prompt)}) for prompts in calls]
    assert sum(fed) == sum(per_call) < sum(len(prompt) for prompts in calls for prompt in prompts) * 0.7
    assert seeing._features == {}


def distinct(prompt: Tokens) -> list[tuple]:
    seen = {s.start + i: (s.view, i) for s in prompt.slots for i in range(s.length)}
    keys = tuple(seen.get(n, token) for n, token in enumerate(prompt.ids))
    return [keys[: n + 1] for n in range(len(keys))]


# -- conversations by hand -----------------------------------------------------------------------------------------


@dataclass
class Scripted:
    """A policy that answers a prompt with what `reply` makes of its text; None: what the real policy says."""

    real: Policy
    reply: Callable[[str], str]
    prompts: list[Tokens] = field(default_factory=list)
    samplings: list[Sampling] = field(default_factory=list)

    @property
    def family(self):
        return self.real.family

    def forget_images(self) -> None:
        self.real.forget_images()

    def generate(self, prompts: Sequence[Tokens], sampling: Sampling) -> list[tuple[int, ...]]:
        self.prompts += prompts
        self.samplings.append(sampling)
        return [self.family.response_ids(self.reply(self.family.tokenizer.decode(p.ids))) for p in prompts]


VIEW = ImageView(Photo(56, 56), (56, 56))


def conversation(*says: Say) -> ProtocolRun:
    heard = []
    for say in says:
        heard.append((yield say))
    return Outcome("|".join(heard))


def test_a_conversation_goes_on_from_what_stands_of_the_response(policy):
    family = policy.family
    for keep, stands in ((None, "it is red"), ("it is", "it is")):
        scripted = Scripted(policy, lambda text: "it is red")
        says = Say([VIEW, "What?"], "locate", system="Be brief."), Say(["And?"], fresh=False, keep=keep)
        [(_, talk)] = LocalEngine(scripted, 1000, 1).answer([conversation(*says)])
        first, second = scripted.prompts
        assert first == family.chat([VIEW, "What?"], system="Be brief.")
        assert second == first + Tokens(family.response_ids(stands)) + family.reply(["And?"], ended=True)
        assert talk.outcome.text == "it is red|it is red"
        said = len(family.response_ids("it is red"))
        assert talk.turns == (
            Spoken("locate", "it is red", len(first), said, 1),
            Spoken("answer", "it is red", len(second), said, 1),
        )


def test_a_tool_is_used_in_one_conversation(seeing, questions):
    """DeepEyes on a scene: looks twice, once in vain, and answers; each prompt begins with the one before."""
    call = '<tool_call>{{"name": "image_zoom_in_tool", "arguments": {{"bbox_2d": {}}}}}</tool_call>'
    said = [call.format([0, 0, 56, 56]), call.format("null"), "<answer>B</answer>"]
    scripted = Scripted(seeing, lambda text: said[len(scripted.prompts) - 1])
    [(_, talk)] = LocalEngine(scripted, 65_536, 1).answer(runs(seeing, questions[:1], ["deepeyes"], max_tokens=200))
    assert talk.outcome.text == "<answer>B</answer>"
    assert talk.outcome.counts == {"tool_calls": 2, "tool_errors": 1}
    one, two, three = scripted.prompts
    assert two.ids[: len(one)] == one.ids and three.ids[: len(two)] == two.ids
    assert [slot.view.box for slot in three.slots] == [None, Box(0, 0, 336, 336)]
    written = seeing.family.tokenizer.decode(three.ids)
    assert "</tool_call><|im_end|>\n<|im_start|>user\n<tool_response><|vision_start|>" in written
    assert "<|im_start|>user\nError: bbox_2d is None; [x1, y1, x2, y2] is needed<|im_end|>" in written
    assert [turn.kind for turn in talk.turns] == ["answer", "tool", "tool"]


def test_a_fresh_message_begins_anew(policy):
    scripted = Scripted(policy, lambda text: "yes")
    list(LocalEngine(scripted, 1000, 1).answer([conversation(Say(["One?"]), Say(["Two?"]))]))
    assert scripted.prompts[1] == policy.family.chat(["Two?"])


def test_a_response_is_cut_after_its_first_stop(policy):
    family, scripted = policy.family, Scripted(policy, lambda text: "look </call> there </end> done </call>")
    says = Say(["What?"], stop=("</end>", "</call>")), Say(["And?"], fresh=False)
    [(_, talk)] = LocalEngine(scripted, 1000, 1).answer([conversation(*says)])
    assert talk.turns[0].text == "look </call>"
    assert talk.turns[0].response_tokens == len(family.response_ids("look </call> there </end> done </call>"))
    stands = Tokens(family.response_ids("look </call>"))
    assert scripted.prompts[1] == scripted.prompts[0] + stands + family.reply(["And?"], ended=True)
    assert cut_after("abc", ()) == cut_after("abc", ("d",)) == "abc"


def test_limits_of_one_call_differ(policy):
    """The untrained model goes on until its limit; the same prompt is sampled once, as far as anyone wants it."""
    limits = (3, 7, 5, 7)
    says = [Say(["What?"], max_tokens=n) for n in limits] + [Say([VIEW, "Where?"], max_tokens=2)]
    scripted = Scripted(policy, str)
    scripted.generate = lambda prompts, sampling: (
        scripted.samplings.append(sampling) or generate(policy, prompts, sampling)
    )
    done = dict(LocalEngine(scripted, 10_000, 1).answer([conversation(say) for say in says]))
    [sampling] = scripted.samplings
    assert (sampling.max_tokens, sampling.limits, sampling.temperature) == (7, (2, 7), 0)
    lengths = [done[n].turns[0].response_tokens for n in range(5)]
    assert lengths == [3, 7, 5, 7, 2]
    alone = [generate(policy, [policy.family.chat(s.content)], Sampling(s.max_tokens, temperature=0))[0] for s in says]
    assert [done[n].outcome.text for n in range(5)] == [policy.family.text(ids) for ids in alone]


def test_long_responses_do_not_make_room_for_themselves_in_every_row(policy):
    scripted = Scripted(policy, lambda text: "yes")
    says = [Say([f"What {n}?"], max_tokens=(900, 10)[n % 2]) for n in range(6)]
    list(LocalEngine(scripted, 1000, 1).answer([conversation(say) for say in says]))
    assert [sampling.limits for sampling in scripted.samplings] == [(10, 10, 10), (900,), (900,), (900,)]


def test_an_image_that_breaks_ends_the_evaluation_with_its_name(policy, tmp_path):
    @dataclass(frozen=True)
    class Broken(Photo):
        def load(self):
            raise HartError("photo 7: damaged image")

    say = Say([ImageView(Broken(56, 56), (56, 56)), "What?"])
    with pytest.raises(HartError, match="photo 7: damaged image"):
        list(LocalEngine(policy, 1000, 1).answer([conversation(say)]))
    assert policy._features == {}


@pytest.mark.parametrize("system", ["Be brief.\n\n# Tools", "<|im_end|> <tools>{}</tools>"])
def test_system_words_stand_where_the_template_puts_them(policy, system):
    family = policy.family
    plain = system.replace("<|", "< |")
    messages = [
        {"role": "system", "content": plain},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]},
    ]
    rendered = family.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    tokens = family.chat([VIEW, "What?"], system=system)
    assert family.tokenizer.decode(tokens.ids) == rendered.replace("<|image_pad|>", "<|image_pad|>" * 4)
    assert "You are a helpful assistant." in family.tokenizer.decode(family.chat(["What?"]).ids)
