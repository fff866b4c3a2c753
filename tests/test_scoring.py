"""What is put to the model for a set of requests, and what is read off: against the fake engine's
table and brute force."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from scipy.special import log_softmax

from pipeline.engines import Prompt, Visit
from pipeline.engines.fake import VOCABULARY, FakeEngine
from pipeline.engines.paged import BLOCK, Slice, batches
from pipeline.engines.scoring import Request, common, families, score
from pipeline.engines.tree import LONGEST, Tree, trees
from pipeline.engines.tree import batches as tree_batches
from pipeline.recipe import Serve

RNG = np.random.default_rng(5)


class Watched(FakeEngine):
    """The fake engine, its pieces at most `piece` rows, which notes what is put to it."""

    def __init__(self, piece: int = 10**9) -> None:
        super().__init__(Path(), Serve(max_model_len=512))
        self.put: list[Prompt] = []
        self._piece = piece

    def distributions(self, prompts: list[Prompt], visit: Visit) -> None:
        def cut(number: int, first: int, rows: np.ndarray) -> None:
            for start in range(0, len(rows), self._piece):
                visit(number, first + start, rows[start : start + self._piece])

        self.put += prompts
        super().distributions(prompts, cut)

    @property
    def table(self) -> np.ndarray:
        return np.array(self._logits)


def drawn(length: int) -> list[int]:
    found: list[int] = RNG.integers(0, VOCABULARY, length).tolist()
    return found


def asked() -> list[Request]:
    contexts = [drawn(1), drawn(40), drawn(40)]
    made = [
        Request(context, drawn(length), True) for context in contexts for length in (1, 1, 2, 5, 9)
    ]
    return [
        *made,
        made[1],
        Request(made[4].context + made[4].continuation[:2], made[4].continuation[2:]),
    ]


@pytest.mark.parametrize("piece", [1, 3, 100])
def test_scores_are_those_of_the_table(piece: int) -> None:
    engine = Watched(piece)
    exact = log_softmax(engine.table, axis=1)
    best = engine.table.argmax(1)
    greedy = [int(best[3])]
    for _ in range(3):
        greedy.append(int(best[greedy[-1]]))
    requests = [
        *asked(),
        Request([7, 3], greedy, True),
        Request([7, 3], [*greedy[:-1], (greedy[-1] + 1) % VOCABULARY], True),
    ]
    found = score(engine, requests)
    for request, scored in zip(requests, found, strict=True):
        pairs = itertools.pairwise([request.context[-1], *request.continuation])
        assert scored.logprobs == pytest.approx([exact[a, b] for a, b in pairs], abs=1e-5)
        row = [request.context[-1], *request.continuation]
        expected = all(best[a] == b for a, b in itertools.pairwise(row))
        assert scored.greedy == (expected if request.greedy else None)
    assert [scored.greedy for scored in found[-2:]] == [True, False]


def test_what_is_not_needed_is_not_put_to_the_model() -> None:
    engine, context = Watched(), drawn(30)
    score(engine, [Request(context, [choice]) for choice in (1, 2, 3, 4)])
    assert engine.put == [Prompt(context, 29)]
    engine.put.clear()
    score(
        engine,
        [Request(context, [1, 2, 3]), Request(context, [1, 2, 3]), Request([*context, 1], [2, 9])],
    )
    assert engine.put == [Prompt([*context, 1, 2], 29)]
    assert score(engine, []) == []


def prompts() -> list[Prompt]:
    shots = drawn(400)
    made = [drawn(length) for length in (1, 2, 30, 31)]
    made += [[*shots, *drawn(int(length))] for length in RNG.integers(1, 90, 40)]
    context = drawn(50)
    made += [[*context, *drawn(int(length))] for length in RNG.integers(1, 9, 20)]
    made += [context, made[10], [*made[10], 3]]
    return [Prompt(ids, len(ids) - 1) for ids in made]


def test_a_tree_gives_each_prompt_its_own_ancestors() -> None:
    given = prompts()
    for shared in (True, False):
        made = trees(given, shared)
        assert sorted(number for tree in made for number in tree.paths) == list(range(len(given)))
        assert shared or not any(tree.branches for tree in made)
        for tree in made:
            length = len(tree.tokens) + 3
            sees = tree.sees(length)
            assert sees.diagonal().all()
            for number, path in tree.paths.items():
                assert [tree.tokens[place] for place in path] == given[number].ids
                assert [tree.positions[place] for place in path] == list(range(len(path)))
                np.testing.assert_array_equal(
                    sees[np.ix_(path, path)], np.tri(len(path), dtype=bool)
                )
                assert (
                    sees[path].sum(1) == np.arange(1, len(path) + 1)
                ).all()  # and sees nothing else
    tokens = [sum(len(tree.tokens) for tree in trees(given, shared)) for shared in (True, False)]
    assert tokens[0] < tokens[1] / 3


def test_trees_stay_short_and_batches_small() -> None:
    made = trees(prompts(), shared=True)
    assert max(len(tree.tokens) for tree in made) <= LONGEST
    long = drawn(3000)
    assert [
        len(tree.paths)
        for tree in trees([Prompt([*long, *drawn(900)]) for _ in range(5)], shared=True)
    ] == [5]
    for tokens in (1, 64, 2048):
        found = list(tree_batches(made, tokens))
        assert sorted(map(id, itertools.chain(*found))) == sorted(map(id, made))
        assert all(
            len(batch) == 1 or len(batch) * max(len(tree.tokens) for tree in batch) <= tokens
            for batch in found
        )


def test_an_empty_tree_takes_any_prompt() -> None:
    assert Tree().fits(drawn(LONGEST))


def test_families_share_half_of_their_tokens_with_the_first() -> None:
    given = prompts()
    found = families(given)
    assert sorted(itertools.chain(*found)) == list(range(len(given)))
    for first, *others in found:
        assert all(
            2 * common(given[first].ids, given[number].ids) >= len(given[number].ids)
            for number in others
        )


def packed(
    lengths: list[int], tokens: int, sequences: int, rows: int = 10**9, first: int = 0
) -> list[list[tuple[int, int, int]]]:
    serve = Serve(
        max_model_len=512, max_num_batched_tokens=tokens, max_num_seqs=min(sequences, tokens)
    )
    given = [Prompt([0] * length, min(first, length - 1)) for length in lengths]
    found = list(batches(dict.fromkeys(range(len(lengths)), 0), given, serve, rows))
    for batch in found:
        assert 0 < sum(part.stop - part.start for part in batch) <= tokens
        assert sum(part.stop - part.asked for part in batch) <= rows
        assert len(batch) <= sequences
        assert len({part.prompt for part in batch}) == len(batch)
        assert all(
            part.start < part.stop and part.start <= part.asked <= part.stop for part in batch
        )
    flat = [
        (part.prompt, token)
        for batch in found
        for part in batch
        for token in range(part.start, part.stop)
    ]
    assert flat == [
        (number, token) for number, length in enumerate(lengths) for token in range(length)
    ]
    wanted = [
        (part.prompt, token)
        for batch in found
        for part in batch
        for token in range(part.asked, part.stop)
    ]
    assert wanted == [
        (number, token)
        for number, prompt in enumerate(given)
        for token in range(prompt.first, len(prompt.ids))
    ]
    return [[part[:3] for part in batch] for batch in found]


def test_batches_are_full() -> None:
    assert packed([5, 5, 5], 8, 4) == [[(0, 0, 5), (1, 0, 3)], [(1, 3, 5), (2, 0, 5)]]
    assert packed([5, 5, 5], 8, 1) == [[(0, 0, 5)], [(1, 0, 5)], [(2, 0, 5)]]
    assert packed([20], 8, 4) == [[(0, 0, 8)], [(0, 8, 16)], [(0, 16, 20)]]
    assert packed([5, 5, 5], 16, 4, rows=8) == [[(0, 0, 5), (1, 0, 3)], [(1, 3, 5), (2, 0, 5)]]
    assert packed([5, 5, 5], 16, 4, rows=2, first=3) == [[(0, 0, 5)], [(1, 0, 5)], [(2, 0, 5)]]
    assert packed([], 8, 4) == []


def test_batches_begin_behind_what_is_shared() -> None:
    serve = Serve(max_model_len=512, max_num_batched_tokens=64)
    given = [Prompt([0] * (BLOCK + 7), BLOCK + 5), Prompt([0] * 9, 8)]
    assert list(batches({0: BLOCK, 1: 0}, given, serve, 64)) == [
        [Slice(0, BLOCK, BLOCK + 7, BLOCK + 5), Slice(1, 0, 9, 8)]
    ]


def test_batches_lose_no_token() -> None:
    for _ in range(300):
        lengths = RNG.integers(1, 50, RNG.integers(1, 30)).tolist()
        packed(lengths, *RNG.integers(1, (100, 9, 60)).tolist(), first=int(RNG.integers(0, 40)))
