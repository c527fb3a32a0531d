# ruff: noqa: F401
"""Inference: how the gap to the posterior is closed, and how the gap is measured."""

from inference.diagnostics.diagnose import Diagnostics, diagnose
from inference.enumeration import Enumeration, entropy
from inference.estimate import Estimate
from inference.objectives import (
    DIVERGENCES,
    OBJECTIVES,
    BestOfN_ELBO,
    FDivergence,
    LeaveOneOut_ELBO,
    RewardToGo_ELBO,
    SquaredResidual,
)
from inference.objectives.parts.response_objective import Losses, ResponseObjective
from inference.prior_sample import PriorSample, sample_prior
from inference.programs import (
    Program,
    joint_at,
    log_guide_at,
    log_likelihood_at,
    response_distribution,
)
from inference.reward_posterior import REWARD_INFERENCE
from inference.samplers import (
    SAMPLERS,
    Posterior,
    importance_sampling,
    metropolis_hastings,
    rejection_sampling,
    sequential_monte_carlo,
)
from inference.svi.anneal import anneal
from inference.svi.fit import fit
from inference.svi.loop import Fit
from inference.svi.optimizer.fused import FusedOptimizer, cosine
from inference.targets.kl_budget import solve_beta
from inference.targets.moments import match_moments
