"""The site `response` as a categorical variable, for Pyro's algorithms on discrete sites.

    x = support[i],   i ~ Categorical(p(support[0]), ..., p(support[S - 1]))

Pyro's `infer_discrete`, `TraceEnum_ELBO.compute_marginals` and `AutoDiscreteParallel` know variables that are one number, and
not rows of T token ids. Under this handler the site is the number of a response in the list of all of them, and the program
still gets the row: the distribution over responses is the same.
"""

from __future__ import annotations

import pyro.distributions as dist
from pyro.poutine.messenger import Messenger
from torch import Tensor


class ResponseIndex(Messenger):
    """A handler that makes the site `response` a `Categorical` over the list of all responses.

        model = config_enumerate(ResponseIndex()(AlignmentModel(prior, reward, beta)))
        elbo = TraceEnum_ELBO(max_plate_nesting=1)
        marginals = elbo.compute_marginals(model, lambda prompts: None, prompts)
        marginals["response"].probs  # [N, S], the posterior, in the order of Enumeration(model, prompts).support
        infer_discrete(model, first_available_dim=-2)(prompts)  # [N, T], a draw from the posterior

    Raises:
        NotEnumerableError: when the program runs, if there are more than a million responses.
    """

    def __init__(self) -> None:
        super().__init__()
        self._support: Tensor | None = None

    def _pyro_sample(self, msg: dict) -> None:
        if msg["name"] == "response":
            every = msg["fn"].enumerate_support(expand=False)  # [S, 1, ..., 1, T]
            self._support = every.view(len(every), -1)
            msg["fn"] = dist.Categorical(logits=msg["fn"].log_prob(every).movedim(0, -1))  # [..., N, S]

    def _pyro_post_sample(self, msg: dict) -> None:
        """The program gets the row of token ids; handlers outside of this one have seen the number."""
        if msg["name"] == "response" and self._support is not None:
            msg["value"] = self._support[msg["value"]]
