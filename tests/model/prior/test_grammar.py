"""The enumerable world: the prior is the same each time and speaks the grammar."""

import pytest
import torch
from torch.testing import assert_close

from model import LanguageModel, grammar_prior
from model.prior.grammar import ADJECTIVES, PROMPTS, SUBJECTS, WORDS, _network, grammar_sentences


@pytest.fixture(scope="module")
def whole_prior() -> LanguageModel:
    """Prior of four tokens: the longest completion and the end."""
    return grammar_prior()


@pytest.fixture(scope="module")
def density(whole_prior: LanguageModel) -> list[dict[str, float]]:
    """After each prompt, the probability of every text that ends by itself."""
    prompts = whole_prior.encode(PROMPTS)
    distribution = whole_prior(prompts)
    support = distribution.enumerate_support()
    ended = torch.isin(support, distribution.space.end_ids).any(-1)
    prob = (distribution.log_prob(support).exp() * ended).T.tolist()
    texts = zip(*whole_prior.decode(support, prompts), strict=True)
    return [
        {text: p for text, p in zip(row_texts, row, strict=True) if p > 0}
        for row_texts, row in zip(texts, prob, strict=True)
    ]


def test_the_grammar_has_24_sentences_whose_probabilities_sum_to_one() -> None:
    assert len(grammar_sentences()) == 24
    assert sum(grammar_sentences().values()) == pytest.approx(1, abs=1e-12)


def test_training_is_deterministic(prior: LanguageModel) -> None:
    again = _network.__wrapped__(tuple(grammar_sentences().items()), WORDS, 100, 0)
    assert_close(dict(again.state_dict()), dict(prior.network.state_dict()), rtol=0, atol=0)


def test_a_second_prior_is_a_copy_that_may_be_changed() -> None:
    first, second = grammar_prior(steps=4), grammar_prior(steps=4)
    with torch.no_grad():
        first.network.lm_head.weight += 1
    assert not torch.equal(first.network.lm_head.weight, second.network.lm_head.weight)
    third = grammar_prior(steps=4)
    assert torch.equal(third.network.lm_head.weight, second.network.lm_head.weight)


def test_training_leaves_torchs_generator_alone() -> None:
    before = torch.random.get_rng_state()
    grammar_prior(steps=2)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_training_works_where_gradients_are_off() -> None:
    with torch.no_grad():
        assert not any(parameter.requires_grad for parameter in grammar_prior(steps=3).parameters())


def test_the_prior_speaks_the_grammar(density: list[dict[str, float]]) -> None:
    for completions in density:
        assert sum(p for text, p in completions.items() if text in grammar_sentences()) > 0.95


@pytest.mark.parametrize("subject", SUBJECTS)
def test_the_prior_depends_on_the_subject_of_the_prompt(
    density: list[dict[str, float]], subject: str
) -> None:
    """After a film "good" is likely, after a plot "dull"."""
    completions = density[PROMPTS.index(f"the {subject} was")]
    last = {
        adjective: sum(p for text, p in completions.items() if text.endswith(adjective))
        for adjective in ADJECTIVES[subject]
    }
    assert last == pytest.approx(ADJECTIVES[subject], abs=0.05)


def test_every_sentence_survives_the_tokenizer(prior: LanguageModel) -> None:
    sentences = list(grammar_sentences())
    prompts = prior.encode(sentences)
    ids = [row[mask] for row, mask in zip(prompts.ids, prompts.mask, strict=True)]
    assert prior.tokenizer.batch_decode(ids, skip_special_tokens=True) == sentences


def test_the_default_prior_is_that_of_the_grammars_sentences(prior: LanguageModel) -> None:
    given = grammar_prior(3, sentences=grammar_sentences())
    assert_close(dict(given.network.state_dict()), dict(prior.network.state_dict()), rtol=0, atol=0)


def test_the_default_sentences_have_their_old_probabilities_bit_for_bit() -> None:
    assert grammar_sentences()["the film was not very bad"] == 0.6 * 0.1 * 0.3
    assert list(grammar_sentences())[:2] == ["the film was good", "the film was bad"]


def test_a_prior_of_other_sentences_says_those() -> None:
    prior = grammar_prior(3, sentences={"the film was very dull": 1.0})
    prompts = prior.encode(["the film was"])
    assert prior.decode(prior(prompts).sample((1,)), prompts) == [["the film was very dull"]]
