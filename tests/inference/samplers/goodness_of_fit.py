"""Small model whose reward has levels, ties and impossible responses, and a test of frequencies."""

import math

import torch
from scipy.stats import chi2, norm
from torch import Tensor

from model import AlignmentModel, LanguageModel, TokenReward

GRADE = {6: 0.5, 7: 1.0, 8: -1.0, 9: -0.5}  # very, good, bad, dull; other words count nothing


def graded_model(
    prior: LanguageModel,
    *,
    beta: float = 1.0,
    impossible: int | None = None,
    offset: Tensor | None = None,
) -> AlignmentModel:
    """r(x) = sum of the grades of the words of x, plus `offset` `[N]`; -inf with `impossible`."""
    grades = torch.tensor([GRADE.get(word, 0.0) for word in range(10)], dtype=torch.float64)

    def reward(response: Tensor, is_token: Tensor) -> Tensor:
        value = (grades[response] * is_token).sum(-1)
        if offset is not None:
            value = value + offset
        return (
            value
            if impossible is None
            else value.masked_fill((response == impossible).any(-1), -math.inf)
        )

    return AlignmentModel(prior, TokenReward(reward, prior, upper_bound=2.0), beta)


def nothing_for_the_second(prior: LanguageModel) -> AlignmentModel:
    """Every response to the second prompt is impossible."""
    return graded_model(prior, offset=torch.tensor([0.0, -math.inf]))


def counts(response: Tensor, support: Tensor) -> Tensor:
    """Number of times that each of S responses `[S, N, T]` occurs among M `[M, N, T]`: `[S, N]`."""
    return torch.stack([(response == row).all(-1).sum(0) for row in support])


def misfit(observed: Tensor, prob: Tensor) -> Tensor:
    """Normal deviate as improbable as chi-square, `[N]`, for counts and probabilities `[S, N]`.

    Below 5 if `prob` is the distribution, for any degrees of freedom; infinite if an impossible
    response was observed. Cells with an expectation below 5 count as one cell.
    """
    z = []
    for of_one, p in zip(observed.double().T, prob.double().T, strict=True):
        expected = of_one.sum() * p
        rare = expected < 5
        o = torch.cat([of_one[~rare], of_one[rare].sum()[None]])
        e = torch.cat([expected[~rare], expected[rare].sum()[None]])
        o, e = o[e > 0], e[e > 0]
        chi_square, freedom = ((o - e).square() / e).sum(), len(e) - 1
        z.append(
            math.inf
            if bool(of_one[p == 0].any())
            else norm.isf(chi2.sf(chi_square.item(), freedom))
        )
    return torch.tensor(z, dtype=torch.float64)
