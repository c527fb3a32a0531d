"""How the gap is closed, and how far it is from closed: objectives, the fit, the truth, diagnostics."""

from collections.abc import Callable
from functools import partial

from pyro.infer import ELBO, Trace_ELBO

from inference import random_state
from inference.checkpoint import CheckpointError, FitState, has_checkpoint
from inference.density import Joint, Program, joint_at, log_evidence_at, log_guide_at, parameter_scope, response_distribution
from inference.diagnostics import Diagnostics, diagnose, distinct_n, effective_sample_size, pareto_k
from inference.enumeration import Enumeration
from inference.estimate import Estimate
from inference.fit import Fit, Metrics, NonFiniteLossError, fit
from inference.objectives.leave_one_out import LeaveOneOut_ELBO
from inference.optimizer import FusedOptimizer, NonFiniteGradientError, constant, cosine
from inference.prior_draws import LooseBoundError, PriorDraws, draw_from_prior

OBJECTIVES: dict[str, Callable[..., ELBO]] = {
    "leave-one-out": LeaveOneOut_ELBO,
    "trace": partial(Trace_ELBO, max_plate_nesting=1, vectorize_particles=True),
}
"""By name, what makes an objective when called with `num_particles`."""

__all__ = [
    "ELBO",
    "OBJECTIVES",
    "CheckpointError",
    "Diagnostics",
    "Enumeration",
    "Estimate",
    "Fit",
    "FitState",
    "FusedOptimizer",
    "Joint",
    "LeaveOneOut_ELBO",
    "LooseBoundError",
    "Metrics",
    "NonFiniteGradientError",
    "NonFiniteLossError",
    "PriorDraws",
    "Program",
    "Trace_ELBO",
    "constant",
    "cosine",
    "diagnose",
    "distinct_n",
    "draw_from_prior",
    "effective_sample_size",
    "fit",
    "has_checkpoint",
    "joint_at",
    "log_evidence_at",
    "log_guide_at",
    "parameter_scope",
    "pareto_k",
    "random_state",
    "response_distribution",
]
