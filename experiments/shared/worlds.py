"""Worlds: the posteriors of English text and of untrained networks that scripts compare on."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Literal, TypeAlias

import torch

from inference import Enumeration, PriorSample, entropy, random_state, sample_prior
from model import AlignmentModel, Prompts, TokenReward
from model.prior.grammar import untrained_prior
from model.prior.named_priors import load_prior
from model.registry import REWARDS

MODES = (2, 4)  # words of the modes of `two_modes`, the heavier mode first


@dataclass(frozen=True)
class World:
    """A posterior of one prompt.

    Attributes:
        num_prior_draws: number of prior draws behind the reference; 0 if all responses are listed.
        particles: K, number of responses for each step.
    """

    model: AlignmentModel
    prompts: Prompts
    num_prior_draws: int = 0
    particles: int = 64

    @cached_property
    def truth(self) -> Enumeration | None:
        """The exact posterior if responses can be listed."""
        return None if self.num_prior_draws else Enumeration(self.model, self.prompts)

    @cached_property
    def sample(self) -> PriorSample:
        """All responses if they can be listed; else prior draws, some of them of the posterior."""
        if self.truth is not None:
            return PriorSample.of_enumeration(self.truth)
        problem, bound = (self.model, self.prompts), self.model.log_likelihood_bound(self.prompts)
        with random_state.isolated(0):
            return sample_prior(*problem, self.num_prior_draws, log_likelihood_bound=bound)


def reference(world: World) -> str:
    """One line on the posterior of a world."""
    sample = world.sample
    reward = sample.mean(sample.log_likelihood, sample.log_likelihood).times(world.model.beta)
    text = f"log Z {sample.log_z()}; of the posterior, E[r] {reward}"
    if world.truth is None:
        return text
    return f"{text}, entropy {entropy(world.truth.log_posterior).mean().item():.3f}"


@cache
def eight_tokens() -> World:
    """A random GPT-2 of 8 tokens, 400 responses of at most 3 tokens; beta is 0.25.

    The reward is the share of positions with token 4 or 6.
    """
    prior = untrained_prior(8, max_new_tokens=3, initializer_range=0.15, seed=2)

    def share(response: torch.Tensor, is_token: torch.Tensor) -> torch.Tensor:
        return (torch.isin(response, response.new_tensor([4, 6])) & is_token).double().mean(-1)

    reward = TokenReward(share, prior, upper_bound=1.0)
    return World(AlignmentModel(prior, reward, beta=0.25), prior.encode([""]))


@cache
def two_modes() -> World:
    """A random GPT-2 of 6 tokens, 31 responses of at most 2 tokens, two likely; beta is 0.16.

    The reward is 1 for w2 w2, 0.92 for w4 w4, else 0. A distribution of independent tokens with
    both modes also has their crossings, w2 w4 and w4 w2.
    """
    prior = untrained_prior(6, max_new_tokens=2, initializer_range=0.02, seed=0)

    def agree(response: torch.Tensor, is_token: torch.Tensor) -> torch.Tensor:
        heavy, light = ((response == word).all(-1).double() for word in MODES)
        return heavy + 0.92 * light

    reward = TokenReward(agree, prior, upper_bound=1.0)
    return World(AlignmentModel(prior, reward, beta=0.16), prior.encode([""]))


@cache
def film_reviews(num_prior_draws: int = 8192) -> World:
    """The embedded prior after "The film was": 12 tokens, temperature 0.7; VADER, beta 0.1."""
    prior = load_prior("film-reviews", max_new_tokens=12, temperature=0.7)
    model = AlignmentModel(prior, REWARDS["vader"](prior), beta=0.1)
    return World(model, prior.encode(["The film was"]), num_prior_draws=num_prior_draws)


WORLDS: dict[str, Callable[[], World]] = {
    function.__name__.replace("_", "-"): function
    for function in (eight_tokens, two_modes, film_reviews)
}
WorldName: TypeAlias = Literal[tuple(WORLDS)]  # type: ignore[valid-type]
