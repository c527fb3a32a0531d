"""Twisted: q(x_t | x_<t) proportional to p0(x_t | x_<t) exp(psi(x_<=t)), value-guided decoding with a learned twist psi.

The posterior is of this form, exactly, at the soft value function (Zhao et al. 2024, arXiv 2404.17546, section 3)

    psi*(x_<=t) = log E_p0[exp(r(x)/beta) | x_<=t]

up to what depends on x_<t alone, which the normalisation of q takes out again.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from guides.from_scratch import like
from guides.guide import Guide, check_prior
from model import LanguageModel, Prompts, ResponseDistribution
from model.common.checks import instance, whole_number
from model.networks.evaluation import evaluating
from model.prior.language_model import CachedState
from model.prior.logits import scaled


class TwistHead(nn.Module):
    """psi of every token that may come next, from the state before it: `[..., H]` -> `[..., V]`; 0 everywhere at the start.

    The tokens are read by the prior's own output embeddings E, so that what is learned of one goes for those like it:
    psi = E B silu(A h).

    Args:
        prior: has the embeddings, `[V, H]`.
        hidden_size: numbers between A and B.
    """

    def __init__(self, prior: LanguageModel, hidden_size: int) -> None:
        super().__init__()
        hidden_size = whole_number("hidden_size", hidden_size, at_most=65_536)
        self.embeddings = check_prior(prior).network.get_output_embeddings()
        width = self.embeddings.weight.shape[1]
        self.read = nn.Linear(width, hidden_size).to(like(prior))
        self.write = nn.Linear(hidden_size, width).to(like(prior))
        nn.init.zeros_(self.write.weight)
        nn.init.zeros_(self.write.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        wanted = self.write(nn.functional.silu(self.read(hidden.to(self.read.weight.dtype))))
        return nn.functional.linear(
            wanted.to(self.embeddings.weight.dtype), self.embeddings.weight
        ).to(wanted.dtype)


@dataclass(frozen=True)
class TwistedOptions:
    """Options of `Twisted`."""

    hidden_size: int = 64
    """Width of the one hidden layer of the head."""

    top_k: int | None = None
    """Number of tokens at each position, the most likely under the prior, to which the guide is
    restricted; default, all tokens. A restricted guide avoids tokens that the head has never seen,
    but cannot sample the responses behind them: KL(p* || q) is infinite and an importance estimate
    of Z is biased low."""


class Twisted(Guide):
    """The prior with its next-token law reweighted by a small head on its states; q = p0 exactly at the start.

    Nothing goes back through the network, so that a step costs little more than sampling. The best twist is unique only up to
    what depends on x_<t alone, which q does not see: trained through q, by SVI, `twist` proposes well but need not foretell the
    evidence; `ContrastiveTwist` trains it to.

    Args:
        prior: the language model; shared, not copied, and left as it is.
        hidden_size: numbers in the head's one hidden layer.
        top_k: the guide has only the prior's k most likely tokens, and is normalised over them; default all. Fewer keep out
            tokens of which the head has seen nothing, but what they lead to can no longer be sampled: KL(p* || q) is infinite,
            and an importance estimate of Z is biased low.
        head: another module from the prior's hidden states `[..., H]` to psi `[..., V]`.
    """

    def __init__(
        self,
        prior: LanguageModel,
        *,
        hidden_size: int = 64,
        top_k: int | None = None,
        head: nn.Module | None = None,
    ) -> None:
        super().__init__()
        check_prior(prior)
        if head is not None:
            instance(
                "head", head, nn.Module, why="it takes states [..., H] to psi [..., V], and trains"
            )
        if top_k is not None:
            top_k = whole_number(
                "top_k", top_k, at_most=prior.vocab_size, why="tokens of the vocabulary"
            )
        self.prior = prior
        self.head = TwistHead(prior, hidden_size) if head is None else head
        self.top_k = top_k

    def distribution(self, prompts: Prompts) -> ResponseDistribution:
        return ResponseDistribution(self, prompts, self.prior.space)

    def start(self, prompts: Prompts) -> tuple[Tensor, CachedState]:
        """See `Decoder`."""
        logits, state = self.prior.start(prompts)
        return self._twisted(logits, state.hidden[:, -1]), state

    def extend(self, state: CachedState, ids: Tensor) -> tuple[Tensor, CachedState]:
        """See `Decoder`."""
        logits, state = self.prior.extend(state, ids)
        return self._twisted(logits, state.hidden), state

    def _twisted(self, logits: Tensor, hidden: Tensor) -> Tensor:
        logits = scaled(logits, self.prior.temperature)
        twisted = logits + self._psi(hidden)
        if self.top_k is None:
            return twisted
        kept = torch.zeros_like(logits, dtype=torch.bool).scatter_(
            -1, logits.topk(self.top_k).indices, True
        )
        return twisted.masked_fill(~kept, -torch.inf)

    def _psi(self, hidden: Tensor) -> Tensor:
        return evaluating(self.head)(hidden)

    def log_twist(self, prompts: Prompts, response: Tensor) -> Tensor:
        """psi(x_<=t), nats, with gradient: `[..., N, T]` for `[..., N, T]`; 0 at padding."""
        prior = self.prior(prompts)
        _, hidden = prior.log_prob_and_hidden(response)
        log_psi = self._psi(hidden).gather(-1, response[..., None]).squeeze(-1)
        return log_psi.masked_fill(~prior.space.is_token(response), 0.0)

    @torch.no_grad()
    def twist(self, prompts: Prompts, response: Tensor, t: int) -> Tensor:
        """psi(x_<=t), `[K, N]`, nats, for responses `[K, N, T]` of which t tokens are set: a twist for SMC."""
        rows = torch.arange(len(prompts), device=response.device).repeat(len(response))
        _, state = self.prior.start(prompts)
        state = state.select(rows)
        if t > 1:
            _, state = self.prior.extend(state, response[..., : t - 1].flatten(0, 1))
        log_psi = self._psi(state.hidden[:, -1]).gather(-1, response[..., t - 1].flatten()[:, None])
        return log_psi.view(response.shape[:2])
