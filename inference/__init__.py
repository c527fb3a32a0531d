"""How the gap is closed, and how far it is from closed: objectives, the fit, the truth, diagnostics."""

from pyro.infer import ELBO, Trace_ELBO

from inference import random_state
from inference.checkpoint import CheckpointError, FitState, has_checkpoint
from inference.density import Joint, Program, joint_at, log_evidence_at, log_guide_at, parameter_scope, response_distribution
from inference.diagnostics import Diagnostics, diagnose, distinct_n, effective_sample_size, pareto_k
from inference.enumeration import Enumeration
from inference.estimate import Estimate
from inference.fit import Fit, Metrics, NonFiniteLossError, fit
from inference.kl_estimators import KL_ESTIMATORS, k1, k2, k3
from inference.objectives import (
    DIVERGENCES,
    OBJECTIVES,
    AnalyticKL_ELBO,
    BestOfN_ELBO,
    Divergence,
    FDivergence,
    LeaveOneOut_ELBO,
    LogVariance,
    MultiSample_ELBO,
    Proximal_ELBO,
    ResponseObjective,
    RewardToGo_ELBO,
    WakePhi,
    alpha_divergence,
)
from inference.optimizer import FusedOptimizer, NonFiniteGradientError, constant, cosine
from inference.prior_draws import LooseBoundError, PriorDraws, draw_from_prior

__all__ = [
    "DIVERGENCES",
    "ELBO",
    "KL_ESTIMATORS",
    "OBJECTIVES",
    "AnalyticKL_ELBO",
    "BestOfN_ELBO",
    "CheckpointError",
    "Diagnostics",
    "Divergence",
    "Enumeration",
    "Estimate",
    "FDivergence",
    "Fit",
    "FitState",
    "FusedOptimizer",
    "Joint",
    "LeaveOneOut_ELBO",
    "LogVariance",
    "LooseBoundError",
    "Metrics",
    "MultiSample_ELBO",
    "NonFiniteGradientError",
    "NonFiniteLossError",
    "PriorDraws",
    "Program",
    "Proximal_ELBO",
    "ResponseObjective",
    "RewardToGo_ELBO",
    "Trace_ELBO",
    "WakePhi",
    "alpha_divergence",
    "constant",
    "cosine",
    "diagnose",
    "distinct_n",
    "draw_from_prior",
    "effective_sample_size",
    "fit",
    "has_checkpoint",
    "joint_at",
    "k1",
    "k2",
    "k3",
    "log_evidence_at",
    "log_guide_at",
    "parameter_scope",
    "pareto_k",
    "random_state",
    "response_distribution",
]
