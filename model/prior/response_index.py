"""The site `response` as a categorical variable, for Pyro's algorithms on discrete sites.

    x = support[i],   i ~ Categorical(p(support[0]), ..., p(support[S - 1]))

Pyro's `infer_discrete`, `TraceEnum_ELBO.compute_marginals` and `AutoDiscreteParallel` need
variables that are one number. Under this handler the site is the number of a response in the list
of all responses, and the program still gets the row. `AlignmentModel` enters the handler itself
where Pyro enumerates its site.
"""

from contextlib import AbstractContextManager, nullcontext
from copy import copy
from typing import Any

import pyro.distributions as dist
from pyro.infer.traceenum_elbo import BackwardSampleMessenger
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.infer_config_messenger import InferConfigMessenger
from pyro.poutine.messenger import Messenger
from pyro.poutine.replay_messenger import ReplayMessenger
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from model.prior.response_distribution import ResponseDistribution

INDEX = "response_index"
"""Entry of a site's `infer` that marks a number of a response, not a row of token ids."""


class ResponseIndex(Messenger):
    """A handler that makes the site `response` a `Categorical` over the list of all responses.

    Log-probabilities of all sites become float64, as log p(response) is.

        model = config_enumerate(ResponseIndex()(model))  # any Pyro program with the site
        elbo = TraceEnum_ELBO(max_plate_nesting=1)
        marginals = elbo.compute_marginals(model, lambda prompts: None, prompts)
        marginals["response"].probs  # [N, S], posterior, in the order of Enumeration.support
        infer_discrete(model, first_available_dim=-2)(prompts)  # [N, T], a posterior draw

    Raises:
        NotEnumerableError: when the program runs, if there are more than a million responses.
    """

    def __init__(self) -> None:
        super().__init__()
        self._support: Tensor | None = None

    def _pyro_sample(self, msg: dict) -> None:
        if msg["name"] == "response" and INDEX not in msg["infer"]:
            every = msg["fn"].enumerate_support(expand=False)  # [S, 1, ..., 1, T]
            self._support = every.view(len(every), -1)
            log_prob = msg["fn"].log_prob(every).movedim(0, -1)  # [..., N, S]
            msg["fn"] = dist.Categorical(logits=log_prob)
            msg["infer"][INDEX] = True
        elif not site_is_subsample(msg):
            msg["fn"] = _in_float64(msg["fn"])

    def _pyro_post_sample(self, msg: dict) -> None:
        """Give the program the row of token ids. Handlers outside of this one see the number."""
        if msg["name"] == "response" and self._support is not None:
            msg["value"] = self._support[msg["value"]]


def _in_float64(distribution: dist.TorchDistribution) -> dist.TorchDistribution:
    """A copy whose log-probabilities are float64: Pyro multiplies the sites as they are.

    So are those of an expanded copy, which a plate outside of the handler makes.
    """
    log_prob, wide = distribution.log_prob, copy(distribution)
    wide.log_prob = lambda *args, **kwargs: log_prob(*args, **kwargs).double()
    wide.expand = lambda *args, **kwargs: _in_float64(distribution.expand(*args, **kwargs))
    return wide


def indexed_if_enumerated(response: ResponseDistribution) -> AbstractContextManager:
    """`ResponseIndex` where Pyro enumerates the site, or replays a trace in which it did."""
    is_recorded = any(INDEX in site["infer"] for site in _recorded_sites())
    return ResponseIndex() if is_recorded or is_enumerated(response) else nullcontext()


def is_enumerated(response: ResponseDistribution) -> bool:
    """True if Pyro enumerates the model's own site in parallel, with exact weights, 0 included."""
    enumerates = any(isinstance(handler, EnumMessenger) for handler in _PYRO_STACK)
    return enumerates and not _recorded_sites() and _is_marked(response)


def _recorded_sites() -> list[dict[str, Any]]:
    """The site in each trace that the program is replayed against, such as the guide's trace."""
    traces = [handler.trace for handler in _PYRO_STACK if isinstance(handler, ReplayMessenger)]
    backward = (each for each in _PYRO_STACK if isinstance(each, BackwardSampleMessenger))
    traces += [handler.enum_trace for handler in backward]
    nodes = [trace.nodes for trace in traces if trace is not None]
    return [sites["response"] for sites in nodes if "response" in sites]


def _is_marked(response: ResponseDistribution) -> bool:
    """True if `config_enumerate` around the program marks the site for parallel enumeration."""
    site: dict[str, Any] = {"type": "sample", "name": "response", "fn": response}
    site |= {"is_observed": False, "infer": {}}
    for handler in reversed(_PYRO_STACK):
        if isinstance(handler, InferConfigMessenger):
            site["infer"].update(handler.config_fn(site))
    return site["infer"].get("enumerate") == "parallel" and site["infer"].get("num_samples") is None
