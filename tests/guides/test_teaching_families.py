"""Small families: the part of the prefix that each family can see."""

import itertools
import math

import pytest
import torch

from guides import MeanField, NGram, Recurrent, Tabular
from inference import Enumeration
from model import AlignmentModel, NotEnumerableError, TextReward, vader_sentiment
from tests.model.tiny import PROMPTS, tiny


def moved(guide):
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in guide.trained().values():
            parameter += torch.randn_like(parameter)
    return guide


def groups(guide, prompts, key):
    """Next-token distributions by `key(prompt, prefix)`, over all prompts and prefixes."""
    distribution = guide.distribution(prompts)
    support = distribution.enumerate_support()
    log_probs = distribution.next_token_logits(support).log_softmax(-1)
    is_token = distribution.space.is_token(support)
    distributions = {}
    for n, t in itertools.product(range(len(prompts)), range(support.shape[-1])):
        prompt = prompts.ids[n][prompts.mask[n]].tolist()
        for s in range(len(support)):
            if is_token[s, n, t]:
                distributions.setdefault(key(prompt, support[s, n, :t].tolist()), []).append(
                    log_probs[s, n, t]
                )
    return {name: torch.stack(log_probs) for name, log_probs in distributions.items()}


def window(n):
    """The last n - 1 tokens of prompt and response, None where there is none."""
    return lambda prompt, prefix: tuple(([None] * n + prompt + prefix)[-(n - 1) :] if n > 1 else ())


@pytest.mark.parametrize(
    ("make", "sees"),
    [
        (
            lambda prior, prompts: MeanField(prior, prompts),
            lambda prompt, prefix: (tuple(prompt), len(prefix)),
        ),
        (lambda prior, prompts: NGram(prior, n=1), window(1)),
        (lambda prior, prompts: NGram(prior, n=2), window(2)),
        (lambda prior, prompts: NGram(prior, n=3), window(3)),
        (
            lambda prior, prompts: Recurrent(prior, num_layers=2),
            lambda prompt, prefix: tuple(prompt + prefix),
        ),
        (
            lambda prior, prompts: Tabular(prior, prompts),
            lambda prompt, prefix: (tuple(prompt), tuple(prefix)),
        ),
    ],
    ids=["mean-field", "1-gram", "2-gram", "3-gram", "recurrent", "tabular"],
)
@pytest.mark.parametrize(
    "special", [{}, {"end_ids": [0, 3], "pad_id": 1}], ids=["", "two ends, a word as padding"]
)
def test_one_distribution_for_prefixes_that_look_the_same(make, sees, special):
    prior = tiny(**special)
    prompts = prior.encode(PROMPTS)
    distributions = groups(moved(make(prior, prompts)), prompts, sees)
    for log_probs in distributions.values():
        assert torch.allclose(log_probs, log_probs[:1].expand_as(log_probs), atol=1e-12)
    first = torch.stack([log_probs[0] for log_probs in distributions.values()])
    assert (torch.cdist(first, first) + torch.eye(len(first)) > 1e-3).all()


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_token_by_token_and_parallel_reading_agree(n):
    prior = tiny(max_new_tokens=4)
    prompts, ids = prior.encode(PROMPTS), torch.tensor([[2, 3, 4], [4, 2, 2], [3, 3, 2]])
    for guide in (
        NGram(prior, n=n),
        MeanField(prior, prompts),
        Tabular(prior, prompts),
        Recurrent(prior, num_layers=n),
    ):
        moved(guide)
        at_once, _ = guide.extend(guide.start(prompts)[1], ids)
        for sizes in ([1, 1, 1], [2, 1]):
            state, parts = guide.start(prompts)[1], []
            for some in ids.split(sizes, 1):
                logits, state = guide.extend(state, some)
                parts.append(logits)
            assert torch.allclose(torch.cat(parts, 1), at_once, atol=1e-12)


def test_tabular_contains_the_posterior(prior):
    prompts = prior.encode(["the film was", "the plot was"])
    model = AlignmentModel(prior, TextReward(vader_sentiment, prior, upper_bound=1.0), beta=0.3)
    truth, guide = Enumeration(model, prompts), Tabular(prior, prompts)
    words = [token for token in range(prior.vocab_size) if token not in prior.end_ids]
    prefixes = [
        prefix for t in range(prior.max_new_tokens) for prefix in itertools.product(words, repeat=t)
    ]
    with torch.no_grad():
        for node, prefix in enumerate(prefixes):
            start = truth.support[:, 0, : len(prefix)]
            for token in range(prior.vocab_size):
                begins = (start == torch.tensor(prefix, dtype=torch.long)).all(-1) & (
                    truth.support[:, 0, len(prefix)] == token
                )
                guide.table[:, node, token] = truth.log_posterior[begins].logsumexp(0)
    assert truth.kl_guide_posterior(guide).max() < 1e-12
    assert truth.kl_posterior_guide(guide).max() < 1e-12


def test_tables_are_by_prompt_whatever_the_batch(prior):
    """Reordered, alone, repeated, or padded."""
    prompts = prior.encode(["the film was", "the", "the plot was"])
    for family in (MeanField, Tabular):
        guide = moved(family(prior, prompts[[0, 1, 0, 2]]))
        assert guide.index(prompts).tolist() == [0, 1, 2]
        response = prior(prompts[[0]]).sample((4,))
        all_at_once = guide.distribution(prompts).log_prob(response.expand(-1, 3, -1))
        for order in ([2, 0], [1], [1, 1]):
            assert torch.allclose(
                guide.distribution(prompts[order]).log_prob(response),
                all_at_once[:, order],
                atol=1e-12,
            )


def test_unknown_prompt_is_named(prior):
    for family in (MeanField, Tabular):
        guide = family(prior, prior.encode(["the film was"]))
        with pytest.raises(
            ValueError,
            match="no table for the prompt 'the plot was': "
            "build the guide with all 1 prompts and this one",
        ):
            guide.distribution(prior.encode(["the plot was"])).sample()


def test_too_large_a_table_is_refused():
    prior = tiny(max_new_tokens=10)
    with pytest.raises(NotEnumerableError, match="too many to enumerate"):
        Tabular(prior, prior.encode(["a"]))
    with pytest.raises(ValueError, match="n is 12, with 5 token ids a table of"):
        NGram(prior, n=12)


def test_uniform_at_the_start(prior):
    prompts = prior.encode(["the film was"])
    for guide in (MeanField(prior, prompts), NGram(prior)):
        first = (
            guide.distribution(prompts)
            .next_token_logits(prior(prompts).sample((3,)))[:, :, 0]
            .log_softmax(-1)
        )
        assert torch.allclose(first, torch.full_like(first, -math.log(prior.vocab_size)))
