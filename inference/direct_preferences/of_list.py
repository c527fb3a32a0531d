"""Likelihoods of lists of responses with scores: DPO of Plackett and Luce, InfoNCA.

| name | log-likelihood of a list, r = beta log q/p0 | source |
|---|---|---|
| `plackett-luce` | log P of the order of the scores, `log_ranking` | arXiv 2305.18290, appendix |
| `info-nca` | sum_k label_k log softmax(r)_k, label = softmax(score/scale) | arXiv 2402.05369 |

On lists of draws without end a rich guide has the maximum p* at beta: with `plackett-luce` for the
reward whose rankings the judge draws, with `info-nca` for the reward score/scale (enumerated in the
tests). A list of two is a pair, on which `plackett-luce` is `dpo` without ties: a tie is an order
that was not recorded, of probability 1, and half a preference for each in `dpo`. A ranking of the
best response alone is P(best) = softmax(r): `Ranking.top(1)`. All pairs of a list, the usual
substitute, are `Ranking.preferences()`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from inference.direct_preferences.labels import pair
from model.common.checks import positive
from model.preferences import FIRST, SECOND, log_ranking


@dataclass(frozen=True)
class OfList:
    """A likelihood of lists.

    Attributes:
        of_scores: function of rewards in nats and scores, `[C, R]` each, -inf at places without a
            response: log-likelihoods `[C]`, nats.
        reads_order: true if the order of the scores is all that counts, so that pairs are lists.
    """

    of_scores: Callable[[Tensor, Tensor], Tensor]
    reads_order: bool = True

    def __call__(self, rewards: Tensor, outcome: Tensor, beta: float) -> Tensor:
        if outcome.dim() == 1:
            pair(rewards)  # refuses labels
            if not self.reads_order:
                raise ValueError("the likelihood reads scores, which pairs have not: use `dpo`")
            outcome = torch.stack([outcome != SECOND, outcome != FIRST])
        score, reward = outcome.T.to(rewards), beta * rewards.T
        return self.of_scores(reward.masked_fill(score == -torch.inf, -torch.inf), score)


def info_nca(scale: float = 1.0) -> OfList:
    """InfoNCA: the cross entropy of softmax(r) from the labels softmax(score/scale).

    For two responses the labels are those of `dpo` in the mean over judges with the reward
    score/scale. Ranks and nulls of a file are no rewards: minus the rank, and one less than the
    lowest score, would be read as such.
    """
    size = positive("scale", scale)

    def of_scores(reward: Tensor, score: Tensor) -> Tensor:
        is_given, label = score > -torch.inf, (score / size).softmax(-1)
        return (label * reward.log_softmax(-1).masked_fill(~is_given, 0.0)).sum(-1)

    return OfList(of_scores, reads_order=False)


plackett_luce = OfList(log_ranking)
