"""The result of a sampler: weighted responses that represent the posterior.

E_p*[f(x)] ~ sum_m W_m f(x_m),   W = softmax(log_weight) over the M responses to each prompt
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from inference.estimate import Estimate, check_draws, check_numbers, expectation
from inference.importance_weights import FEW, WeightQuality, effective_sample_size, num_effective
from model.common.checks import boolean, first_index, instance, whole_number
from model.common.thread_lock import one_thread

FEWEST_STEPS = 4  # smallest number of steps of a chain for R-hat, which halves the chains
MOST_R_HAT = 1.1  # R-hat above which chains disagree
FIX = "draw more, use a guide nearer to the posterior, or loosen the constraint"


class NoSupportError(ValueError):
    """All responses to a prompt that a sampler drew are impossible, or none was accepted."""


@dataclass(frozen=True)
class Posterior:
    """M weighted responses to each of N prompts, with diagnostics.

        posterior = importance_sampling(model, prompts, num_samples=256)
        expected = posterior.mean(reward(prompts, posterior.response))  # [N]
        print(posterior.estimate(reward(prompts, posterior.response)))  # with standard error
        responses = posterior.resample(8)  # [8, N, T], of equal weight

    Attributes:
        response: `[M, N, T]`, token ids.
        log_weight: `[M, N]`, nats, up to a constant for each prompt; -inf for weight 0.
        log_z: `[N]`, nats, the estimate of log Z, biased low (Jensen) if exp(log_z) is unbiased;
            None if the sampler has none.
        diagnostics: Numbers for each prompt, `[N]`, by name; the sampler documents the names.
        group: `[M, N]`, group of each response, from 0. Responses of one group depend on each
            other: a chain, or the descendants of one particle. None for independent responses.
        exact: True if the responses are all responses, which have no sampling error.
        origin: Name of the distribution of the draws, for `warnings`; empty if unknown.

    Raises:
        NotANumberError: If a log weight or log_z is NaN or +inf.
        ValueError: If the shapes do not fit together.
    """

    response: Tensor
    log_weight: Tensor
    log_z: Tensor | None
    diagnostics: Mapping[str, Tensor] = field(default_factory=dict)
    group: Tensor | None = None
    exact: bool = False
    origin: str = ""

    def __post_init__(self) -> None:
        boolean("exact", self.exact)
        shape = tuple(instance("response", self.response, Tensor).shape)
        check_draws("log_weight", self.log_weight)
        if tuple(self.log_weight.shape) != shape[:-1]:
            fault = f"log_weight has shape {tuple(self.log_weight.shape)} and response {shape}"
            raise ValueError(f"{fault}, expected [M, N] and [M, N, T]")
        if self.group is not None:
            group = instance("group", self.group, Tensor)
            if group.shape != self.log_weight.shape or group.dtype != torch.long:
                fault = f"group has shape {tuple(group.shape)} and type {group.dtype}"
                raise ValueError(f"{fault}, expected whole numbers {shape[:-1]}, as log_weight")
        if self.log_z is not None:
            log_z = check_numbers("log_z", self.log_z)
            if tuple(log_z.shape) != shape[1:-1]:
                raise ValueError(f"log_z has shape {tuple(log_z.shape)}, expected {shape[1:-1]}")

    def __repr__(self) -> str:
        number, prompts = self.log_weight.shape
        size = f"effective_sample_size={self.effective_sample_size.min().item():.0f}"
        log_z = "None" if self.log_z is None else f"{self.log_z.mean().item():.3f}"
        of = f"{number} responses to each of {prompts} prompts"
        return f"Posterior({of}, lowest {size}, mean log_z={log_z})"

    @property
    def probability(self) -> Tensor:
        """Normalised weights, `[M, N]`; `NoSupportError` if all weights of a prompt are 0."""
        if bool(self.log_weight.isneginf().all(0).any()):
            fault = f"all {len(self.log_weight)} responses to a prompt have weight 0"
            raise NoSupportError(f"{fault}: there is nothing to average")
        return self.log_weight.double().softmax(0)

    @property
    def effective_sample_size(self) -> Tensor:
        """(sum w)^2 / sum w^2, `[N]`."""
        return effective_sample_size(self.log_weight)

    def mean(self, values: Tensor) -> Tensor:
        """E_p*[f], `[N]`, from f at the responses, `[M, N]`; f is ignored where the weight is 0."""
        if instance("values", values, Tensor).shape != self.log_weight.shape:
            expected = f"{tuple(self.log_weight.shape)}: one a response"
            raise ValueError(f"values have shape {tuple(values.shape)}, expected {expected}")
        mean = expectation(self.probability, values)
        return check_numbers("the mean of values", mean, infinite=True)

    def estimate(self, values: Tensor, applies: Tensor | None = None) -> Estimate:
        """E_p*[f] with its standard error, averaged over prompts, from f at the responses.

        The delta method over independent groups of responses. Of the descendants of particles, this
        is the estimator of Chan and Lai 2013 (Annals of Statistics 41), consistent for multinomial
        resampling; other schemes have less noise. The error is NaN for a prompt with descendants of
        one particle alone, or where the weights of all responses but one are below rounding. It is
        0 where f has one value at all responses: see `Estimate.is_constant`. Intervals of two
        errors hold less often than 95% where there are `warnings`, and for an f that is large at
        responses of the posterior so rare under the proposal that no draw shows them.

        Args:
            values: `[M, N]`, f, ignored where the weight is 0.
            applies: `[N]`, True for the prompts to average over; by default all. The mean over no
                prompt is NaN.
        """
        mean, prob = self.mean(values), self.probability
        deviation = self._by_group(prob * torch.where(prob == 0, 0.0, values - mean))  # [G, N]
        share = self._by_group(prob)
        if applies is not None:
            mean, deviation, share = mean[applies], deviation[:, applies], share[:, applies]
        if not len(mean):
            return Estimate(math.nan, math.nan)
        if self.exact:
            return Estimate.exact(mean)
        # unbiased for independent responses of given weights: n/(n - 1) for n of equal weight
        unbiased = (len(share) - 1) / len(share) / (1 - share.square().sum(0))  # [N]
        influence = len(deviation) * deviation * unbiased.sqrt()
        is_alone = bool(((share > 0).sum(0) < 2).any())
        estimate = Estimate.of_influence(mean, influence)
        return Estimate(estimate.value, math.nan) if is_alone else estimate

    @property
    def warnings(self) -> list[str]:
        """Reasons to distrust log Z and means; empty if there is none.

        The weights have warnings, see `WeightQuality`; few of the groups are effective, such as
        particles at the start with descendants, whatever the number of descendants; chains are
        short, mix slowly or disagree.
        """
        if self.exact:
            return []
        warnings = WeightQuality.of(self.log_weight, origin=self.origin).warnings
        num_draws, num_steps, diagnostics = len(self.log_weight), math.inf, self.diagnostics
        # NaN where unknown
        size = diagnostics.get("effective_sample_size", self.effective_sample_size)
        least = num_effective(size.double().nan_to_num(FEW).min().item())
        if least < FEW and not warnings:
            warnings.append(f"{least} of {num_draws} draws effective, fewer than {FEW}")
        if self.group is not None:
            share = self._by_group(self.probability)
            if (least := num_effective((1 / share.square().sum(0)).min().item())) < FEW:
                warnings.append(f"{least} chains or first particles effective, fewer than {FEW}")
            num_steps = num_draws // len(share)
        if "r_hat" in diagnostics:
            r_hat = diagnostics["r_hat"].nan_to_num(0.0, math.inf).max().item()
            if num_steps < FEWEST_STEPS:
                unseen = "too few to see whether the chains agree"
                warnings.append(f"{num_steps} steps of each chain, {unseen}")
            elif r_hat > MOST_R_HAT:
                warnings.append(f"R-hat {r_hat:.2f}, above {MOST_R_HAT}: the chains disagree")
        return warnings

    def _by_group(self, values: Tensor) -> Tensor:
        """Sums over the responses of each group, `[M, N]` -> `[G, N]`."""
        if self.group is None:
            return values
        zeros = values.new_zeros(int(self.group.max()) + 1, values.shape[1])
        return zeros.scatter_add(0, self.group, values)

    @one_thread
    def resample(self, num_samples: int) -> Tensor:
        """Draw responses by their weights, with replacement: `[num_samples, N, T]`."""
        num_samples = whole_number("num_samples", num_samples)
        index = torch.multinomial(self.probability.T, num_samples, replacement=True).T  # [S, N]
        return self.response.gather(0, index[..., None].expand(-1, -1, self.response.shape[-1]))


def check_support(log_weight: Tensor, texts: tuple[str, ...], fix: str = FIX) -> None:
    """Raise `NoSupportError`, with a `fix`, if all M log weights `[M, N]` of a prompt are -inf."""
    check_numbers("log weight", log_weight)
    if (place := first_index(log_weight.isneginf().all(0))) is not None:
        raise NoSupportError(
            f"all {len(log_weight)} responses drawn for {texts[place[0]]!r} are impossible (weight "
            f"0): {fix}"
        )
