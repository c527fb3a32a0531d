"""Repetition within a response as a penalty: the share of repeated runs of n tokens.

    r(x) = (number of different runs of n tokens) / (number of all runs) - 1

0 without a repetition, down to almost -1; distinct-n of the response (Li et al. 2016, arXiv
1510.03055) minus 1. Penalties of repeated runs keep reinforcement learning with rewards for long
reasoning from repetitive text (Yeo et al. 2025, arXiv 2502.03373, appendix C.2).
"""

import torch
from torch import Tensor

from model.common.checks import instance, whole_number
from model.prior.language_model import LanguageModel
from model.prior.prompts import Prompts


class Repetition:
    """r(x) = distinct-n - 1 of the tokens of x without its end; 0 for fewer than n tokens.

        reward = WeightedSum({"right": (1.0, accuracy), "repetition": (0.5, Repetition(prior))})

    Args:
        language_model: knows where a response ends.
        n: number of tokens in a run.
    """

    upper_bound = 0.0

    def __init__(self, language_model: LanguageModel, n: int = 3) -> None:
        self.language_model = instance("language_model", language_model, LanguageModel)
        longest, why = language_model.max_new_tokens, "tokens, of which a response has no more"
        self.n = whole_number("n", n, at_most=longest, why=why)

    def __call__(self, prompts: Prompts, response: Tensor) -> Tensor:
        """Reward of responses `[..., N, T]`, `[..., N]`, float64."""
        space = self.language_model.space
        space.check(prompts, response)
        lengths = space.is_word(response).sum(-1).flatten().tolist()
        rows = response.reshape(-1, response.shape[-1]).tolist()
        shares = [self._share(row[:length]) for row, length in zip(rows, lengths, strict=True)]
        reward = torch.tensor(shares, dtype=torch.float64, device=response.device)
        return reward.view(response.shape[:-1])

    def _share(self, ids: list[int]) -> float:
        """Minus the share of repeated runs."""
        runs = list(zip(*(ids[start:] for start in range(self.n)), strict=False))
        return len(set(runs)) / len(runs) - 1 if runs else 0.0
