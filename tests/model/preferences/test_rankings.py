"""Rankings: read or refused with their place; the probability of an order; the Pyro program."""

import json
from itertools import permutations, product
from math import comb, inf, log

import pytest
import torch
from pyro import poutine
from torch.testing import assert_close

from model.preferences import (
    BradleyTerry,
    Comparisons,
    LinearHead,
    Preference,
    PreferenceError,
    Ranking,
    Rankings,
    log_outcome,
    log_ranking,
    read_judged,
    split_preferences,
)
from model.preferences.comparisons import listed
from model.preferences.plackett_luce import (
    RankingDistribution,
    _integral_over_times,
    _sum_over_orders,
)
from tests.model.preferences.test_chats import NO, USER, YES, tokenizer_of

GOOD = {"prompt": "The film", "responses": [" shone.", " dragged.", " ran."], "scores": [2, 0, 1]}
RANKING = Ranking("The film", (" shone.", " dragged.", " ran."), (2.0, 0.0, 1.0))
REWARD = torch.tensor([0.3, -1.2, 2.0, 0.9]).double()


def test_the_probability_of_scores_is_the_sum_over_all_orders_that_agree_with_them():
    """Full rankings, ties anywhere, best-of-list and top-m: all 4^4 patterns of four scores."""

    def by_hand(order):
        weight = REWARD[list(order)].exp()
        return (weight / weight.flip(0).cumsum(0).flip(0)).prod()

    orders = {order: by_hand(order) for order in permutations(range(4))}
    scores = torch.tensor(list(product(range(4), repeat=4))).double()
    actual = log_ranking(REWARD, scores).exp()
    for score, prob in zip(scores, actual, strict=True):
        agree = [p for order, p in orders.items() if bool((score[list(order)].diff() <= 0).all())]
        assert_close(prob, torch.stack(agree).sum(), rtol=1e-14, atol=0)
    full = torch.tensor(list(permutations(range(4)))).double()
    assert_close(log_ranking(REWARD, full).exp().sum().item(), 1.0, rtol=1e-14, atol=0)
    best = log_ranking(REWARD, torch.eye(4).double())
    assert_close(best, REWARD.log_softmax(0), rtol=1e-14, atol=0)


def test_a_list_of_two_is_a_comparison_and_places_without_a_response_do_not_count():
    difference = torch.tensor([-800.0, -3.0, 0.0, 0.4, 900.0]).double()
    reward = torch.stack([difference, torch.zeros(5), torch.full((5,), -inf)], -1).requires_grad_()
    log_prob = log_ranking(reward, torch.tensor([7.0, 2.0, -inf]).double())
    assert_close(log_prob, log_outcome(difference)[:, 0], rtol=1e-15, atol=1e-16)
    (slope,) = torch.autograd.grad(log_prob.sum(), reward)
    loses = (-difference).sigmoid()
    assert_close(slope, torch.stack([loses, -loses, torch.zeros(5)], -1))


@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0, 300.0])
def test_many_tied_winners_have_the_probability_of_few(scale):
    """The integral is the sum over orders, with its gradient; of equal rewards 1/C(G + M, G)."""
    reward = torch.randn(2, 9, 20, generator=torch.Generator().manual_seed(0)).double()
    for size in (2, 5, 8):
        group = (scale * reward[0, :size].T).requires_grad_()
        rest = (scale * reward[1, 0]).requires_grad_()
        values = [each(group, rest) for each in (_integral_over_times, _sum_over_orders)]
        slopes = [torch.autograd.grad(each.sum(), (group, rest)) for each in values]
        assert_close(*values, rtol=1e-12, atol=1e-12)
        assert_close(*slopes, rtol=1e-10, atol=1e-10)
    score = (torch.arange(105) < 100).double()
    log_prob = log_ranking(score.new_full((105,), scale), score)
    assert_close(log_prob.item(), -log(comb(105, 100)), rtol=1e-13, atol=0)


def test_drawn_orders_have_their_probabilities():
    reward = torch.tensor([0.5, -0.5, 1.0, -inf]).double()
    scores = RankingDistribution(reward).sample((20_000,))
    patterns, counts = scores.unique(dim=0, return_counts=True)
    assert len(patterns) == 6
    prob = log_ranking(reward, patterns).exp()
    error = (prob * (1 - prob) / 20_000).sqrt()
    assert bool(((counts / 20_000 - prob).abs() < 5 * error).all())


def test_the_program_of_lists_of_two_has_the_density_of_bradley_and_terry():
    first, second = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0)).double()
    lists = Rankings(torch.cat([first, second]), torch.arange(10).view(2, 5).T)
    outcome = torch.tensor([0, 1, 1, 0, 0])
    w = torch.tensor([0.5, -1.0, 2.0]).double()
    scores = torch.stack([1 - outcome, outcome], -1).double()
    model = BradleyTerry(LinearHead(3), 0.5)
    one, other = (
        poutine.trace(poutine.condition(model, {"w": w})).get_trace(each).log_prob_sum()
        for each in (lists.given(scores), Comparisons(first, second, outcome))
    )
    assert_close(one, other, rtol=1e-14, atol=0)
    assert sorted(model(lists)[0].tolist()) == [-1, 0]  # drawn
    with pytest.raises(ValueError, match="flip and tie_strength are of pairs, got rankings"):
        BradleyTerry(LinearHead(3), flip=0.1)(lists)


def test_rankings_by_their_features():
    rankings = [RANKING, Ranking.of(Preference("The film", " ran.", " shone."))]
    data = Rankings.of(rankings, lambda texts: torch.tensor([[float(len(text))] for text in texts]))
    assert data.features.flatten().tolist() == [15, 17, 13]
    assert data.response.tolist() == [[0, 1, 2], [2, 0, -1]]
    assert data.outcome.tolist() == [[2, 0, 1], [1, 0, -inf]]
    assert data.select(torch.tensor([1])).outcome.tolist() == [[1, 0, -inf]]
    for outcome, message in {
        torch.zeros(2, 2): "exactly at the places without",
        torch.full((2, 3), inf): "a score that is NaN or inf",
        torch.tensor([[1.0, -inf, -inf]]): "fewer than two scores",
    }.items():
        with pytest.raises(ValueError, match=message):
            data.given(outcome)
    first, phi = torch.tensor([[0, 1]]), data.features
    for features, response, message in (
        (phi, torch.tensor([[0, 1], [0, -1]]), "list 1 has .* at least two responses in each list"),
        (phi, torch.tensor([[0], [1]]), "list 0 has fewer than two responses"),
        (phi, torch.tensor([[0, 7]]), r"response is 7 at index \(0, 1\), .* 0 to 2, or -1"),
        (phi, torch.tensor([[0.0, 1.0]]), "type torch.float32, expected numbers of texts"),
        (phi.long(), first, r"type torch.int64, expected features \[M, D\] as floats"),
        (phi.half(), first, "type torch.float16, expected features"),
        (phi * torch.nan, first, "features is not finite in 3 of 3 rows, .* number 0"),
    ):
        with pytest.raises(ValueError, match=message):
            Rankings(features, response)
    with pytest.raises(PreferenceError, match="there are no rankings"):
        Rankings.of([], len)


ROWS = {
    "ranks": {"responses": GOOD["responses"], "ranks": [1, 3, 2]},
    "UltraFeedback": {
        "completions": [
            {"response": text, "overall_score": score, "critique": "x"}
            for text, score in zip(GOOD["responses"], [8.5, 1, 3], strict=True)
        ]
    },
    "Nectar": {
        "answers": [
            {"answer": text, "rank": rank}
            for text, rank in zip(GOOD["responses"], [1.0, 3.0, 2.0], strict=True)
        ]
    },
    "distilabel": {"generations": GOOD["responses"], "ratings": [5, 1, 4]},
    "Snorkel": {"all_generated_responses": GOOD["responses"], "all_rm_scores": [0.3, -2.0, 0.1]},
}


@pytest.mark.parametrize("layout", ROWS)
def test_rankings_of_known_layouts(layout):
    (ranking,) = read_judged(
        [{"instruction": "The film"} | ROWS[layout]], prompt_column="instruction"
    )
    assert ranking.responses == RANKING.responses
    assert ranking.preferences() == RANKING.preferences()
    pair = {"prompt": "The film", "chosen": " ran.", "rejected": " dragged."}
    beside = read_judged([pair | ROWS[layout]])
    assert beside == [Preference(*pair.values())]
    with pytest.raises(PreferenceError, match=r"item 0 is .*, expected an object with 'answer'"):
        read_judged([{"prompt": "a", "answers": [{"text": "b", "rank": 1}]}])


def test_pairs_the_best_alone_and_ranks_of_null(tmp_path):
    (tmp_path / "lists.jsonl").write_text(json.dumps(GOOD | {"scores": [None, None, 1]}) + "\n")
    (ranking,) = read_judged(tmp_path / "lists.jsonl")
    assert ranking.scores == (0.0, 0.0, 1.0)
    assert RANKING.top(1).scores == (2.0, 1.0, 1.0)
    assert RANKING.top(5) == RANKING
    tied = Ranking("The film", ("a", "b", "c", "d"), (2.0, 2.0, 0.0, 1.0))
    assert [tied.top(m).scores for m in (1, 2)] == [(2.0, 2.0, 1.0, 1.0)] * 2
    assert tied.top(3) == tied
    pairs = [(each.chosen, each.rejected) for each in RANKING.preferences()]
    assert pairs == [(" shone.", " ran."), (" shone.", " dragged."), (" ran.", " dragged.")]
    lists = [Ranking(f"{i}", ("a", "b", "c"), (1, 2, 3)) for i in range(4)]
    assert [len(part) for part in split_preferences(lists, 0.25)] == [3, 1]
    with pytest.raises(PreferenceError, match="are ties"):
        split_preferences([*lists[:1], Ranking("x", ("a", "b"), (1, 1))], 0.5)


def test_chats_are_texts_by_the_template():
    tokenizer = tokenizer_of("chatml")
    row = {"prompt": [USER], "responses": [[NO], [YES]], "scores": [1, 2]}
    (ranking,) = read_judged([row], tokenizer)
    assert ranking.responses == ("Not at all.", "It is.")
    assert ranking.chat == (USER,)
    with pytest.raises(PreferenceError, match="record 0: texts and chats, expected"):
        read_judged([row | {"responses": ["No", "Yes"]}], tokenizer)


RECORDS = {
    r"column 'prompt' is missing, got 'responses', 'scores': --prompt-column names": {
        name: value for name, value in GOOD.items() if name != "prompt"
    },
    "column 'responses' is ' x', expected a list": GOOD | {"responses": " x"},
    r"column 'responses, item 1' is 3 \(int\), expected a text": GOOD | {"responses": ["a", 3]},
    "3 responses and 2 scores, expected one each": GOOD | {"scores": [1, 2]},
    "a score is '1', .*: write it without quotes": GOOD | {"scores": ["1", 2, 3]},
    "a score is 'high', expected a finite number": GOOD | {"scores": [1, "high", 2]},
    "a score is True, expected a finite number": GOOD | {"scores": [1, True, 2]},
    "the response ' shone.' has the scores 1 and 2, expected one": GOOD
    | {"responses": [" shone.", " shone."], "scores": [1, 2]},
    "the prompt and a response are both empty": {
        "prompt": "",
        "responses": ["", "a"],
        "scores": [1, 2],
    },
    "column 'responses' is missing, got 'prompt', 'chosen': a file has pairs or rankings": {
        "prompt": "a",
        "chosen": "b",
    },
}


@pytest.mark.parametrize("message", RECORDS)
def test_a_record_that_is_no_ranking_is_refused_with_its_line(tmp_path, message):
    path = tmp_path / "lists.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in (GOOD, RECORDS[message])))
    with pytest.raises(PreferenceError, match=rf"lists.jsonl, line 2: .*{message}"):
        read_judged(path)


def test_a_ranking_after_pairs_or_without_scores_is_refused_by_kind():
    pair = {"prompt": "a", "chosen": "b", "rejected": "c"}
    bare = {name: value for name, value in GOOD.items() if name != "scores"}
    with pytest.raises(PreferenceError, match=r"record 1: got a ranking, .* by its first record"):
        read_judged([pair, GOOD])
    for rows in ([bare], [pair, bare]):
        with pytest.raises(PreferenceError, match="'scores' or 'ranks' is missing beside 'resp"):
            read_judged(rows)
    with pytest.raises(PreferenceError, match="'ratings' is missing beside 'generations'"):
        read_judged([{"prompt": "a", "generations": ["b", "c"]}])
    with pytest.raises(TypeError, match=r"expected a Preference: .*Ranking\.preferences"):
        listed(read_judged([GOOD]), Preference)
    with pytest.raises(TypeError, match=r"expected a Ranking: .*Ranking\.of"):
        listed(read_judged([pair]), Ranking)
