"""How the gap is closed, and how far it is from closed: objectives, the fit, the truth, diagnostics."""

from pyro.infer import ELBO, Trace_ELBO

from inference import random_state
from inference.diagnostics.diagnose import Diagnostics, diagnose, distinct_n
from inference.diagnostics.kl_estimators import KL_ESTIMATORS, k1, k2, k3
from inference.diagnostics.self_bleu import self_bleu
from inference.diagnostics.simulation_based_calibration import Ranks, simulation_based_calibration
from inference.enumeration import Enumeration, entropy
from inference.estimate import Estimate, NotANumberError, expectation
from inference.importance_weights import effective_sample_size, pareto_k
from inference.normalisation import NotNormalisedError
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
from inference.prior_sample import PriorSample, sample_prior
from inference.programs import (
    Joint,
    Program,
    joint_at,
    log_guide_at,
    log_likelihood_at,
    parameter_scope,
    response_distribution,
)
from inference.response_site import ResponseSiteError, ScaledSiteError
from inference.reward_posterior import REWARD_INFERENCE, RewardInference
from inference.reward_posterior.calibration import Calibration, calibrate, predict
from inference.samplers import (
    RESAMPLING,
    SAMPLERS,
    LikelihoodTwist,
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
from inference.samplers.acceptance import LooseBoundError
from inference.svi.anneal import Stage, anneal, soften
from inference.svi.checkpoint.checkpoint import CheckpointError, FitState, has_checkpoint
from inference.svi.checkpoint.folder_lock import FolderInUseError
from inference.svi.fit import Fit, fit
from inference.svi.fit_checks import NothingToTrainError
from inference.svi.optimizer.checked import (
    NonFiniteGradientError,
    NonFiniteParametersError,
    NonFiniteStartError,
    ScheduleError,
)
from inference.svi.optimizer.fused import FusedOptimizer, constant, cosine
from inference.svi.rollback import NonFiniteGuideError
from inference.svi.step import Metrics, NonFiniteLossError
from inference.targets.kl_budget import Budget, BudgetError, solve_beta
from inference.targets.moments import MomentMatch, UnattainableMomentsError, match_moments

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
    "FDivergence",
    "Fit",
    "FitState",
    "FolderInUseError",
    "FusedOptimizer",
    "Joint",
    "LeaveOneOut_ELBO",
    "LikelihoodTwist",
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
    "PriorSample",
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
    "log_guide_at",
    "log_likelihood_at",
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
    "sample_prior",
    "self_bleu",
    "sequential_monte_carlo",
    "simulation_based_calibration",
    "soften",
    "solve_beta",
]
