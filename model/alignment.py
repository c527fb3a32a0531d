"""The model: p*(x) = p0(x) exp(r(x)/beta) / Z, written as a Pyro program."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import pyro
from torch import Tensor

from model.evidence import Evidence, check_reward
from model.language_model import LanguageModel
from model.prompts import Prompts
from model.provenance import through


class AlignmentModel:
    """Prior and evidence, whose product is the posterior (Korbak, Perez and Buckley 2022, section 3).

    A Pyro program: one plate over the prompts, the sample site `response`, and a factor for each piece of evidence.

    Args:
        prior: p0, a language model. It is frozen.
        evidence: r, a callable of prompts and responses, or several by name, whose values add up.
        beta: reward per nat. The smaller, the more the evidence counts; the larger, the closer to the prior.

    Raises:
        ValueError: if beta is not positive, or evidence has a name that is taken.
    """

    def __init__(self, prior: LanguageModel, evidence: Evidence | Mapping[str, Evidence], beta: float) -> None:
        if not beta > 0:
            raise ValueError(f"beta is {beta}, expected a positive number: at 0 the posterior is a point mass, with no density")
        self.evidence = dict(evidence) if isinstance(evidence, Mapping) else {"evidence": evidence}
        taken = {"prompts", "response"} & self.evidence.keys()
        if taken:
            raise ValueError(f"evidence is named {sorted(taken)[0]!r}, a name that the model itself uses: choose another")
        self.prior = prior
        self.beta = beta

    def __call__(self, prompts: Prompts) -> Tensor:
        """Run the program. Returns the response, `[..., N, T]`."""
        with pyro.plate("prompts", len(prompts), dim=-1):
            response = pyro.sample("response", self.prior(prompts))
            for name, evidence in self.evidence.items():
                reward = through(partial(evidence, prompts), response)
                pyro.factor(name, check_reward(name, reward, response.shape[:-1]) / self.beta)
        return response

    @property
    def log_evidence_bound(self) -> float | None:
        """The largest possible r/beta, nats, if every piece of evidence has an `upper_bound`; else None."""
        bounds = [getattr(evidence, "upper_bound", None) for evidence in self.evidence.values()]
        known = [bound for bound in bounds if bound is not None]
        return sum(known) / self.beta if len(known) == len(bounds) else None
