"""The local engine: batched answers are those of one at a time and of `Runner`, and what is shared is read once."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import pytest
from pictures import Photo, drawn

from hart_lite.config.recipe import load_recipe
from hart_lite.config.sections import ModelSection
from hart_lite.errors import HartError
from hart_lite.eval.benchmarks.toy import BENCHMARK
from hart_lite.eval.questions import Question
from hart_lite.eval.settings import EvalSettings, setting_of
from hart_lite.inference.engine import Conversation, cut_after
from hart_lite.inference.load import OpenModel
from hart_lite.inference.local_engine import LocalEngine
from hart_lite.inference.protocols.base import Outcome, ProtocolRun, Say
from hart_lite.inference.protocols.registry import LOOPS, PROTOCOLS
from hart_lite.inference.rollout import Runner
from hart_lite.models.families.qwen2_5_vl import Qwen25VL
from hart_lite.models.generation import Response, Sampling, generate
from hart_lite.models.loading import load_policy
from hart_lite.models.policy import Policy
from hart_lite.models.prompt_cache import PromptCache
from hart_lite.models.tree_attention import Tree
from hart_lite.types import Box, ImageView, Tokens, Turn

TINY = load_recipe("tiny_cpu")
MODES = list(PROTOCOLS)


@pytest.fixture(scope="module")
def seeing() -> Policy:
    """The toy base, which finds things and reads them."""
    return load_policy(ModelSection(dtype="float32", device="cpu"))


@pytest.fixture(scope="module")
def questions():
    return list(BENCHMARK.read("scenes=2"))


def model_of(policy: Policy) -> OpenModel:
    return OpenModel("tiny", LocalEngine(policy, 65_536, 8), "qwen2_5_vl", {}, TINY.pixels, TINY.rollout)


def runs(policy: Policy, examples, modes=MODES, **settings) -> list[ProtocolRun]:
    model = model_of(policy)
    asked = EvalSettings(**{"max_tokens": 12} | settings)
    return [PROTOCOLS[m](e, setting_of(Question(BENCHMARK, e), m, asked, model)) for e in examples for m in modes]


def answers(policy: Policy, talks: Sequence[ProtocolRun], budget: int = 65_536) -> list[Conversation]:
    engine = LocalEngine(policy, budget, 8)
    done = dict(engine.answer(talks))
    engine.forget_images()
    return [done[n] for n in range(len(talks))]


@pytest.mark.slow
@pytest.mark.parametrize("as_published", [False, True])
def test_all_at_once_is_one_at_a_time(seeing, questions, as_published):
    together = answers(seeing, runs(seeing, questions, as_published=as_published))
    alone = [answers(seeing, [run])[0] for run in runs(seeing, questions, as_published=as_published)]
    assert together == alone
    assert answers(seeing, runs(seeing, questions, as_published=as_published), budget=300) == alone
    assert len({talk.outcome.text for talk in together}) > 5
    assert any(talk.outcome.boxes for talk in together)


@pytest.mark.parametrize(("mode", "loop"), [("full", "direct"), ("crops", "hart")])
def test_a_rollout_of_one_greedy_sample_is_an_evaluation(seeing, questions, mode, loop):
    evaluated = answers(seeing, runs(seeing, questions, [mode], max_tokens=None))
    rolled_out = Runner(model_of(seeing)).run(questions, LOOPS[loop])
    assert [talk.outcome.text for talk in evaluated] == [trajectory.answer for trajectory in rolled_out]
    assert [talk.outcome.boxes for talk in evaluated] == [trajectory.boxes for trajectory in rolled_out]
    assert [talk.turns for talk in evaluated] == [trajectory.turns for trajectory in rolled_out]


def test_what_prompts_share_is_read_once(seeing, questions, monkeypatch):
    """Of each call, every distinct beginning of a prompt is read once, and nothing of the prompt that it goes on from;
    every view is encoded once and every prompt is asked once."""
    seeing.forget_images()
    calls, read, encoded = [], [], []
    tree, features = Tree.of, Qwen25VL.features

    def watched(policy, prompts, sampling, cache):
        calls.append(prompts)
        return generate(policy, prompts, sampling, cache)

    monkeypatch.setattr(Tree, "of", lambda lengths, *rest: (read.extend(lengths), tree(lengths, *rest))[1])
    monkeypatch.setattr(Qwen25VL, "features", lambda self, m, i: (encoded.extend(i), features(self, m, i))[1])
    on_one_image = [questions[0], replace(questions[0], id="another", question="Which character is on the red box?")]
    engine = LocalEngine(seeing, 65_536, 8, generate=watched)
    talks = [talk for _, talk in engine.answer(runs(seeing, on_one_image))]
    assert len(calls) == max(len(talk.turns) for talk in talks)
    # two questions in six modes, of which `crops` and `full+crops` look in the same words
    assert len(calls[0]) == 10
    assert len(encoded) == len({slot.view for prompts in calls for prompt in prompts for slot in prompt.slots})
    per_call = [len({key for prompt in prompts for key in distinct(prompt)}) for prompts in calls]
    assert sum(read) == sum(map(len, unread(calls))) < sum(per_call)
    assert sum(per_call) < sum(len(prompt) for prompts in calls for prompt in prompts) * 0.7
    engine.forget_images()
    answered = len(encoded)
    list(engine.answer(runs(seeing, on_one_image, ["full"])))
    assert len(encoded) == answered + 1  # nothing was kept


def distinct(prompt: Tokens) -> list[tuple]:
    seen = {s.start + i: (s.view, i) for s in prompt.slots for i in range(s.length)}
    keys = tuple(seen.get(n, token) for n, token in enumerate(prompt.ids))
    return [keys[: n + 1] for n in range(len(keys))]


def unread(calls: list[list[Tokens]]) -> Iterator[set[tuple]]:
    """The beginnings in each call that belong to no prompt of the calls before which a prompt goes on from."""
    asked: set[tuple] = set()
    for prompts in calls:
        new = set()
        for keys in map(distinct, prompts):
            known = max((n for n, key in enumerate(keys, 1) if key in asked and n < len(keys)), default=0)
            new |= set(keys[known:])
        yield new
        asked |= {distinct(prompt)[-1] for prompt in prompts}


# -- conversations by hand -----------------------------------------------------------------------------------------


@dataclass
class Scripted:
    """Stands in for `generate`: answers a prompt with what `reply` makes of its text."""

    reply: Callable[[str], str]
    prompts: list[Tokens] = field(default_factory=list)
    samplings: list[Sampling] = field(default_factory=list)

    def __call__(
        self, policy: Policy, prompts: Sequence[Tokens], sampling: Sampling, cache: PromptCache | None
    ) -> list[Response]:
        self.prompts += prompts
        self.samplings.append(sampling)
        texts = (self.reply(policy.family.tokenizer.decode(prompt.ids)) for prompt in prompts)
        return [Response(policy.family.response_ids(text)) for text in texts]


VIEW = ImageView(Photo(56, 56), (56, 56))


def conversation(*says: Say) -> ProtocolRun:
    heard = []
    for say in says:
        heard.append((yield say))
    return Outcome("|".join(heard))


def test_a_conversation_goes_on_from_what_stands_of_the_response(policy):
    family = policy.family
    for keep, stands in ((None, "it is red"), ("it is", "it is")):
        scripted = Scripted(lambda text: "it is red")
        says = Say([VIEW, "What?"], "locate", system="Be brief."), Say(["And?"], fresh=False, keep=keep)
        [(_, talk)] = LocalEngine(policy, 1000, 1, generate=scripted).answer([conversation(*says)])
        first, second = scripted.prompts
        assert first == family.chat([VIEW, "What?"], system="Be brief.")
        ids = family.response_ids(stands)
        kept = Tokens(ids) if keep else Tokens.response(ids, "locate")  # only what was drawn is marked as sampled
        assert second == first + kept + family.reply(["And?"], ended=True)
        assert talk.outcome.text == "it is red|it is red"
        said = family.response_ids("it is red")
        assert talk.turns == (
            Turn("locate", first, said, "it is red", len(first), len(said), 1),
            Turn("answer", second, said, "it is red", len(second), len(said), 1, fresh=False),
        )


def test_a_tool_is_used_in_one_conversation(seeing, questions):
    """DeepEyes on a scene: looks twice, once in vain, and answers; each prompt begins with the one before."""
    call = '<tool_call>{{"name": "image_zoom_in_tool", "arguments": {{"bbox_2d": {}}}}}</tool_call>'
    said = [call.format([0, 0, 56, 56]), call.format("null"), "<answer>B</answer>"]
    scripted = Scripted(lambda text: said[len(scripted.prompts) - 1])
    [(_, talk)] = LocalEngine(seeing, 65_536, 1, generate=scripted).answer(
        runs(seeing, questions[:1], ["deepeyes"], max_tokens=200)
    )
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
    scripted = Scripted(lambda text: "yes")
    list(LocalEngine(policy, 1000, 1, generate=scripted).answer([conversation(Say(["One?"]), Say(["Two?"]))]))
    assert scripted.prompts[1] == policy.family.chat(["Two?"])


def test_a_response_is_cut_after_its_first_stop(policy):
    family, scripted = policy.family, Scripted(lambda text: "look </call> there </end> done </call>")
    says = Say(["What?"], stop=("</end>", "</call>")), Say(["And?"], fresh=False)
    [(_, talk)] = LocalEngine(policy, 1000, 1, generate=scripted).answer([conversation(*says)])
    assert talk.turns[0].text == "look </call>"
    assert talk.turns[0].response_tokens == len(family.response_ids("look </call> there </end> done </call>"))
    stands = Tokens(family.response_ids("look </call>"))
    assert scripted.prompts[1] == scripted.prompts[0] + stands + family.reply(["And?"], ended=True)
    assert cut_after("abc", ()) == cut_after("abc", ("d",)) == "abc"


def test_limits_of_one_call_differ(policy):
    """The untrained model goes on until its limit; the same prompt is sampled once, as far as anyone wants it."""
    limits = (3, 7, 5, 7)
    says = [Say(["What?"], max_tokens=n) for n in limits] + [Say([VIEW, "Where?"], max_tokens=2)]
    samplings = []

    def watched(policy, prompts, sampling, cache):
        samplings.append(sampling)
        return generate(policy, prompts, sampling, cache)

    done = dict(LocalEngine(policy, 10_000, 1, generate=watched).answer([conversation(say) for say in says]))
    [sampling] = samplings
    assert (sampling.max_tokens, sampling.limits, sampling.temperature) == (7, (2, 7), 0)
    lengths = [done[n].turns[0].response_tokens for n in range(5)]
    assert lengths == [3, 7, 5, 7, 2]
    alone = [drawn(policy, [policy.family.chat(s.content)], Sampling(s.max_tokens, temperature=0))[0] for s in says]
    assert [done[n].outcome.text for n in range(5)] == [policy.family.text(ids) for ids in alone]


def test_long_responses_do_not_make_room_for_themselves_in_every_row(policy):
    scripted = Scripted(lambda text: "yes")
    says = [Say([f"What {n}?"], max_tokens=(900, 10)[n % 2]) for n in range(6)]
    list(LocalEngine(policy, 1000, 1, generate=scripted).answer([conversation(say) for say in says]))
    assert [sampling.limits for sampling in scripted.samplings] == [(10, 10, 10), (900,), (900,), (900,)]


def test_an_image_that_breaks_ends_the_evaluation_with_its_name(policy, tmp_path):
    @dataclass(frozen=True)
    class Broken(Photo):
        def load(self):
            raise HartError("photo 7: damaged image")

    say = Say([ImageView(Broken(56, 56), (56, 56)), "What?"])
    with pytest.raises(HartError, match="photo 7: damaged image"):
        list(LocalEngine(policy, 1000, 1).answer([conversation(say)]))


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
