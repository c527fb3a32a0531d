"""The posteriors of a proxy reward without training: the same responses, weighted anew by exp(r/beta).

    p*(x) ~ p0(x) exp(r(x)/beta);   gold = E_p*[r_gold],   proxy = E_p*[r],   KL(p* || p0) = E_p*[log p*(x)/p0(x)]

Sums over all responses where they can be listed; over a bank of prior draws, self-normalised, where not. M draws cannot show
what is further from the prior than about log M nats. Their effective sample size says where the weights hang on few of them,
but not what was never drawn: near its end such a curve may be too low in KL and in gold reward.
"""

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
"""In which pairs are looked for; each gives as many as are wanted, but for those that are no use."""

Gold = Callable[[list[str]], Tensor]
"""Takes M texts, returns their true rewards `[M]`."""


@dataclass(frozen=True)
class Bank:
    """Responses to one prompt that stand for the prior.

    Attributes:
        prompt: what they continue.
        texts: M whole texts.
        weighed: M responses with their weights under the prior.
        gold: `[M]`, true rewards.
    """

    prompt: str
    texts: list[str]
    weighed: PriorSample
    gold: Tensor

    @classmethod
    def of(
        cls, prior: LanguageModel, prompt: str, gold: Gold, num_draws: int | None = None
    ) -> Bank:
        """So many independent draws from the prior; by default every response with its probability.

        Raises:
            NotEnumerableError: if every response is wanted and there are more than a million.
        """
        if num_draws is None:
            prior.space.check_enumerable()
        prompts, model = prior.encode([prompt]), AlignmentModel(prior, {}, beta=1.0)
        found = sample_prior(
            model, prompts, prior.space.num_responses if num_draws is None else num_draws
        )
        texts = [row[0] for row in prior.decode(found.response, prompts)]
        weighed = replace(
            found,
            log_prior_weight=found.log_prior_weight.cpu(),
            log_likelihood=found.log_likelihood.cpu(),
        )
        return cls(prompt, texts, weighed, gold(texts))

    @property
    def prob(self) -> Tensor:
        """`[M]`, sums to 1: p0 of every response, or 1/M for each of M draws."""
        return self.weighed.log_prior_weight[:, 0].softmax(0)

    @property
    def prior_gold(self) -> float:
        """Expected gold reward under the prior."""
        return (self.prob @ self.gold).item()

    def preferences(
        self, count: int, flip: float = 0.0, without: Iterable[Preference] = ()
    ) -> list[Preference]:
        """Pairs of different texts from the prior, none empty or judged before, with labels by Bradley-Terry on their gold.

        Raises:
            ValueError: if there are too few of them.
        """
        first, second = self._pairs(count, {frozenset(preference.texts) for preference in without})
        outcome = simulate(self.gold[first], self.gold[second], flip=flip)
        chosen, rejected = (
            torch.where(outcome == FIRST, first, second),
            torch.where(outcome == FIRST, second, first),
        )
        return [
            Preference(self.prompt, self._response(i), self._response(j))
            for i, j in zip(chosen, rejected, strict=True)
        ]

    def _pairs(self, count: int, known: set[frozenset[str]]) -> tuple[Tensor, Tensor]:
        kept: list[tuple[int, int]] = []
        for _ in range(MAX_ROUNDS):
            drawn = torch.multinomial(self.prob, 2 * count, replacement=True).view(-1, 2).tolist()
            pairs = [(i, j, frozenset((self.texts[i], self.texts[j]))) for i, j in drawn]
            kept += [
                (i, j)
                for i, j, texts in pairs
                if len(texts) == 2 and texts not in known and "" not in texts
            ]
            if len(kept) >= count:
                break
        else:
            raise ValueError(
                f"of {MAX_ROUNDS * count} pairs of responses after {self.prompt!r} only {len(kept)} are of different texts not "
                f"judged before, expected {count}: raise the temperature, or draw more or longer responses"
            )
        first, second = torch.tensor(kept[:count]).T
        return first, second

    def _response(self, index: Tensor) -> str:
        return self.texts[int(index)].removeprefix(self.prompt)

    def correlation(self, reward: Tensor) -> float:
        """Of a reward `[M]` with the gold one, under the prior."""
        prob = self.prob
        reward, gold = (values - prob @ values for values in (reward, self.gold))
        return ((prob @ (reward * gold)) / ((prob @ reward**2) * (prob @ gold**2)).sqrt()).item()


class Curve(NamedTuple):
    """Posteriors of one proxy over B values of beta, by rising KL; those that cannot be trusted are left out.

    Where all responses are known, it goes on to the limit beta -> 0, a posterior that is one response, and stays there.
    """

    beta: Tensor
    kl: Tensor
    gold: Tensor
    proxy: Tensor
    effective_sample_size: Tensor

    def gold_at(self, kl: float) -> float:
        """Gold reward at a distance from the prior, interpolated; beyond the limit beta -> 0 that of the limit, beyond what can
        be trusted NaN."""
        beyond = self.gold[-1].item() if self.has_limit else math.nan
        return float(np.interp(kl, self.kl.numpy(), self.gold.numpy(), left=math.nan, right=beyond))

    @property
    def has_limit(self) -> bool:
        """Whether it is of all responses, so that nothing is left out."""
        return bool(self.effective_sample_size.isinf().all())

    @property
    def peak(self) -> int:
        """Where gold reward is highest."""
        return int(self.gold.argmax())


def sweep(
    bank: Bank,
    rewards: Tensor,
    aggregate: Callable[[Tensor, float], Tensor],
    betas: Tensor,
    min_effective: float = 100.0,
) -> Curve:
    """The posterior of a proxy for every beta.

    Args:
        bank: M responses.
        rewards: `[S, M]`, draws of the proxy.
        aggregate: log likelihood of the S rewards, a value of `AGGREGATIONS`.
        betas: `[B]`.
        min_effective: a bank of draws is trusted while its weights are worth so many.

    Raises:
        ValueError: if the bank can be trusted at none of the betas.
    """
    weighed, points, most = bank.weighed, [], 0.0
    for beta in betas.tolist():
        log_likelihood = aggregate(rewards, beta)
        log_weight, reward = log_likelihood[:, None], beta * log_likelihood
        size = weighed.effective_sample_size(log_weight)
        effective = math.inf if size is None else size
        most = max(most, effective)
        if effective >= min_effective:
            gold, proxy = (
                weighed.mean(log_weight, values[:, None]).value for values in (bank.gold, reward)
            )
            points.append([beta, weighed.kl(log_weight).value, gold, proxy, effective])
    if not points:
        raise ValueError(
            f"none of {len(betas)} betas has a posterior worth min_effective = {min_effective:g} draws, the most is {most:.1f} "
            f"of {len(bank.texts)}: draw more, trust fewer, or sweep larger betas"
        )
    columns = torch.tensor(points, dtype=torch.float64)
    return Curve(*columns[columns[:, 1].argsort()].T)
