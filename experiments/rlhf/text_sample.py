"""Texts of the prior with gold rewards: preferences between them, and posteriors at many betas."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from inference import PriorSample, sample_prior
from model import AlignmentModel, LanguageModel
from model.preferences import FIRST, Preference, simulate

MAX_ROUNDS = 1000
"""Rounds in which pairs are drawn. Each round draws as many pairs as are requested."""

Gold = Callable[[list[str]], Tensor]
"""Takes M texts, returns their gold rewards `[M]`."""


@dataclass(frozen=True)
class TextSample:
    """A weighted sample of the prior for one prompt: M texts, responses, and gold rewards `[M]`."""

    prompt: str
    texts: list[str]
    responses: PriorSample
    gold: Tensor

    @classmethod
    def of(
        cls,
        prior: LanguageModel,
        prompt: str,
        gold: Gold,
        num_draws: int | None = None,
        purpose: str | None = None,
    ) -> TextSample:
        """Independent draws from the prior; by default every response with its probability.

        `purpose` is the use of the draws for learning, see `sample_prior`.

        Raises:
            NotEnumerableError: if every response is requested and there are more than a million.
        """
        if num_draws is None:
            prior.space.check_enumerable()
            num_draws = prior.space.num_responses
        prompts = prior.encode([prompt])
        model = AlignmentModel(prior, {}, beta=1.0)
        sample = sample_prior(model, prompts, num_draws, purpose=purpose)
        texts = [row[0] for row in prior.decode(sample.response, prompts)]
        names = "log_prior_weight", "log_likelihood"
        weights = {name: getattr(sample, name).cpu() for name in names}
        return cls(prompt, texts, replace(sample, **weights), gold(texts))

    @property
    def prob(self) -> Tensor:
        """`[M]`, sums to 1: p0 of every response, or 1/M for each of M draws."""
        return self.responses.log_prior_weight[:, 0].softmax(0)

    @property
    def prior_gold(self) -> float:
        """Expected gold reward under the prior."""
        return (self.prob @ self.gold).item()

    def correlation(self, reward: Tensor) -> float:
        """Correlation of a reward `[M]` with the gold reward, under the prior."""
        prob = self.prob
        reward, gold = (values - prob @ values for values in (reward, self.gold))
        return ((prob @ (reward * gold)) / ((prob @ reward**2) * (prob @ gold**2)).sqrt()).item()

    def preferences(
        self, num_pairs: int, flip: float = 0.0, without: Iterable[Preference] = ()
    ) -> list[Preference]:
        """Pairs of texts from the prior, with Bradley-Terry labels on their gold rewards.

        The texts of a pair differ, and are not empty. No pair is in `without`. A label is turned
        around with probability `flip`.

        Raises:
            ValueError: if too few such pairs are drawn.
        """
        judged = {frozenset(preference.texts) for preference in without}
        first, second = self._pairs(num_pairs, judged)
        is_first = simulate(self.gold[first], self.gold[second], flip=flip) == FIRST
        chosen = torch.where(is_first, first, second).tolist()
        rejected = torch.where(is_first, second, first).tolist()
        responses = [text.removeprefix(self.prompt) for text in self.texts]
        pairs = zip(chosen, rejected, strict=True)
        return [Preference(self.prompt, responses[i], responses[j]) for i, j in pairs]

    def _pairs(self, num_pairs: int, judged: set[frozenset[str]]) -> tuple[Tensor, Tensor]:
        pairs: list[list[int]] = []
        for _ in range(MAX_ROUNDS):
            drawn = torch.multinomial(self.prob, 2 * num_pairs, replacement=True).view(-1, 2)
            for pair in drawn.tolist():
                texts = frozenset(self.texts[index] for index in pair)
                if len(texts) == 2 and texts not in judged and "" not in texts:
                    pairs.append(pair)
            if len(pairs) >= num_pairs:
                first, second = torch.tensor(pairs[:num_pairs]).T
                return first, second
        raise ValueError(
            f"of {MAX_ROUNDS * num_pairs} pairs of responses after {self.prompt!r} only "
            f"{len(pairs)} are of different texts not judged before, expected {num_pairs}: "
            "raise the temperature, or draw more or longer responses"
        )


class Curve(NamedTuple):
    """Posteriors of one proxy by rising KL, each field `[B]`; KL in nats, sample size in draws.

    With all responses listed, the effective sample size is infinite, and the curve reaches the
    limit beta -> 0, where p* is one response.
    """

    beta: Tensor
    kl: Tensor
    gold: Tensor
    proxy: Tensor
    effective_sample_size: Tensor

    def gold_at(self, kl: float) -> float:
        """Gold reward at a KL in nats, interpolated; NaN beyond a curve without limit."""
        beyond = self.gold[-1].item() if self.has_limit else math.nan
        return float(np.interp(kl, self.kl.numpy(), self.gold.numpy(), left=math.nan, right=beyond))

    @property
    def has_limit(self) -> bool:
        """True if all responses are listed, so that no beta is left out."""
        return bool(self.effective_sample_size.isinf().all())

    @property
    def peak(self) -> int:
        """Index of the highest gold reward."""
        return int(self.gold.argmax())


def sweep(
    sample: TextSample,
    rewards: Tensor,
    aggregate: Callable[[Tensor, float], Tensor],
    betas: Tensor,
    min_effective: float = 100.0,
) -> Curve:
    """Compute the posterior of a proxy for every beta.

    Args:
        sample: M responses.
        rewards: `[S, M]`, draws of the proxy.
        aggregate: log likelihood of the S rewards, a value of `AGGREGATIONS`.
        betas: `[B]`, rewards per nat.
        min_effective: smallest effective sample size at which a posterior is kept, in draws.

    Raises:
        ValueError: if no posterior is kept.
    """
    responses, points, most = sample.responses, [], 0.0
    for beta in betas.tolist():
        log_weight = aggregate(rewards, beta)[:, None]
        size = responses.effective_sample_size(log_weight)
        effective = math.inf if size is None else size
        most = max(most, effective)
        if effective >= min_effective:
            kl = responses.kl(log_weight).value
            gold = responses.mean(log_weight, sample.gold[:, None]).value
            proxy = responses.mean(log_weight, beta * log_weight).value
            points.append([beta, kl, gold, proxy, effective])
    if not points:
        raise ValueError(
            f"none of {len(betas)} betas has a posterior worth min_effective = {min_effective:g} "
            f"draws, the most is {most:.1f} of {len(sample.texts)}: draw more, trust fewer, or "
            "sweep larger betas"
        )
    columns = torch.tensor(points, dtype=torch.float64)
    return Curve(*columns[columns[:, 1].argsort()].T)
