"""Identities and bounds of other papers, each a sum over all responses of a small world.

Claim: equations and bounds that papers state hold to rounding, and statements about noise hold by
two standard errors, or by Student's t over a few seeds, on a world of 85 responses.
Source: the docstring of each check, in the files of this folder.
Printed: the error of each equation, and measured numbers with standard errors.

The prior is an untrained network, the rewards are random numbers from 0 to 1. `docs/papers.md` has
a heading for each paper.

    python -m experiments.identities
    python -m experiments.identities --only chi-po dera
"""

from collections.abc import Callable
from dataclasses import dataclass

from experiments.identities import (
    adaptive_rejection,
    batch_losses,
    chains,
    classifiers,
    credit,
    decoding,
    distillation,
    dynamics,
    estimators,
    gradients,
    group_choices,
    importance_weights,
    inference_aware,
    judges,
    off_policy,
    on_policy_pairs,
    preference_losses,
    preference_terms,
    preferences,
    references,
    residuals,
    reward_shape,
    rewards,
    sampling,
    selection,
    self_distillation,
    self_training,
    soups,
    successes,
    surrogates,
    targets,
    tilts,
    token_rejection,
    training,
)
from experiments.identities.world import World
from experiments.shared import argument_types
from experiments.shared.argument_types import Only
from experiments.shared.claims import ClaimArguments, Finding, conclude
from experiments.shared.command_line import run_script

CHECKS: dict[str, Callable[[World], list[Finding]]] = {
    "control-as-inference": tilts.control,
    "black-box": gradients.black_box,
    "leave-one-out": gradients.baseline_for_free,
    "greedy": gradients.greedy,
    "greedy-baseline": group_choices.greedy_baseline,
    "vine-ppo": credit.rollouts,
    "rto": credit.token_rewards,
    "opo": credit.optimal_baseline,
    "topr": off_policy.tapered,
    "asym-re": off_policy.asymmetric,
    "tis": importance_weights.engine_weights,
    "soft-gates": surrogates.soft_gates,
    "trust-regions": surrogates.trust_regions,
    "off-policy-mask": group_choices.off_policy_mask,
    "high-covariance": group_choices.high_covariance,
    "entropy-change": dynamics.entropy_change,
    "dft": dynamics.dynamic_fine_tuning,
    "luffy": dynamics.shaped_demonstrations,
    "landing": gradients.landing,
    "vargrad": residuals.vargrad,
    "off-policy-balance": residuals.off_policy,
    "gflownet": training.balance,
    "ppo": training.clipped,
    "inference-gaps": training.gaps,
    "rewarded-soups": soups.mean_of_weights,
    "sub-tb": residuals.sub_trajectories,
    "gvpo": residuals.group_variance,
    "dro": residuals.single_trajectory,
    "rebel": residuals.relative_rewards,
    "f-dpg": gradients.f_divergences,
    "gdc": tilts.moments,
    "gdc++": gradients.matching_baseline,
    "pass-at-k": successes.training,
    "negative": successes.negative,
    "star": self_training.rounds,
    "max-rl": gradients.likelihood_of_success,
    "chi-po": targets.chi_po,
    "flow-rl": targets.flow,
    "mode-anchored": targets.modes,
    "qrpo": targets.quantile,
    "mirror-descent": targets.mirror,
    "kimi": targets.mean_reward,
    "grpo-success": targets.amplification,
    "grpo-k3": targets.aggregation,
    "gdpo": rewards.decoupled,
    "dera": decoding.realignment,
    "emulated": decoding.emulated,
    "multi-objective": decoding.objectives,
    "controlled": decoding.controlled,
    "particle-filter": decoding.particles,
    "implicit-prm": tilts.soft_values,
    "self-distillation": self_distillation.self_distillation,
    "gkd": distillation.on_policy,
    "mpo": tilts.budget,
    "f-dpo": targets.links,
    "filtering": tilts.filtering,
    "reward-weighted": targets.rounds,
    "entropy": tilts.entropy,
    "power": tilts.power,
    "power-sampling": chains.power_sampling,
    "ipo": preferences.identity,
    "nash": judges.equilibrium,
    "online-ipo": judges.online_ipo,
    "sppo": judges.self_play_steps,
    "slic": preferences.calibrated,
    "exo": preferences.efficient,
    "kto": preferences.prospects,
    "bco": classifiers.classifier,
    "orpo": preference_terms.odds_ratio,
    "odpo": preference_terms.offsets,
    "tdpo": preference_terms.token_level,
    "rpo": preference_terms.held_on_to,
    "dpop": preference_terms.positive,
    "on-policy-pairs": on_policy_pairs.on_policy_pairs,
    "xpo": preference_losses.bonus,
    "apo": preference_losses.anchored,
    "cal-dpo": preference_losses.pinned,
    "discopop": preference_losses.discovered,
    "displacement": preferences.displacement,
    "rdpo": preferences.noisy_labels,
    "dr-dpo": batch_losses.robust_pairs,
    "aot": batch_losses.transport,
    "spin": references.imitation,
    "tr-dpo": references.moving,
    "simpo": references.none,
    "alpha-po": reward_shape.powers,
    "rso": references.sources,
    "best-of-n": selection.bounds,
    "best-of-poisson": selection.frontier,
    "soft-best-of-n": selection.soft,
    "nca": classifiers.noise_contrast,
    "inf-align": inference_aware.inference_aware,
    "bond": selection.bond,
    "verifree": rewards.answers,
    "latro": rewards.rationale,
    "iwae": sampling.importance_bound,
    "smc-bounds": sampling.smc_bounds,
    "smc-steering": sampling.steering,
    "awrs": token_rejection.token_rejection,
    "cars": adaptive_rejection.adaptive_rejection,
    "pareto": sampling.pareto,
    "quasi-rejection": sampling.trade_off,
    "guard": sampling.guarantee,
    "kl-estimators": estimators.approximating,
    "rao-blackwell": estimators.rao_blackwell,
    "wake": estimators.wake,
    "brain": estimators.self_normalised_baseline,
    "renyi": estimators.renyi,
}
"""Checks by name."""


@dataclass(frozen=True)
class Identities(ClaimArguments):
    """Check identities and bounds of other papers on a world of 85 responses."""

    only: Only = ()
    """Checks by name, such as chi-po. Default: all."""


def main(args: Identities) -> list[Finding]:
    world = World.of()
    size, to_prior, to_guide = (
        len(world.reward),
        world.gap(world.log_prior),
        world.gap(world.log_guide),
    )
    about = f"{size} responses, log Z {world.log_z:.3f}, beta {world.model.beta:g}; from p* in KL: "
    table = f"{about}prior {to_prior:.2f} nats, guide {to_guide:.2f} nats"
    findings = []
    for name in argument_types.chosen(args.only, CHECKS):
        for statement, held in CHECKS[name](world):
            findings.append(Finding(f"{name}, {statement}", held))
    return conclude(__doc__, [table], findings)


if __name__ == "__main__":
    run_script(main, Identities)
