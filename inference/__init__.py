"""How the gap is closed, and how far it is from closed: objectives, the fit, the truth, diagnostics."""

from pyro.infer import ELBO, Trace_ELBO

from inference import random_state
from inference.acceptance import LooseBoundError
from inference.anneal import Stage, anneal, soften
from inference.calibration import Calibration, calibrate, predict
from inference.checked_optimizer import (
    NonFiniteGradientError,
    NonFiniteParametersError,
    NonFiniteStartError,
    ScheduleError,
)
from inference.checkpoint import CheckpointError, FitState, has_checkpoint
from inference.density import Joint, Program, joint_at, log_evidence_at, log_guide_at, parameter_scope, response_distribution
from inference.diagnostics import Diagnostics, diagnose, distinct_n
from inference.enumeration import Enumeration, entropy
from inference.estimate import Estimate, NotANumberError, expectation
from inference.fit import Fit, fit
from inference.fit_checks import NothingToTrainError
from inference.folder_lock import FolderInUseError
from inference.importance_weights import effective_sample_size, pareto_k
from inference.kl_budget import Budget, BudgetError, solve_beta
from inference.kl_estimators import KL_ESTIMATORS, k1, k2, k3
from inference.laws import NotNormalisedError
from inference.moment_matching import MomentMatch, UnattainableMomentsError, match_moments
from inference.objectives import (
    DIVERGENCES,
    OBJECTIVES,
    AnalyticKL_ELBO,
    BestOfN_ELBO,
    ContrastiveTwist,
    Divergence,
    FDivergence,
    LeaveOneOut_ELBO,
    LogVariance,
    Losses,
    MultiSample_ELBO,
    Objective,
    Proximal_ELBO,
    ResponseObjective,
    RewardToGo_ELBO,
    WakePhi,
    alpha_divergence,
)
from inference.optimizer import FusedOptimizer, constant, cosine
from inference.prior_bank import PriorBank, draw_prior_bank
from inference.prior_draws import PriorDraws, draw_from_prior
from inference.response_site import ResponseSiteError, ScaledSiteError
from inference.reward_posterior import REWARD_INFERENCE, RewardInference
from inference.rollback import NonFiniteGuideError
from inference.samplers import (
    RESAMPLING,
    SAMPLERS,
    EvidenceTwist,
    LogZBounds,
    NoSupportError,
    Posterior,
    ResponseKernel,
    Sampler,
    annealed_smc,
    best_of_n,
    enumerate_posterior,
    importance_sampling,
    log_z_bounds,
    metropolis_hastings,
    quasi_rejection,
    quasi_rejection_sampling,
    rejection_sampling,
    sequential_monte_carlo,
)
from inference.self_bleu import self_bleu
from inference.simulation_based_calibration import Ranks, simulation_based_calibration
from inference.svi_step import Metrics, NonFiniteLossError

__all__ = [
    "DIVERGENCES",
    "ELBO",
    "KL_ESTIMATORS",
    "OBJECTIVES",
    "RESAMPLING",
    "REWARD_INFERENCE",
    "SAMPLERS",
    "AnalyticKL_ELBO",
    "BestOfN_ELBO",
    "Budget",
    "BudgetError",
    "Calibration",
    "CheckpointError",
    "ContrastiveTwist",
    "Diagnostics",
    "Divergence",
    "Enumeration",
    "Estimate",
    "EvidenceTwist",
    "FDivergence",
    "Fit",
    "FitState",
    "FolderInUseError",
    "FusedOptimizer",
    "Joint",
    "LeaveOneOut_ELBO",
    "LogVariance",
    "LogZBounds",
    "LooseBoundError",
    "Losses",
    "Metrics",
    "MomentMatch",
    "MultiSample_ELBO",
    "NoSupportError",
    "NonFiniteGradientError",
    "NonFiniteGuideError",
    "NonFiniteLossError",
    "NonFiniteParametersError",
    "NonFiniteStartError",
    "NotANumberError",
    "NotNormalisedError",
    "NothingToTrainError",
    "Objective",
    "Posterior",
    "PriorBank",
    "PriorDraws",
    "Program",
    "Proximal_ELBO",
    "Ranks",
    "ResponseKernel",
    "ResponseObjective",
    "ResponseSiteError",
    "RewardInference",
    "RewardToGo_ELBO",
    "Sampler",
    "ScaledSiteError",
    "ScheduleError",
    "Stage",
    "Trace_ELBO",
    "UnattainableMomentsError",
    "WakePhi",
    "alpha_divergence",
    "anneal",
    "annealed_smc",
    "best_of_n",
    "calibrate",
    "constant",
    "cosine",
    "diagnose",
    "distinct_n",
    "draw_from_prior",
    "draw_prior_bank",
    "effective_sample_size",
    "entropy",
    "enumerate_posterior",
    "expectation",
    "fit",
    "has_checkpoint",
    "importance_sampling",
    "joint_at",
    "k1",
    "k2",
    "k3",
    "log_evidence_at",
    "log_guide_at",
    "log_z_bounds",
    "match_moments",
    "metropolis_hastings",
    "parameter_scope",
    "pareto_k",
    "predict",
    "quasi_rejection",
    "quasi_rejection_sampling",
    "random_state",
    "rejection_sampling",
    "response_distribution",
    "self_bleu",
    "sequential_monte_carlo",
    "simulation_based_calibration",
    "soften",
    "solve_beta",
]
