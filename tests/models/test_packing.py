import pytest
import torch
from pictures import photo_view

from hart_lite.errors import HartError
from hart_lite.models.packing import Node, pack, trie
from hart_lite.perf.card.tree import mask_of
from hart_lite.types import Slot, Tokens


def positions(tokens: Tokens) -> torch.Tensor:
    return torch.arange(len(tokens)).expand(1, -1)


def sequence(prompt: tuple[int, ...], response: tuple[int, ...] = ()) -> Tokens:
    return Tokens(prompt) + Tokens.response(response)


def image(view, length: int = 2) -> Tokens:
    return Tokens((99,) * length, (Slot(0, length, view),))


def outline(node: Node) -> tuple:
    """(sequence, start, stop) or (sequence, start, stop, [children])."""
    head = (node.sequence, node.start, node.stop)
    assert node.leaf == (not node.children)
    return head if node.leaf else (*head, [outline(child) for child in node.children])


def test_two_samples_of_one_prompt_by_hand():
    """1 2 3 4 -> 5 6     shared: 1 2 3; each leaf begins with 4, which predicts its first sampled token
    1 2 3 4 -> 7          row: 1 2 3 | 4 5 6 | 4 7
    """
    sequences = [sequence((1, 2, 3, 4), (5, 6)), sequence((1, 2, 3, 4), (7,))]
    assert [outline(root) for root in trie(sequences)] == [(0, 0, 3, [(0, 3, 6), (1, 3, 5)])]
    [row] = pack(sequences, positions, 100)
    assert row.ids_T.tolist() == [1, 2, 3, 4, 5, 6, 4, 7]
    assert row.positions_R_T.tolist() == [[0, 1, 2, 3, 4, 5, 3, 4]]
    assert (row.runs, row.parents) == ((3, 3, 2), (-1, 0, 0))
    assert mask_of(row).int().tolist() == [
        [1, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 1, 1, 0, 0],
        [1, 1, 1, 0, 0, 0, 1, 0],
        [1, 1, 1, 0, 0, 0, 1, 1],
    ]
    assert row.predict_N.tolist() == [3, 4, 6]
    assert row.targets_N.tolist() == [5, 6, 7]
    assert row.owners_N.tolist() == [0, 0, 1]
    assert row.offsets_N.tolist() == [0, 1, 0]


def test_two_levels_of_sharing_by_hand():
    """1 2 3 -> 5         root 1; below it 2, shared by the first two; the third goes its own way at once
    1 2 3 -> 6            row: 1 | 2 | 3 5 | 3 6 | 4 8 7
    1 4 8 -> 7
    """
    sequences = [sequence((1, 2, 3), (5,)), sequence((1, 2, 3), (6,)), sequence((1, 4, 8), (7,))]
    assert [outline(root) for root in trie(sequences)] == [
        (0, 0, 1, [(0, 1, 2, [(0, 2, 4), (1, 2, 4)]), (2, 1, 4)]),
    ]
    [row] = pack(sequences, positions, 100)
    assert row.ids_T.tolist() == [1, 2, 3, 5, 3, 6, 4, 8, 7]
    assert row.positions_R_T.tolist() == [[0, 1, 2, 3, 2, 3, 1, 2, 3]]
    assert (row.runs, row.parents) == ((1, 1, 2, 2, 3), (-1, 0, 1, 1, 0))
    assert row.above == [[], [range(1)], [range(1), range(1, 2)], [range(1), range(1, 2)], [range(1)]]
    assert row.predict_N.tolist() == [2, 4, 7]
    assert row.targets_N.tolist() == [5, 6, 7]


def test_a_conversation_with_two_sampled_spans():
    """1 2 -> 5 6, then 3 4 -> 7: offsets count on over both spans, and nothing after a sampled token is shared."""
    one = sequence((1, 2), (5, 6)) + sequence((3, 4), (7,))
    two = sequence((1, 2), (5, 6)) + sequence((3, 4), (8,))
    [row] = pack([one, two], positions, 100)
    assert row.ids_T.tolist() == [1, 2, 5, 6, 3, 4, 7, 2, 5, 6, 3, 4, 8]
    assert row.predict_N.tolist() == [1, 2, 5, 7, 8, 11]
    assert row.targets_N.tolist() == [5, 6, 7, 5, 6, 8]
    assert row.offsets_N.tolist() == [0, 1, 2, 0, 1, 2]
    assert row.owners_N.tolist() == [0, 0, 0, 1, 1, 1]


def test_equal_sampled_tokens_are_scored_for_each_sample():
    sequences = [sequence((1, 2), (5, 6))] * 2
    [row] = pack(sequences, positions, 100)
    assert row.ids_T.tolist() == [1, 2, 5, 6, 2, 5, 6]
    assert row.owners_N.tolist() == [0, 0, 1, 1]


def test_one_prompt_inside_another():
    """1 2 3 and 1 2 3 4 5: the short one's leaf is its last token, which the long one repeats."""
    assert [outline(root) for root in trie([sequence((1, 2, 3)), sequence((1, 2, 3, 4, 5))])] == [
        (0, 0, 2, [(0, 2, 3), (1, 2, 5)])
    ]


def test_sequences_that_share_nothing_have_roots_of_their_own():
    [row] = pack([sequence((1, 2), (3,)), sequence((4, 5), (6,))], positions, 100)
    assert (row.runs, row.parents) == ((3, 3), (-1, -1))
    assert not mask_of(row)[3:, :3].any()
    assert row.positions_R_T.tolist() == [[0, 1, 2, 0, 1, 2]]


def test_the_same_view_is_shared_and_another_view_parts_at_its_slot():
    """1 [a a] 2 3 -> 5    same ids throughout; the first two show view a, the third view b
    1 [a a] 2 3 -> 6       row: 1 | a a 2 | 3 5 | 3 6 | b b 2 3 7
    1 [b b] 2 3 -> 7
    """
    a, b = photo_view(seed=1), photo_view(seed=2)
    sequences = [Tokens((1,)) + image(view) + sequence((2, 3), (last,)) for view, last in ((a, 5), (a, 6), (b, 7))]
    assert [outline(root) for root in trie(sequences)] == [
        (0, 0, 1, [(0, 1, 4, [(0, 4, 6), (1, 4, 6)]), (2, 1, 6)]),
    ]
    [row] = pack(sequences, positions, 100)
    assert row.ids_T.tolist() == [1, 99, 99, 2, 3, 5, 3, 6, 99, 99, 2, 3, 7]
    assert row.slots == (Slot(1, 2, a), Slot(8, 2, b))


def test_the_second_of_two_slots_lands_where_its_tokens_are():
    a, b, c = (photo_view(seed=n) for n in range(3))
    sequences = [Tokens((1,)) + image(a) + Tokens((2,)) + image(x) + sequence((3,), (4,)) for x in (b, c)]
    [row] = pack(sequences, positions, 100)
    assert row.slots == (Slot(1, 2, a), Slot(4, 2, b), Slot(8, 2, c))
    for slot in row.slots:
        assert row.ids_T[slot.start : slot.start + slot.length].tolist() == [99, 99]


@pytest.mark.parametrize("budget", [9, 12, 15, 24, 1000])
def test_every_budget_scores_every_sampled_token_once(budget):
    generator = torch.Generator().manual_seed(budget)
    sequences = []
    for _question in range(4):
        prompt = tuple(torch.randint(1, 50, (5,), generator=generator).tolist())
        for _ in range(3):
            n = int(torch.randint(0, 5, (1,), generator=generator))
            sequences.append(sequence(prompt, tuple(torch.randint(1, 50, (n,), generator=generator).tolist())))
    packs = pack(sequences, positions, budget)
    sizes = [len(row) for row in packs]
    assert max(sizes) <= budget
    assert sizes == sorted(sizes, reverse=True)
    scored = [
        (owner, offset, target)
        for row in packs
        for owner, offset, target in zip(
            row.owners_N.tolist(), row.offsets_N.tolist(), row.targets_N.tolist(), strict=True
        )
    ]
    wanted = [(n, i, s.ids[5 + i]) for n, s in enumerate(sequences) for i in range(len(s) - 5)]
    assert sorted(scored) == wanted
    for row in packs:  # what a scored token sees, in order of position, is its own sequence up to there
        for at, owner in zip(row.predict_N.tolist(), row.owners_N.tolist(), strict=True):
            seen = row.ids_T[mask_of(row)[at]].tolist()
            assert tuple(seen) == sequences[owner].ids[: len(seen)]
            assert len(seen) == row.positions_R_T[0, at] + 1


def test_a_prefix_that_does_not_fit_with_all_its_samples_is_repeated():
    """Prompt of 4, two responses of 2: one row takes 3 + 3 + 3 = 9 tokens, two rows 6 each."""
    sequences = [sequence((1, 2, 3, 4), (5, 6)), sequence((1, 2, 3, 4), (7, 8))]
    assert [len(row) for row in pack(sequences, positions, 9)] == [9]
    assert [len(row) for row in pack(sequences, positions, 8)] == [6, 6]


def test_a_sequence_over_the_budget_is_refused_with_the_numbers():
    with pytest.raises(HartError, match=r"a sequence of 6 tokens does not fit tokens_per_pack = 5; raise"):
        pack([sequence((1, 2, 3, 4), (5, 6))], positions, 5)


def test_an_empty_response_is_laid_out_and_scores_nothing():
    [row] = pack([sequence((1, 2, 3), ()), sequence((1, 2, 3), (5,))], positions, 100)
    assert row.owners_N.tolist() == [1]
    assert row.targets_N.tolist() == [5]
    assert row.ids_T[row.predict_N].tolist() == [3]
    [alone] = pack([sequence((1, 2, 3), ())], positions, 100)
    assert len(alone.predict_N) == 0


def test_nothing_to_pack():
    assert pack([], positions, 10) == []
    assert trie([]) == ()


def test_log_probs_that_are_known_stand_beside_what_they_are_of():
    """Where a conversation was cut short and its words read again, nothing was drawn."""
    one = Tokens((1, 2)) + Tokens.response((5, 6), logps=(-0.5, -1.5)) + sequence((3,), (7,))
    [row] = pack([one], positions, 100)
    assert row.targets_N.tolist() == [5, 6, 7]
    assert row.drawn_N[:2].tolist() == [-0.5, -1.5] and row.drawn_N[2].isnan()
