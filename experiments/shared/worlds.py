"""The posteriors that algorithms and guides are compared on: two that can be enumerated, and one of English text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from experiments.shared.priors import load_prior
from experiments.shared.rewards import REWARDS
from guides import FineTuned
from inference import Enumeration, PriorSample, random_state, sample_prior
from model import AlignmentModel, LanguageModel, Prompts, TokenReward

END, WANTED = 0, (4, 6)
MODES = (2, 4)
"""Words of `two_modes`, the heavier mode's first."""


@dataclass(frozen=True)
class World:
    """A posterior, and the settings of a fit that suit it.

    Attributes:
        model: prior and evidence.
        prompts: one prompt.
        particles: K, responses a step.
        learning_rate: peak of Adam's cosine.
        clip_norm: of the gradient.
        num_prior_draws: behind the reference, where responses cannot be listed.
    """

    model: AlignmentModel
    prompts: Prompts
    particles: int
    learning_rate: float
    clip_norm: float | None
    num_prior_draws: int = 0

    @cached_property
    def truth(self) -> Enumeration | None:
        """The exact posterior, where responses can be listed."""
        return None if self.num_prior_draws else Enumeration(self.model, self.prompts)

    @cached_property
    def prior_sample(self) -> PriorSample | None:
        """The reference elsewhere: log Z from all draws of the prior, exact posterior samples from those accepted."""
        if not self.num_prior_draws:
            return None
        bound = self.model.log_likelihood_bound(self.prompts)
        with random_state.isolated(0):
            return sample_prior(
                self.model, self.prompts, self.num_prior_draws, log_likelihood_bound=bound
            )


def moved_guide(prior: LanguageModel, scale: float = 0.02) -> FineTuned:
    """A guide away from the prior: its weights with Gaussian noise on them."""
    guide = FineTuned(prior)
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return guide


def numbered_words(size: int, **settings: str) -> PreTrainedTokenizerFast:
    """One id a word: `<end>` is 0, the words are w1, w2, ...; `settings` are the tokenizer's."""
    tokenizer = Tokenizer(
        WordLevel({"<end>": END} | {f"w{i}": i for i in range(1, size)}, unk_token="<end>")
    )
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **settings)


@cache
def eight_tokens(seed: int = 2) -> World:
    """400 responses: a random GPT-2 of 8 tokens, at most 3 a response; r is the share of positions with 4 or 6, beta 0.25.

    Args:
        seed: of the weights, which are the whole prior. How far the prior is from its posterior depends on them.
    """
    prior = _random_prior(vocab_size=8, max_new_tokens=3, initializer_range=0.15, seed=seed)

    def share(response: torch.Tensor, is_token: torch.Tensor) -> torch.Tensor:
        wanted = torch.isin(response, torch.tensor(WANTED, device=response.device)) & is_token
        return wanted.double().mean(-1)

    model = AlignmentModel(prior, TokenReward(share, prior, upper_bound=1.0), beta=0.25)
    return World(model, prior.encode([""]), particles=64, learning_rate=1e-3, clip_norm=1.0)


@cache
def two_modes() -> World:
    """31 responses, two of them likely: a random GPT-2 of 6 tokens, 2 a response; r is 1 where both are w2, 0.92 where both
    are w4, else 0; beta 0.16.

    A law of independent tokens cannot have both modes without their crossings, w2 w4 and w4 w2.
    """
    prior = _random_prior(vocab_size=6, max_new_tokens=2, initializer_range=0.02, seed=0)

    def agree(response: torch.Tensor, is_token: torch.Tensor) -> torch.Tensor:
        heavy, light = ((response == word).all(-1).double() for word in MODES)
        return heavy + 0.92 * light

    model = AlignmentModel(prior, TokenReward(agree, prior, upper_bound=1.0), beta=0.16)
    return World(model, prior.encode([""]), particles=64, learning_rate=1e-3, clip_norm=1.0)


def _random_prior(
    vocab_size: int, max_new_tokens: int, initializer_range: float, seed: int
) -> LanguageModel:
    """A GPT-2 that was never trained."""
    sizes = {"vocab_size": vocab_size, "n_positions": 16, "n_embd": 64, "n_layer": 2, "n_head": 2}
    special = {"bos_token_id": END, "eos_token_id": END, "pad_token_id": END}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = GPT2LMHeadModel(
            GPT2Config(**sizes, initializer_range=initializer_range, **special)
        )
    tokenizer = numbered_words(vocab_size, bos_token="<end>", eos_token="<end>", pad_token="<end>")
    return LanguageModel(network, tokenizer, max_new_tokens=max_new_tokens)


@cache
def film_reviews(num_prior_draws: int = 8192) -> World:
    """The embedded prior after "The film was", rewarded for VADER sentiment, beta 0.1, 12 tokens at temperature 0.7."""
    prior = load_prior(
        "film-reviews", max_new_tokens=12, temperature=0.7, dtype="float32", device="cpu"
    )
    model = AlignmentModel(prior, REWARDS["vader"](prior), beta=0.1)
    prompts = prior.encode(["The film was"])
    return World(
        model,
        prompts,
        particles=64,
        learning_rate=8e-5,
        clip_norm=None,
        num_prior_draws=num_prior_draws,
    )


WORLDS: dict[str, Callable[[], World]] = {
    "eight-tokens": eight_tokens,
    "film-reviews": film_reviews,
}
"""By name, those on which algorithms are compared."""

if TYPE_CHECKING:
    WorldName: TypeAlias = str
else:
    WorldName = Literal[tuple(WORLDS)]
