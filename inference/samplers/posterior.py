"""What a sampler returns: weighted responses that stand for the posterior.

E_p*[f(x)] is estimated by sum_m W_m f(x_m),   W = softmax(log_weight) over the M responses to each prompt
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from inference.estimate import check_draws, check_numbers, expectation
from inference.importance_weights import effective_sample_size
from model.common.checks import instance, whole_number
from model.common.thread_lock import one_thread


@dataclass(frozen=True)
class Posterior:
    """M weighted responses to each of N prompts, and what the sampler can say of them.

    Attributes:
        response: `[M, N, T]`, token ids.
        log_weight: `[M, N]`, nats, up to a constant for each prompt; all 0 where responses count alike, -inf where one
            does not count.
        log_z: `[N]`, nats, the estimate of log Z; None where the sampler has none.
        diagnostics: by name, numbers for each prompt `[N]`; the sampler says which.

    Raises:
        NotANumberError: if a log weight or log_z is NaN or +inf.
        ValueError: if the shapes do not belong together.
    """

    response: Tensor
    log_weight: Tensor
    log_z: Tensor | None
    diagnostics: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        instance("response", self.response, Tensor)
        check_draws("log_weight", self.log_weight)
        if self.log_weight.shape != self.response.shape[:-1]:
            raise ValueError(
                f"log_weight has shape {tuple(self.log_weight.shape)} and response {tuple(self.response.shape)}, expected "
                "[M, N] and [M, N, T]"
            )
        if (
            self.log_z is not None
            and check_numbers("log_z", self.log_z).shape != self.log_weight.shape[1:]
        ):
            raise ValueError(
                f"log_z has shape {tuple(self.log_z.shape)}, expected {tuple(self.log_weight.shape[1:])}"
            )

    @property
    def probability(self) -> Tensor:
        """The weights, normalised over the responses to each prompt, `[M, N]`.

        Raises:
            NoSupportError: if all weights of a prompt are 0.
        """
        if bool(self.log_weight.isneginf().all(0).any()):
            raise NoSupportError(
                f"all {len(self.log_weight)} responses to a prompt have weight 0: there is nothing to average"
            )
        return self.log_weight.double().softmax(0)

    @property
    def effective_sample_size(self) -> Tensor:
        """(sum w)^2 / sum w^2, `[N]`."""
        return effective_sample_size(self.log_weight)

    def mean(self, values: Tensor) -> Tensor:
        """E_p*[f], `[N]`, for f at the responses `[M, N]`; where a response has no weight its f may be anything.

        Raises:
            NotANumberError: if f is NaN where there is weight.
        """
        if instance("values", values, Tensor).shape != self.log_weight.shape:
            raise ValueError(
                f"values have shape {tuple(values.shape)}, expected {tuple(self.log_weight.shape)}: one a response"
            )
        return check_numbers(
            "the mean of values", expectation(self.probability, values), infinite=True
        )

    @one_thread
    def resample(self, num_samples: int) -> Tensor:
        """Draw responses in proportion to their weights, with replacement, `[num_samples, N, T]`."""
        num_samples = whole_number("num_samples", num_samples)
        picked = torch.multinomial(self.probability.T, num_samples, replacement=True).T  # [S, N]
        return self.response.gather(0, picked[..., None].expand(-1, -1, self.response.shape[-1]))


class NoSupportError(ValueError):
    """Every response that a sampler drew is impossible, so that it has nothing to return."""


def check_support(log_weight: Tensor, texts: tuple[str, ...], fix: str) -> None:
    """Raise `NoSupportError` if all M weights `[M, N]` of a prompt are -inf. `fix` says what to do about it.

    Raises:
        NotANumberError: if a weight is NaN or +inf.
    """
    check_numbers("log weight", log_weight)
    for text, dead in zip(texts, log_weight.isneginf().all(0).tolist(), strict=True):
        if dead:
            raise NoSupportError(
                f"all {len(log_weight)} responses drawn for {text!r} are impossible (weight 0): {fix}"
            )
