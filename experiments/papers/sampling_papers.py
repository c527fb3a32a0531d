"""Papers on best of n, on samplers and on the quality of weights."""

from experiments.papers.paper import Paper, abstract, paper

SAMPLING = {
    "best-of-n": Paper(
        "Beirami et al. 2024: theoretical guarantees on best of n",
        "The common formula log n - (n-1)/n is an upper bound on the KL of best of n, not the KL: "
        "loose where few rewards are likely, tight where none is.",
        abstract("2401.01879"),
    ),
    "gui-2024": Paper(
        "Gui et al. 2024: BoNBoN",
        "Best of n has nearly the highest win rate at its KL.",
        abstract("2406.00832"),
        "identities --only best-of-poisson",
        supports=("win rates of", "win rate that best of 8 lacks"),
    ),
    "best-of-poisson": Paper(
        "Best of Poisson, 2025: inference-time reward hacking",
        "Best of a random, Poisson number of draws is nearer to the optimum than best of n, and "
        "nearly optimal at every KL.",
        abstract("2506.19248"),
        supports=("win rates of", "win rate that Poisson lacks"),
    ),
    "amini-2024": Paper(
        "Amini et al. 2024: variational best of n",
        "A policy can be trained towards the distribution of best of n, so that one draw does for "
        "n. The target is another one than the posterior.",
        paper("2407.06057"),
        "trainer_targets --only best-of-n-distillation --steps 400 --seeds 2",
    ),
    "inf-align": Paper(
        "Balashankar et al. 2024: inference-aware alignment (InfAlign)",
        "The policy whose best of n wins most often against best of n of the prior is the "
        "posterior of a transformed reward. Here: for best of 4, and 0.08 to 1.9 nats from the "
        "prior, the transform exp(10 u) of the rank u of the reward under the prior is nearly "
        "optimal, and the rank itself is not.",
        abstract("2412.19792"),
    ),
    "bond": Paper(
        "BOND, 2024: best-of-n distillation",
        "Best of n is p0 F^(n-1) times a correction for ties: nearly the posterior of the reward "
        "log F at beta 1/(n-1), in the mean over random worlds.",
        paper("2407.14622"),
    ),
    "soft-best-of-n": Paper(
        "Verdun et al. 2025: soft best of n",
        "Resampling n draws by exp(r/beta) converges to the posterior: the KL is at most "
        "log(1 + CV^2/n).",
        abstract("2505.03156"),
    ),
    "smc-bounds": Paper(
        "Zhao et al. 2024: twisted sequential Monte Carlo",
        "SMC bounds log Z from below, and SMC around an exact posterior sample from above. With "
        "one particle the difference is the sum of both KLs.",
        paper("2404.17546"),
    ),
    "smc-steering": Paper(
        "Lew et al. 2023: sequential Monte Carlo steering",
        "Masking the tokens that a constraint forbids does not sample the posterior. Sequential "
        "Monte Carlo with weights does.",
        abstract("2306.03081"),
    ),
    "awrs": Paper(
        "Lipkin et al. 2025: adaptive weighted rejection sampling (AWRS)",
        "Rejection of single tokens without replacement draws from the allowed tokens with few "
        "tests of the constraint, and has weights without bias and of little noise. Here: the "
        "recursive estimator of the authors' code, and its mean over several tests. Tests and "
        "tokens read are for an effective response, without resampling. The paper's texts and "
        "running times were not tried.",
        paper("2504.05410"),
        supports=("sum over all orders", "variance of W", "4 tests more"),
        against=("1 test more",),
        caveat="One test after the first allowed token is noisy where few tokens are allowed. With "
        "four, the number of responses needed is near that of masking. Tokens read are compared "
        "with rejection of responses where most are allowed: with few, one run does not say.",
    ),
    "cars": Paper(
        "Parys et al. 2025: constrained adaptive rejection sampling (CARS)",
        "Rejection that never draws a prefix again that broke the constraint: accepted draws are "
        "exact, and the share of them only rises. Here: the probability of every response after "
        "every update, and a run on the network of the grammar.",
        abstract("2510.01902"),
    ),
    "controlled-decoding": Paper(
        "Mudgal et al. 2023: controlled decoding",
        "Next tokens in proportion to p0 exp(V/beta), with V the mean reward of the responses that "
        "the prior goes on with, are draws of a solution of RL with a KL penalty, posed token by "
        "token. Here: against RL with the KL penalty of whole responses.",
        abstract("2310.17022"),
        "identities --only controlled",
        supports=("KL(p0 || p*)",),
        against=("E[r]/beta, KL",),
        caveat="The problem of single tokens is another. The posterior of whole responses needs "
        "the soft value beta log E_p0[exp(r/beta)].",
    ),
    "q-sharp": Paper(
        "Zhou et al. 2025: Q#",
        "Guidance by the optimal regularised value, a function of the distribution of the prior's "
        "rewards, is the optimal policy: the posterior.",
        abstract("2502.20548"),
        "identities --only controlled",
        supports=("log E[exp(r/beta)]",),
    ),
    "fudge": Paper(
        "Yang and Klein 2021: future discriminators (FUDGE)",
        "Next tokens weighed by the probability that the finished response has an attribute are "
        "draws of the prior given the attribute.",
        paper("2104.05218"),
        "identities --only controlled",
        supports=("log P(success)",),
    ),
    "particle-filter": Paper(
        "Puri et al. 2025: inference-time scaling by particles",
        "Particles that are resampled by a process reward after every step sample the posterior of "
        "the reward. Here, an exact process reward.",
        abstract("2502.01618"),
        supports=("its change",),
        against=("KL(target || p*)",),
        caveat="Weights of the whole process reward at every step multiply up, and have another "
        "target. Weights of its change since the last step have the posterior.",
    ),
    "pareto": Paper(
        "Vehtari et al. 2015: Pareto smoothed importance sampling",
        "The shape k-hat of the tail of the weights is estimated from the draws, and tells "
        "reliable means from unreliable ones.",
        paper("1507.02646"),
    ),
    "quasi-rejection": Paper(
        "Eikema et al. 2022: quasi-rejection sampling",
        "A bound that some weights exceed trades efficiency for quality, and the total variation "
        "of the samples is bounded.",
        paper("2112.05702"),
    ),
    "guard": Paper(
        "GUARD, 2024: guaranteed generation",
        "A filter makes a model meet a constraint exactly. The KL from the ideal to the filtered "
        "model is that to the model, plus the log of the acceptance rate.",
        abstract("2410.06716"),
    ),
}
