"""Twisted: q(x_t | x_<t) proportional to p0(x_t | x_<t) exp(psi(x_<=t)), value-guided decoding.

The posterior has this form exactly, at the soft value function (Zhao et al. 2024, arXiv 2404.17546,
section 3)

    psi*(x_<=t) = log E_p0[likelihood(x) | x_<=t]

up to a function of x_<t, which the normalisation of q cancels.
"""

import torch
from torch import Tensor, nn

from guides.from_scratch import like
from guides.guide import Guide, check_prior
from guides.prior_decoder import PriorDecoder
from model import LanguageModel, Prompts, ResponseDistribution
from model.common.checks import instance, whole_number
from model.common.sharded_tensors import whole
from model.networks.checks import evaluating
from model.prior.cached_state import CachedState
from model.prior.logits import of_states, scaled


class TwistHead(nn.Module):
    """psi of every next token, from the state before it: `[..., H]` -> `[..., V]`; 0 at the start.

    psi = E B silu(A h), with the prior's output embeddings E, so that similar tokens share psi.

    Args:
        prior: Source of the embeddings, `[V, H]`.
        hidden_size: Width between A and B.
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
        query = self.write(nn.functional.silu(self.read(hidden.to(self.read.weight.dtype))))
        embeddings = whole(self.embeddings.weight)
        return nn.functional.linear(query.to(embeddings.dtype), embeddings).to(query.dtype)


class Twisted(PriorDecoder, Guide):
    """The prior's next token reweighted by a small head on the prior's states; starts at q = p0.

    No gradient goes through the network, so that a step costs little more than sampling. SVI
    through q ignores the function of x_<t in psi: the trained `twist` is a good proposal, but need
    not predict the likelihood. `ContrastiveTwist` trains the twist to predict the likelihood.

    Args:
        prior: Language model; shared, not copied or changed.
        hidden_size: Width of the one hidden layer of the head.
        top_k: Number of tokens at each position, the most likely under the prior, to which the
            guide is restricted; default, all tokens. A restricted guide avoids tokens that the head
            has never seen, but cannot sample the responses behind them: KL(p* || q) is infinite and
            an importance estimate of Z is biased low.
        head: Module from hidden states `[..., H]` to psi `[..., V]`; default, a `TwistHead`.
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
        self.prior = check_prior(prior)
        if head is not None:
            why = "it takes states [..., H] to psi [..., V], and trains"
            instance("head", head, nn.Module, why=why)
        if top_k is not None:
            why = "tokens of the vocabulary"
            top_k = whole_number("top_k", top_k, at_most=prior.vocab_size, why=why)
        self.head = TwistHead(prior, hidden_size) if head is None else head
        self.top_k = top_k

    def distribution(self, prompts: Prompts) -> ResponseDistribution:
        return ResponseDistribution(self, prompts, self.prior.space)

    def start(self, prompts: Prompts) -> tuple[Tensor, CachedState]:
        logits, state = self.prior.start(prompts)
        return self._twisted(logits, state.hidden[:, -1]), state

    def extend(self, state: CachedState, ids: Tensor) -> tuple[Tensor, CachedState]:
        logits, state = self.prior.extend(state, ids)
        return self._twisted(logits, state.hidden), state

    def logits_of(self, hidden: Tensor) -> Tensor:
        return self._twisted(self.prior.logits_of(hidden), hidden)

    def _twisted(self, logits: Tensor, hidden: Tensor) -> Tensor:
        logits = scaled(logits, self.prior.temperature)
        return self.reweighted(logits, evaluating(self.head)(hidden))

    def reweighted(self, logits: Tensor, log_psi: Tensor) -> Tensor:
        """Logits of the guide from those of the prior, temperature applied, and psi: `[..., V]`."""
        twisted = logits + log_psi
        if self.top_k is None:
            return twisted
        every = torch.ones_like(logits, dtype=torch.bool)
        excluded = every.scatter(-1, logits.topk(self.top_k).indices, False)
        return twisted.masked_fill(excluded, -torch.inf)

    def log_twist(self, prompts: Prompts, response: Tensor) -> Tensor:
        """psi(x_<=t), nats, with gradient: `[..., N, T]` for `[..., N, T]`; 0 at padding."""
        prior = self.prior(prompts)
        with torch.no_grad():
            _, hidden = prior.log_prob_and_hidden(response)
        log_psi = of_states(self._psi, hidden, response, self.prior.vocab_size)
        return log_psi.masked_fill(~prior.space.is_token(response), 0.0)

    def _psi(self, hidden: Tensor, ids: Tensor) -> Tensor:
        """psi of the tokens `ids` `[C]` after hidden states `[C, H]`, nats, `[C]`."""
        return evaluating(self.head)(hidden).gather(-1, ids[:, None]).squeeze(-1)

    @torch.no_grad()
    def twist(self, prompts: Prompts, response: Tensor, t: int) -> Tensor:
        """A `Twist` for sequential Monte Carlo: psi(x_<=t), `[K, N]`, nats, of `[K, N, T]`."""
        rows = torch.arange(len(prompts), device=response.device).repeat(len(response))
        _, state = self.prior.start(prompts)
        state = state.select(rows)
        if t > 1:
            _, state = self.prior.extend(state, response[..., : t - 1].flatten(0, 1))
        log_psi = evaluating(self.head)(state.hidden[:, -1])
        return log_psi.gather(-1, response[..., t - 1].flatten()[:, None]).view(response.shape[:2])
