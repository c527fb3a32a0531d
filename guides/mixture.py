"""Mixture: q(x) = sum_m pi_m q_m(x), guides and the weights between them learned together; for posteriors of several modes.

Written token by token, so that it is sampled, scored and searched like any other guide:

    q(x_t | x_<t) = sum_m w_m(x_<t) q_m(x_t | x_<t),   w_m(x_<t) = pi_m q_m(x_<t) / sum_l pi_l q_l(x_<t)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from guides.fine_tuned import FineTuned
from guides.guide import Guide, check_prior
from guides.lora import LoRA
from guides.mean_field import MeanField
from guides.recurrent import Recurrent
from model import LanguageModel, OtherLanguageModelError, Prompts, ResponseDistribution
from model.common.checks import finite, instance, one_of, whole_number
from model.prior.logits import scaled

FLOOR = -1e4  # nats; stands in for -inf, of which `logsumexp` has no gradient

Component = Literal["fine-tuned", "lora", "recurrent", "mean-field"]
COMPONENTS: dict[Component, Callable[[LanguageModel, Prompts], Guide]] = {
    "fine-tuned": lambda prior, _: FineTuned(prior),
    "lora": lambda prior, _: LoRA(prior),
    "recurrent": lambda prior, _: Recurrent(prior),
    "mean-field": MeanField,
}


@dataclass(frozen=True)
class MixtureOptions:
    """Options of `mixture_of`."""

    component: Component = "fine-tuned"
    """Family of the components."""

    num_components: int = 2
    """Number M of components."""

    noise: float = 0.05
    """Standard deviation of the Gaussian noise added to each trained tensor of all components but
    the first, as a share of the tensor's own standard deviation (of 1 where that is 0). Without
    noise, equal components remain equal."""


class MixtureState(NamedTuple):
    """What M components remember of B sequences.

    Attributes:
        states: one for each component.
        log_weight: `[B, M]`, log w_m of what has been read.
        log_prob: `[B, M, V]`, log q_m of the token to come.
    """

    states: tuple[Any, ...]
    log_weight: Tensor
    log_prob: Tensor

    def select(self, rows: Tensor) -> MixtureState:
        return MixtureState(
            tuple(state.select(rows) for state in self.states),
            self.log_weight[rows],
            self.log_prob[rows],
        )


class Mixture(Guide):
    """Guides with learned weights, and their exact density. Costs a pass of every component, in sampling too.

    The weights learn at the rate of all else: at one that suits a large network they hardly move, and the components change
    what they cover instead.

    Args:
        guides: the components, autoregressive; they train along. Those that start the same remain the same.
    """

    def __init__(self, guides: Sequence[Guide]) -> None:
        super().__init__()
        if isinstance(guides, Guide):
            raise TypeError(f"guides is one {type(guides).__name__}, expected a list of guides")
        guides = list(guides)
        if not guides:
            raise ValueError("got no guides, expected at least one component")
        for guide in guides:
            if not isinstance(guide, Guide):
                raise TypeError(
                    f"a component is a {type(guide).__name__}, expected a `Guide`: wrap it in `Fixed`"
                )
        self.components = nn.ModuleList(guides)
        first = next(self.parameters(), torch.empty(0))  # there may be none, around functions
        wide = torch.promote_types(first.dtype, torch.float32)
        self.logits = nn.Parameter(torch.zeros(len(guides), device=first.device, dtype=wide))

    def distribution(self, prompts: Prompts) -> ResponseDistribution:
        distributions = [
            component.distribution(prompts) for component in cast(Iterable[Guide], self.components)
        ]
        for distribution in distributions:
            instance(
                "the distribution of a component",
                distribution,
                ResponseDistribution,
                why="token by token",
            )
        for one in distributions:
            if (difference := distributions[0].space.difference(one.space)) is not None:
                raise OtherLanguageModelError(
                    f"components have different responses, with {difference}: expected the same"
                )
        return ResponseDistribution(
            _MixtureDecoder(distributions, self.logits), prompts, distributions[0].space
        )


def mixture_of(
    prior: LanguageModel,
    prompts: Prompts,
    *,
    component: Component = "fine-tuned",
    num_components: int = 2,
    noise: float = 0.05,
) -> Mixture:
    """Components of one family, set apart.

    Args:
        prior: what they start from.
        prompts: all that the guide will be asked about.
        component: their family.
        num_components: M.
        noise: on every trained weight of all components but the first, Gaussian, its size a share of the tensor's standard
            deviation (of 1 where that is 0). Without it equal components remain equal.
    """
    check_prior(prior)
    instance("prompts", prompts, Prompts, why="`prior.encode([...])` makes them of texts")
    make = COMPONENTS[one_of("component", component, COMPONENTS)]
    noise = finite("noise", noise, at_least=0, at_most=1e6)
    guides = [
        make(prior, prompts)
        for _ in range(whole_number("num_components", num_components, at_most=1_000))
    ]
    for guide in guides[1:]:
        guide.jitter(noise)
    return Mixture(guides)


class _MixtureDecoder:
    """See `Decoder`."""

    def __init__(self, distributions: Sequence[ResponseDistribution], logits: Tensor) -> None:
        self.decoders = [distribution.decoder for distribution in distributions]
        self.temperatures = [distribution.temperature for distribution in distributions]
        self.log_pi = logits.log_softmax(-1)

    def start(self, prompts: Prompts) -> tuple[Tensor, MixtureState]:
        logits, states = zip(*(decoder.start(prompts) for decoder in self.decoders), strict=True)
        log_prob = self._log_prob(logits)  # [N, M, V]
        log_weight = self.log_pi.expand(len(prompts), -1)
        return _mixed(log_weight, log_prob), MixtureState(states, log_weight, log_prob)

    def extend(self, state: MixtureState, ids: Tensor) -> tuple[Tensor, MixtureState]:
        read = [
            decoder.extend(part, ids)
            for decoder, part in zip(self.decoders, state.states, strict=True)
        ]
        logits, states = zip(*read, strict=True)
        log_prob = self._log_prob(logits)  # [B, M, L, V]
        before = torch.cat([state.log_prob[:, :, None], log_prob[:, :, :-1]], 2)
        of_ids = (
            before.gather(-1, ids[:, None, :, None].expand(-1, len(states), -1, 1))
            .squeeze(-1)
            .clamp(min=FLOOR)
        )
        log_weight = (state.log_weight[..., None] + of_ids.cumsum(-1)).log_softmax(1)  # [B, M, L]
        return _mixed(log_weight, log_prob), MixtureState(
            states, log_weight[..., -1], log_prob[:, :, -1]
        )

    def _log_prob(self, logits: Sequence[Tensor]) -> Tensor:
        """log q_m of every token, M tensors `[B, ..., V]` -> `[B, M, ..., V]`."""
        scaled_logits = [
            scaled(part, temperature)
            for part, temperature in zip(logits, self.temperatures, strict=True)
        ]
        return torch.stack([part.log_softmax(-1) for part in scaled_logits], 1)


def _mixed(log_weight: Tensor, log_prob: Tensor) -> Tensor:
    """log q of every token, `[B, ..., V]`, from `[B, M, ...]` and `[B, M, ..., V]`."""
    mixed = (log_weight[..., None] + log_prob.clamp(min=FLOOR)).logsumexp(1)
    return mixed.masked_fill(log_prob.isneginf().all(1), -torch.inf)
