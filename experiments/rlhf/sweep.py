"""Posteriors of a proxy reward at many betas, without training: one sample, reweighted for each.

    p*(x) ~ p0(x) exp(r(x)/beta)
    gold = E_p*[r_gold],   proxy = E_p*[r],   KL(p* || p0) = E_p*[log p*(x)/p0(x)]

The sums run over all responses if they can be listed, otherwise over draws of the prior, with
self-normalised weights. M draws cannot represent a posterior further from the prior than about
log M nats. The effective sample size shows when the weights depend on few draws; it does not show
which responses were never drawn. Near its end such a curve may be too low in KL and in gold reward.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from experiments.rlhf.text_sample import TextSample


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
        log_likelihood = aggregate(rewards, beta)
        log_weight = log_likelihood[:, None]
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
