"""Papers on best of n, on samplers and on the quality of weights."""

from experiments.papers.paper import Paper

SAMPLING = {
    "beirami-2024": Paper(
        "Beirami et al. 2024: theoretical guarantees on best of n",
        "The common formula log n - (n-1)/n is an upper bound on the KL of best of n, not the KL: "
        "loose where few rewards are likely, tight where none is.",
        "identities --only best-of-n",
        "2401.01879",
    ),
    "gui-2024": Paper(
        "Gui et al. 2024: BoNBoN",
        "Best of n has nearly the highest win rate at its KL.",
        "identities --only best-of-poisson",
        "2406.00832",
        supports=("win rates of", "win rate that best of 8 lacks"),
    ),
    "best-of-poisson": Paper(
        "Best of Poisson, 2025: inference-time reward hacking",
        "Best of a random, Poisson number of draws is nearer to the optimum than best of n, and "
        "nearly optimal at every KL.",
        "identities --only best-of-poisson",
        "2506.19248",
        supports=("win rates of", "win rate that Poisson lacks"),
    ),
    "amini-2024": Paper(
        "Amini et al. 2024: variational best of n",
        "A policy can be trained towards the distribution of best of n, so that one draw does for "
        "n. The target is another one than the posterior.",
        "trainer_targets --only best-of-n-distillation",
        "2407.06057",
    ),
    "bond": Paper(
        "BOND, 2024: best-of-n distillation",
        "Best of n is p0 F^(n-1) times a correction for ties: nearly the posterior of the reward "
        "log F at beta 1/(n-1).",
        "identities --only bond",
        "2407.14622",
    ),
    "verdun-2025": Paper(
        "Verdun et al. 2025: soft best of n",
        "Resampling n draws by exp(r/beta) converges to the posterior: the KL is at most "
        "log(1 + CV^2/n).",
        "identities --only soft-best-of-n",
        "2505.03156",
    ),
    "zhao-2024": Paper(
        "Zhao et al. 2024: twisted sequential Monte Carlo",
        "SMC bounds log Z from below, and SMC around an exact posterior sample from above. With "
        "one particle the difference is the sum of both KLs.",
        "identities --only smc-bounds",
        "2404.17546",
    ),
    "lew-2023": Paper(
        "Lew et al. 2023: sequential Monte Carlo steering",
        "Masking the tokens that a constraint forbids does not sample the posterior. Sequential "
        "Monte Carlo with weights does.",
        "identities --only smc-steering",
        "2306.03081",
    ),
    "vehtari-2015": Paper(
        "Vehtari et al. 2015: Pareto smoothed importance sampling",
        "The shape k-hat of the tail of the weights is estimated from the draws, and tells "
        "reliable means from unreliable ones.",
        "identities --only pareto",
        "1507.02646",
    ),
    "eikema-2022": Paper(
        "Eikema et al. 2022: quasi-rejection sampling",
        "A bound that some weights exceed trades efficiency for quality, and the total variation "
        "of the samples is bounded.",
        "identities --only quasi-rejection",
        "2112.05702",
    ),
    "guard": Paper(
        "GUARD, 2024: guaranteed generation",
        "A filter makes a model meet a constraint exactly. The KL from the ideal to the filtered "
        "model is that to the model, plus the log of the acceptance rate.",
        "identities --only guard",
        "2410.06716",
    ),
}
