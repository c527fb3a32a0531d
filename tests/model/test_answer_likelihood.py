"""The likelihood of an answer against plain passes of the network, and log Z with it."""

from itertools import takewhile

import pytest
import torch
from torch.testing import assert_close

from inference import Enumeration
from model import AlignmentModel, AnswerLikelihood
from model.likelihood import LikelihoodError
from model.prior.tokenization import continuation_ids
from tests.model.tiny import NETWORKS, PROMPTS, WORDS, tiny
from tests.model.tokenizers import TOKENIZERS

ANSWERS = ["b", None, "c a b"]


def by_hand(prior, head, response, before, answer):
    """log p(answer | head, response, before) by one pass without cache, padding or batch."""
    words = list(takewhile(lambda token: token not in prior.end_ids, response.tolist()))
    given = [*head, *words, *before]
    logits = prior.network(torch.tensor([[*given, *answer]])).logits[0] / prior.temperature
    log_prob = logits.double().log_softmax(-1)
    places = range(len(given) - 1, len(given) + len(answer) - 1)
    return sum(log_prob[t, token] for t, token in zip(places, answer, strict=True))


@pytest.mark.parametrize("before", ["", " a c"])
@pytest.mark.parametrize("network", NETWORKS)
@torch.no_grad()
def test_score_is_that_of_plain_passes_and_z_the_probability_of_the_answer(network, before):
    """Prompts and answers of different lengths, ended and truncated responses, no answer."""
    prior = tiny(network, torch.float64, max_new_tokens=2)
    prior.temperature = 0.7
    prompts = prior.encode(PROMPTS, columns={"solution": ANSWERS})
    factor = AnswerLikelihood(prior, "solution", before=before)
    truth = Enumeration(AlignmentModel(prior, {}, 1.0, factors={"y": factor}), prompts)
    support = truth.support.expand(-1, 3, -1)
    value = factor(prompts, support)
    assert factor.applies(prompts).tolist() == [True, False, True]
    assert value[:, 1].isnan().all()
    between = [WORDS.index(word) for word in before.split()]
    for n, answer in enumerate(ANSWERS):
        if answer is None:
            assert truth.log_z[n].item() == pytest.approx(0, abs=1e-9)
            continue
        ids = [WORDS.index(word) for word in answer.split()]
        head = prompts.rows()[n]
        expected = [by_hand(prior, head, row, between, ids) for row in support[:, n]]
        assert_close(value[:, n], torch.stack(expected))
        log_z = (truth.log_prior[:, n] + torch.stack(expected)).logsumexp(0)
        assert_close(truth.log_z[n], log_z)


@torch.no_grad()
def test_an_end_id_of_the_answer_is_scored_at_its_end_alone():
    prior = tiny("llama", torch.float64, max_new_tokens=2)
    prompts = prior.encode(["a b"], columns={"answer": ["c"]})
    response = torch.tensor([[[2, 3]]])
    value = AnswerLikelihood(prior, answer=" {} <end>")(prompts, response)
    expected = by_hand(prior, prompts.rows()[0], response[0, 0], [], [4, 0])
    assert_close(value[0, 0], expected)
    with pytest.raises(LikelihoodError, match="has an end id before its end"):
        AnswerLikelihood(prior, answer=" <end> {}")(prompts, response)


@pytest.mark.parametrize(
    ("columns", "fault"),
    [
        ({"solution": ["b"]}, r"the column 'answer', and the prompts have \['solution'\]"),
        ({}, "the prompts have none"),
        ({"answer": [["b"]]}, r"column 'answer' has the reference answer \['b'\] \(list\)"),
        ({"answer": [""]}, r"column 'answer' has the reference answer '', whose content is empty"),
    ],
)
def test_answers_that_cannot_be_scored_are_refused(columns, fault):
    prior = tiny("gpt2", max_new_tokens=2)
    prompts = prior.encode(["a b"], columns=columns)
    with pytest.raises(LikelihoodError, match=fault):
        AnswerLikelihood(prior)(prompts, torch.tensor([[[2, 3]]]))


def test_a_full_stop_is_an_answer():
    """Another text of the same token has the same value."""
    prior = tiny("gpt2", max_new_tokens=2)
    prompts = prior.encode(["a b"], columns={"answer": ["."], "unknown": ["c"]})
    factors = [AnswerLikelihood(prior, name) for name in prompts.columns]
    assert_close(*(factor(prompts, torch.tensor([[[2, 3]]])) for factor in factors))


def test_what_is_too_long_and_an_answer_without_its_column_are_refused():
    prior = tiny("gpt2", max_new_tokens=2)
    prompts = prior.encode(["a b"], columns={"answer": ["a " * 13]})
    with pytest.raises(ValueError, match="have 17 tokens, over the network's context of 16"):
        AnswerLikelihood(prior)(prompts, torch.tensor([[[2, 3]]]))
    with pytest.raises(ValueError, match=r"expected a text with \{\} for the column"):
        AnswerLikelihood(prior, answer="4")


@pytest.mark.parametrize("name", TOKENIZERS)
def test_tokens_of_a_continuation_are_those_of_the_whole_text(name):
    """No second beginning, and one space."""
    tokenizer = TOKENIZERS[name]()
    whole, head = (
        tokenizer(text, add_special_tokens=False)["input_ids"]
        for text in ("the film was good", "the film")
    )
    assert head + continuation_ids(tokenizer, " was good") == whole


def test_no_space_stands_before_a_continuation_that_forms_a_token_with_a_full_stop():
    """Llama 2 has a token of two full stops."""
    tokenizer = TOKENIZERS["metaspace"]()
    tokenizer.add_tokens([".."])
    head = tokenizer("the film", add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(head + continuation_ids(tokenizer, ".s")) == "the film.s"
