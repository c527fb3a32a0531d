"""Mixture: q(x) = sum_m pi_m q_m(x), guides and their weights learned together; for several modes.

Written token by token, so that a mixture is sampled, scored and searched like all other guides:

    q(x_t | x_<t) = sum_m w_m(x_<t) q_m(x_t | x_<t),   w_m(x_<t) proportional to pi_m q_m(x_<t)
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple, Self, cast

import torch
from torch import Tensor, nn

from guides.fine_tuned import FineTuned
from guides.guide import Guide, check_prior
from guides.lora import LoRA
from guides.mean_field import MeanField
from guides.recurrent import Recurrent
from model import LanguageModel, OtherLanguageModelError, Prompts, ResponseDistribution
from model.common.checks import finite, instance, one_of, whole_number
from model.prior.decoder import Decoder
from model.prior.logits import log_softmax
from model.prior.prompts import check_prompts

LOWEST = -1e30  # nats; replaces -inf, at which `logsumexp` has no gradient

Component = Literal["fine-tuned", "lora", "recurrent", "mean-field"]
COMPONENTS: dict[Component, Callable[[LanguageModel, Prompts], Guide]] = {
    "fine-tuned": lambda prior, _: FineTuned(prior),
    "lora": lambda prior, _: LoRA(prior),
    "recurrent": lambda prior, _: Recurrent(prior),
    "mean-field": MeanField,
}


class Mixture(Guide):
    """Guides with learned weights and an exact density; a step costs a pass of every component.

    The weights share the learning rate of the components. At a rate that suits a large network the
    weights hardly move, and the components move instead.

    Args:
        guides: Autoregressive components, which train too. Equal components remain equal.
    """

    def __init__(self, guides: Iterable[Guide]) -> None:
        super().__init__()
        if not isinstance(guides, Iterable):
            raise TypeError(f"guides is one {type(guides).__name__}, expected a list of guides")
        if not (guides := list(guides)):
            raise ValueError("got no guides, expected at least one component")
        for guide in guides:
            if not isinstance(guide, Guide):
                kind = type(guide).__name__
                raise TypeError(f"a component is a {kind}, expected a `Guide`: wrap it in `Fixed`")
        self.components = nn.ModuleList(guides)
        first = next(self.parameters(), torch.empty(0))  # functions have no parameters
        wide = torch.promote_types(first.dtype, torch.float32)
        self.logits = nn.Parameter(torch.zeros(len(guides), device=first.device, dtype=wide))

    def distribution(self, prompts: Prompts) -> ResponseDistribution:
        parts = [part.distribution(prompts) for part in cast(Iterable[Guide], self.components)]
        for part in parts:
            name, why = "the distribution of a component", "token by token"
            instance(name, part, ResponseDistribution, why=why)
            if (difference := parts[0].space.difference(part.space)) is not None:
                fault = f"components have different responses, with {difference}"
                raise OtherLanguageModelError(f"{fault}: expected the same")
        decoder = _MixtureDecoder(parts, self.logits)
        return ResponseDistribution(decoder, prompts, parts[0].space)


def mixture_of(
    prior: LanguageModel,
    prompts: Prompts,
    *,
    component: Component = "fine-tuned",
    num_components: int = 2,
    noise: float = 0.05,
) -> Mixture:
    """Build a mixture of components of one family, told apart by noise.

    Args:
        prior: Language model to start from.
        prompts: All prompts that the guide will be called with.
        component: Family of the components.
        num_components: Number M of components.
        noise: Standard deviation of the Gaussian noise added to each trained tensor of all
            components but the first, as a share of the tensor's own standard deviation (of 1 where
            that is 0). Without noise, equal components remain equal.
    """
    check_prior(prior)
    check_prompts(prompts)
    make = COMPONENTS[one_of("component", component, COMPONENTS)]
    noise = finite("noise", noise, at_least=0, at_most=1e6)
    number = whole_number("num_components", num_components, at_most=1_000)
    guides = [make(prior, prompts) for _ in range(number)]
    for guide in guides[1:]:
        guide.jitter(noise)
    return Mixture(guides)


class MixtureState(NamedTuple):
    """States of M components in B sequences; log w_m `[B, M]`; log q_m `[B, M, V]` to come."""

    states: tuple[Any, ...]
    log_weight: Tensor
    log_prob: Tensor

    def select(self, rows: Tensor) -> Self:
        states = tuple(state.select(rows) for state in self.states)
        return type(self)(states, self.log_weight[rows], self.log_prob[rows])


class _MixtureDecoder(Decoder):
    """The next token of a mixture: that of a component, weighted by the tokens before."""

    def __init__(self, distributions: Sequence[ResponseDistribution], logits: Tensor) -> None:
        super().__init__()
        decoders = nn.ModuleList(distribution.decoder for distribution in distributions)
        self.decoders = cast(Sequence[Decoder], decoders)
        self.temperatures = [distribution.temperature for distribution in distributions]
        self.log_pi = logits.log_softmax(-1)

    @property
    def in_step(self) -> bool:
        return any(decoder.in_step for decoder in self.decoders)

    @property
    def room(self) -> int | None:
        """See `Decoder`. The components read one after the other, and all caches remain."""
        rooms = [decoder.room for decoder in self.decoders if decoder.room is not None]
        return min(rooms) // len(self.decoders) if rooms else None

    def start(self, prompts: Prompts) -> tuple[Tensor, MixtureState]:
        logits, states = zip(*(decoder.start(prompts) for decoder in self.decoders), strict=True)
        log_prob = self._log_prob(logits)  # [N, M, V]
        log_weight = self.log_pi.expand(len(prompts), -1)
        return _mixed(log_weight, log_prob), MixtureState(states, log_weight, log_prob)

    def extend(self, state: MixtureState, ids: Tensor) -> tuple[Tensor, MixtureState]:
        pairs = zip(self.decoders, state.states, strict=True)
        logits, states = zip(*(decoder.extend(part, ids) for decoder, part in pairs), strict=True)
        log_prob = self._log_prob(logits)  # [B, M, L, V]
        before = torch.cat([state.log_prob[:, :, None], log_prob[:, :, :-1]], 2)
        index = ids[:, None, :, None].expand(-1, len(states), -1, 1)
        log_prob_ids = before.gather(-1, index).squeeze(-1).clamp(min=LOWEST)  # [B, M, L]
        log_weight = (state.log_weight[..., None] + log_prob_ids.cumsum(-1)).log_softmax(1)
        new = MixtureState(states, log_weight[..., -1], log_prob[:, :, -1])
        return _mixed(log_weight, log_prob), new

    def _log_prob(self, logits: Sequence[Tensor]) -> Tensor:
        """log q_m of every token, from M tensors `[B, ..., V]`: `[B, M, ..., V]`."""
        pairs = zip(logits, self.temperatures, strict=True)
        return torch.stack([log_softmax(*pair) for pair in pairs], 1)


def _mixed(log_weight: Tensor, log_prob: Tensor) -> Tensor:
    """log q of every token, `[B, ..., V]`, from `[B, M, ...]` and `[B, M, ..., V]`."""
    mixed = (log_weight[..., None] + log_prob.clamp(min=LOWEST)).logsumexp(1)
    return mixed.masked_fill(mixed < LOWEST / 2, -torch.inf)
