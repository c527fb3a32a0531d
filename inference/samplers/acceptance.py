"""Acceptance with probability w/b, and what is wrong with a bound that is exceeded."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from model.common.checks import finite

ROUNDING = 1e-6  # relative: a reward computed in float32 may exceed its bound by this much


class LooseBoundError(ValueError):
    """A response has more weight than the bound allows, so that what was accepted is not from the posterior."""


def check_log_bound(log_bound: object, num_prompts: int) -> float | Tensor:
    """log b, one or `[N]`, nats, if it is finite.

    Raises:
        ValueError: if it is not: NaN or +inf would accept nothing, and -inf bounds nothing; or there is another number of them.
    """
    if not isinstance(log_bound, Tensor):
        return finite("the bound on the log weights", log_bound)
    if log_bound.shape not in ((), (num_prompts,)):
        raise ValueError(
            f"the bound on the log weights has shape {tuple(log_bound.shape)}, expected one, or one for each of {num_prompts} "
            "prompts"
        )
    if log_bound.is_complex():
        raise ValueError(
            f"the bound on the log weights has type {log_bound.dtype}, expected real numbers"
        )
    odd = ~log_bound.isfinite()
    if bool(odd.any()):
        raise ValueError(
            f"the bound on the log weights is {log_bound[odd][0].item()}, expected finite numbers"
        )
    return log_bound


def accepted_at(log_weight: Tensor, log_bound: float | Tensor) -> Tensor:
    """Each of M draws with probability min(1, w/b). Booleans `[M, N]`, for log w `[M, N]` and log b, one or `[N]`, nats."""
    uniform = torch.rand(log_weight.shape, dtype=torch.float64, device=log_weight.device)
    return uniform.log() < log_weight - torch.as_tensor(log_bound, device=log_weight.device)


def check_bound(log_weight: Tensor, log_bound: float | Tensor, texts: Sequence[str]) -> None:
    """Raise `LooseBoundError` if a log weight `[M, N]` is above log b, one or `[N]`; `texts` are the N prompts."""
    bounds = torch.as_tensor(log_bound, dtype=torch.double).expand(len(texts)).tolist()
    for text, highest, bound in zip(texts, log_weight.amax(0).tolist(), bounds, strict=True):
        if highest > bound + ROUNDING * max(1.0, abs(bound)):
            raise LooseBoundError(
                f"a response to {text!r} has log weight {highest:.6g}, above the bound of {bound:.6g}, so that what is "
                "accepted would not be from the posterior: pass a larger `log_bound`, correct the evidence's `upper_bound`, "
                "or use `quasi_rejection_sampling`, which bears it"
            )
