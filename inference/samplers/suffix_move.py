"""Redraw the end of a response: a Metropolis-Hastings move that an autoregressive model makes cheap.

    s ~ uniform over the tokens of x,   x' ~ q(. | x_<s),   accepted with probability
    min(1, w(x') |x| / (w(x) |x'|)),   w = pi / q

The move leaves pi invariant, whatever q. Of the proposal's probabilities all cancels but that of s, which is 1/|x| one way and
1/|x'| the other: without the lengths, long responses would come out too often, in proportion to |x|. With s = 0 always, it is
independence Metropolis-Hastings (Tierney 1994, section 2.3.3), and the lengths play no part.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from inference.estimate import check_numbers
from model import ResponseDistribution
from model.common.checks import function, instance


@torch.no_grad()
def suffix_move(
    distribution: ResponseDistribution,
    response: Tensor,
    log_weight: Tensor,
    score: Callable[[Tensor], Tensor],
    *,
    whole: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """One move of every chain, each on its own.

    Args:
        distribution: q, from which what is redrawn is drawn.
        response: `[..., N, T]`, where the chains are.
        log_weight: `[..., N]`, log pi(x)/q(x) there, nats, up to a constant for each prompt. A chain at -inf, where pi has no
            mass, goes wherever q sends it.
        score: the same at new responses, `[..., N, T]` -> `[..., N]`.
        whole: redraw the whole response, s = 0.

    Returns:
        The new responses `[..., N, T]`, their log_weight `[..., N]`, and which moves were accepted `[..., N]`; a chain whose
        move was not stays where it was. A redraw that gives the same response again counts as accepted.
    """
    instance("distribution", distribution, ResponseDistribution)
    instance("response", response, Tensor)
    log_weight = check_numbers("log_weight", log_weight)
    if log_weight.shape != response.shape[:-1]:
        raise ValueError(
            f"log_weight has shape {tuple(log_weight.shape)}, expected {tuple(response.shape[:-1])}"
        )
    length = distribution.space.is_token(response).sum(
        -1
    )  # [..., N, T] -> [..., N], end id included
    start = torch.zeros_like(length) if whole else _uniform_below(length)
    proposed = distribution.sample_suffix(response, start)
    proposed_log_weight = check_numbers(
        "the log weight of a score", function("score", score, why="of responses")(proposed)
    )
    log_ratio = proposed_log_weight - log_weight
    if not whole:
        log_ratio = (
            log_ratio
            + length.double().log()
            - distribution.space.is_token(proposed).sum(-1).double().log()
        )
    # at -inf the ratio is NaN or +inf: pi has no mass there, so that any move from it leaves pi as it was
    accepted = (torch.rand_like(log_ratio).log() < log_ratio) | log_weight.isneginf()
    response = torch.where(accepted[..., None], proposed, response)
    return response, torch.where(accepted, proposed_log_weight, log_weight), accepted


def _uniform_below(length: Tensor) -> Tensor:
    """A whole number from 0 to length - 1, for each of `length`."""
    uniform = torch.rand(length.shape, dtype=torch.float64, device=length.device)
    return (uniform * length).long().clamp_(max=length - 1)
