"""Suffix move: a Metropolis-Hastings move that redraws the end of a response.

    s ~ uniform over the tokens of x,   x' ~ q(. | x_<s)
    accepted with probability min(1, w(x') |x| / (w(x) |x'|)),   w = pi / q

The move leaves pi invariant, whatever q. All probabilities of the proposal cancel but that of s,
1/|x| and 1/|x'|: without the lengths, responses would be too frequent in proportion to |x|. With
s = 0 always, the move is independence Metropolis-Hastings (Tierney 1994, section 2.3.3), without
lengths.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from inference.estimate import check_numbers
from model import ResponseDistribution
from model.common.checks import as_given, boolean, function, instance


@torch.no_grad()
def suffix_move(
    distribution: ResponseDistribution,
    response: Tensor,
    log_weight: Tensor,
    score: Callable[[Tensor], Tensor],
    *,
    temper: Callable[[Tensor], Tensor] = lambda log_weight: log_weight,
    whole: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Move every chain once, each on its own.

    Args:
        distribution: q, the source of new tokens.
        response: `[..., N, T]`, states of the chains.
        log_weight: `[..., N]`, log pi(x)/q(x) of the states, or what `temper` turns into it,
            nats, up to a constant for each prompt.
        score: `log_weight` of new responses, `[..., N, T]` -> `[..., N]`, nats.
        temper: function of `log_weight` that returns log pi(x)/q(x). A chain where this is -inf, a
            state without mass, accepts every move.
        whole: True to redraw the whole response, s = 0.

    Returns:
        New states `[..., N, T]`, their log weights `[..., N]`, and the accepted moves, booleans
        `[..., N]`, equal redraws included.
    """
    instance("distribution", distribution, ResponseDistribution)
    instance("response", response, Tensor)
    boolean("whole", whole)
    log_weight = _checked("log_weight", log_weight, response)
    length = distribution.space.is_token(response).sum(-1)  # [..., N], end id included
    start = torch.zeros_like(length)
    if not whole:
        uniform = torch.rand(length.shape, dtype=torch.float64, device=length.device)
        start = (uniform * length).long().clamp_(max=length - 1)
    proposed = distribution.sample_suffix(response, start)
    proposed_log_weight = function("score", score, why="of responses")(proposed)
    proposed_log_weight = _checked("the log weight of a score", proposed_log_weight, response)
    log_pi, proposed_log_pi = (
        _checked("what temper returned", temper(value), response)
        for value in (log_weight, proposed_log_weight)
    )
    log_ratio = proposed_log_pi - log_pi
    if not whole:
        new_length = distribution.space.is_token(proposed).sum(-1)
        log_ratio = log_ratio + length.double().log() - new_length.double().log()
    # at -inf the ratio is NaN or +inf; pi has no mass there, so that all moves leave pi invariant
    accepted = (torch.rand_like(log_ratio).log() < log_ratio) | log_pi.isneginf()
    response = torch.where(accepted[..., None], proposed, response)
    return response, torch.where(accepted, proposed_log_weight, log_weight), accepted


def _checked(name: str, value: Tensor, response: Tensor) -> Tensor:
    """Numbers of responses, `[..., N]`, in float64; refused by name otherwise."""
    return as_given(name, check_numbers(name, value), response[..., 0])
