"""Population: K weighted responses to each of N prompts, resampled where the weights degenerate.

Z_hat = product over resamplings of the mean weight since the resampling before
"""

from typing import ClassVar

import torch
from torch import Tensor

from inference.estimate import log_mean
from inference.importance_weights import effective_sample_size
from inference.samplers.posterior import Posterior
from inference.samplers.resampling import Scheme, ancestors_by, num_distinct


class Population:
    """Base of the states of sequential Monte Carlo. Tensors are `[K, N]` unless noted.

    Args:
        response: `[K, N, T]`, of weight 1 each.

    Attributes:
        log_weight: Weight since the last resampling of the prompt, nats.
        root: Number from 0 to K - 1 of the first ancestor.
        log_z: `[N]`, log of the mean weights removed by resampling, nats.
        num_resamplings: `[N]`.
    """

    inherited: ClassVar[tuple[str, ...]] = ("response", "root")
    """Names of the tensors `[K, N, ...]` that a particle has from its ancestor."""

    def __init__(self, response: Tensor) -> None:
        self.response = response
        shape, device = response.shape[:-1], response.device
        self.log_weight = torch.zeros(shape, dtype=torch.float64, device=device)
        self.root = torch.arange(len(response), device=device)[:, None].expand(shape)
        self.log_z = self.log_weight[0]
        self.num_resamplings = self.log_z.long()

    def weigh(self, log_increment: Tensor) -> None:
        """Multiply the weights; a weight of 0 remains 0 for every increment."""
        log_weight = self.log_weight + log_increment
        self.log_weight = torch.where(self.log_weight.isneginf(), -torch.inf, log_weight)

    def resample(
        self, scheme: Scheme, threshold: float, *, keep_first: bool = False
    ) -> Tensor | None:
        """Resample each prompt whose effective sample size is below `threshold` K.

        Args:
            scheme: One of `RESAMPLING`, or a function like those.
            threshold: Share of K; 0 never resamples, a number above 1 always does.
            keep_first: True to keep particle 0 in place, as in conditional sequential Monte Carlo;
                valid for `multinomial` alone (Andrieu, Doucet and Holenstein 2010, section 4.3).

        Returns:
            Ancestors `[K, N]`, of a prompt that was not resampled k itself; None if none was.
        """
        log_weight, num = self.log_weight, len(self.log_weight)
        resampled = effective_sample_size(log_weight) < threshold * num
        if not bool(resampled.any()):
            return None
        itself = torch.arange(num, device=log_weight.device)[:, None]
        ancestors = torch.where(resampled, ancestors_by(scheme, log_weight.softmax(0)), itself)
        if keep_first:
            ancestors[0] = 0
        for name in self.inherited:
            tensor = getattr(self, name)
            index = ancestors.view(*ancestors.shape, *(1,) * (tensor.dim() - 2))
            setattr(self, name, tensor.gather(0, index.expand_as(tensor)))
        self.log_z = self.log_z + torch.where(resampled, log_mean(log_weight), 0.0)
        self.log_weight = torch.where(resampled, 0.0, log_weight)
        self.num_resamplings = self.num_resamplings + resampled
        return ancestors

    def posterior(self, diagnostics: dict[str, Tensor]) -> Posterior:
        """The weighted responses, with diagnostics of the population beside those that are given.

        `effective_sample_size`; `num_distinct`, the number of different responses; `num_roots`, the
        number of first ancestors with descendants of positive weight.
        """
        log_weight = self.log_weight
        own = {
            "effective_sample_size": effective_sample_size(log_weight),
            "num_distinct": num_distinct(self.response, log_weight),
            "num_roots": num_distinct(self.root[..., None], log_weight),
        }
        log_z = self.log_z + log_mean(log_weight)
        return Posterior(self.response, log_weight, log_z, diagnostics | own, self.root)
