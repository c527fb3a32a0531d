"""Priors and rewards of the cells: families, ends of responses, spread of rewards, absence."""

import pytest
import torch

from experiments.foreign import priors
from experiments.foreign.design import FACTORS, Cell
from experiments.foreign.priors import absence, load
from experiments.foreign.worlds import world_of

RANDOM = ("random-gpt2", "random-llama")


def cell(prior, length, reward):
    return Cell(prior, length, "0.1", reward, "lora", "leave-one-out")


@pytest.mark.parametrize("reward", FACTORS["reward"])
@pytest.mark.parametrize("prior", RANDOM)
def test_rewards_differ_among_responses_of_a_random_network(prior, reward):
    world = world_of(cell(prior, "12", reward), 128, None)
    rewards = world.sample.log_likelihood * world.model.beta
    scale = 10 if reward == "logit" else 1
    assert world.model.beta == pytest.approx(0.1 * scale)
    assert 0.1 * scale < rewards.std() < scale
    assert rewards.abs().max() < 4 * scale


def test_random_networks_are_of_two_families_and_always_the_same():
    networks = [load(name, 12, None).network for name in RANDOM]
    assert [network.config.model_type for network in networks] == ["gpt2", "llama"]
    again = priors.random_prior("llama", 12).network
    pairs = zip(again.parameters(), networks[1].parameters(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)


def test_a_response_of_the_stories_ends_at_a_full_stop(stories_folder):
    world = world_of(cell("stories260k", "24", "length"), 64, stories_folder)
    prior = world.model.prior
    lengths = prior.space.is_word(world.sample.response).sum(-1)
    assert (lengths < 24).any()
    texts = [row[0] for row in prior.decode(world.sample.response)]
    assert not any(". " in text for text in texts)


def test_absent_priors_have_a_reason(tmp_path, monkeypatch):
    assert absence("film-reviews-1", None) == absence("random-gpt2", None) == ""
    assert absence("stories260k", tmp_path) == ""
    assert absence("stories260k", None) == "--stories names no folder"

    def fails(name):
        raise ValueError("expected the packages")

    monkeypatch.setattr(priors, "prior_files", fails)
    assert absence("smollm2", None) == "expected the packages"
