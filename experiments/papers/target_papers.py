"""Papers on the distribution that an algorithm converges to."""

from experiments.papers.paper import Paper, abstract, paper

TARGETS = {
    "grpo-success": Paper(
        "Mroueh 2025: success amplification of GRPO",
        "With 0/1 rewards GRPO ends at more successes than the prior, at logit p = logit p0 + "
        "1/(beta sqrt(p (1 - p))): more than the posterior's shift of 1/beta.",
        abstract("2503.06639"),
    ),
    "grpo-k3": Paper(
        "Vojnovic and Yun 2025: the alignment objective of GRPO",
        "GRPO with k3 as a loss does not aggregate preferences as exp(r/beta) does: its stationary "
        "policy is p0/(1 - A/beta), with A the scaled advantage.",
        abstract("2502.18548"),
    ),
    "chi-po": Paper(
        "Huang et al. 2024: chi-squared preference optimisation (chi-PO)",
        "A penalty of KL and chi-squared bounds the ratio q/p0, where the ratio of the KL's "
        "posterior grows exponentially.",
        abstract("2407.13399"),
    ),
    "flow-rl": Paper(
        "FlowRL, 2025: matching reward distributions",
        "Flow balance matches the policy to the distribution of the reward, p0 exp(r/beta)/Z.",
        paper("2509.15207"),
        supports=("per response",),
        against=("KL(balance per token",),
        caveat="The balance of whole responses does. The division by length in the method's loss "
        "moves the target.",
    ),
    "mode-anchored": Paper(
        "MARA, 2025: KL-regularised RL and mode collapse",
        "The posterior prefers modes with more prior mass or a bit more reward. A changed reward "
        "gives all responses above a threshold one probability.",
        abstract("2510.20817"),
    ),
    "qrpo": Paper(
        "QRPO, 2025: quantile rewards with an exact partition function",
        "For the reward's quantile under the prior, Z = beta (exp(1/beta) - 1). The authors' code "
        "leaves out the -1, a share of exp(-1/beta).",
        paper("2507.08068"),
        against=("85 responses",),
        caveat="With few responses the quantile jumps, and Z is another one.",
    ),
    "mirror-descent": Paper(
        "Vieillard et al. 2020: leverage the average",
        "Steps with a KL penalty to the last policy average the rewards of all steps: n exact "
        "steps at tau are the posterior at tau/n.",
        abstract("2003.14089"),
    ),
    "reward-weighted": Paper(
        "Peters and Schaal 2007: reward-weighted regression",
        "Fits to draws of the last policy, weighed by exp(r/beta), are EM: each round raises "
        "log E_q[exp(r/beta)]. Here, with a fixed beta, which the paper adapts: the first round is "
        "exact inference, and n rounds from the prior end at the posterior at beta/n.",
        abstract(),
    ),
    "kimi": Paper(
        "Kimi k1.5, 2025: mirror descent with the mean reward",
        "The mean reward of the samples replaces log Z in the squared residual.",
        abstract("2501.12599"),
        supports=("at tau = 20 beta",),
        against=("KL(step with the mean",),
        caveat="At a large tau the step is the exact one. At a small tau the step has another "
        "target.",
    ),
    "dera": Paper(
        "DeRa, 2024: decoding-time realignment",
        "Mixing the logits of prior and aligned model gives the model of another beta. Exact for "
        "whole responses, and an approximation token by token.",
        abstract("2402.02992"),
    ),
    "emulated": Paper(
        "Mitchell et al. 2023: emulated fine-tuning; Liu et al. 2024: proxy tuning",
        "The ratio of a small model, tuned and not, tunes a large model at decoding time. Exact "
        "for whole responses, the posterior of the large model with the small one's implicit "
        "reward, and an approximation token by token.",
        paper("2310.12962"),
    ),
    "multi-objective": Paper(
        "Shi et al. 2024: multi-objective decoding (MOD)",
        "Models tuned to single rewards, combined at decoding time, give the model of any mixture "
        "of the rewards. Exact for whole responses, and an approximation token by token.",
        paper("2406.18853"),
    ),
    "rewarded-soups": Paper(
        "Rame et al. 2023: rewarded soups",
        "The mean of the weights of models tuned to single rewards, from one trained prior, serves "
        "the mean of the rewards.",
        paper("2306.04488"),
        supports=("mean of weights, nats",),
        against=("over product of the guides", "three times the learning rate"),
        caveat="The product of the two distributions is nearer to the posterior of the mean "
        "reward. The mean of weights is worse after fits of a larger learning rate, the product "
        "is not.",
    ),
    "filtering": Paper(
        "Dong et al. 2023: reward ranked fine-tuning (RAFT)",
        "Fine-tuning on the best draws of the last model, round by round, aligns the model. Here: "
        "one prompt, draws without end, and the best fifth of them, as in the authors' code. After "
        "n rounds the model is the best 1/5^n of the prior: not the posterior of the reward, and "
        "soon the best response alone. A threshold of the reward in place of the share has the "
        "prior given accepted as its target, after any number of rounds.",
        paper("2304.06767"),
    ),
    "power": Paper(
        "Karan and Du 2025: reasoning with sampling (power sampling)",
        "Metropolis-Hastings that redraws the end of a response samples p0^alpha without training. "
        "This is not sampling at temperature 1/alpha: the power prefers tokens with few and likely "
        "futures.",
        paper("2510.14901"),
        "identities --only power power-sampling",
        against=("no lengths",),
        caveat="If responses differ in length, the acceptance needs the factor |x|/|x'|, which the "
        "authors' code does not have: else the target is p0^alpha |x|/Z. The larger alpha is, the "
        "less the two differ, since few responses have nearly all of the mass.",
    ),
    "entropy-minimisation": Paper(
        "Agarwal et al. 2025: entropy minimisation",
        "RL on the negative entropy alone sharpens a language model. Here, with a penalty of beta "
        "KL: to the power p0^(beta/(beta - 1)), and for beta of 1 or less to one response.",
        abstract("2505.15134"),
        "identities --only entropy",
        supports=("beta 2", "beta 0.5"),
    ),
    "kruszewski-2025": Paper(
        "Kruszewski et al. 2025: the filtered prior as the target of verifiable rewards",
        "The target of learning from 0/1 rewards is the prior given a correct answer. Its draws "
        "keep the diversity that reward alone loses.",
        abstract("2512.05962"),
        "verifiable",
        supports=("posterior given", "gain of pass@k", "reward alone, diversity lost"),
    ),
    "success-and-diversity": Paper(
        "arXiv 2512.18730, 2025: success and diversity of verifiable rewards",
        "For 0/1 rewards KL(q || p*) is the KL of the rates of success and the diversity lost. The "
        "KL penalty keeps the diversity, reward alone does not.",
        abstract("2512.18730"),
        "verifiable",
    ),
}
