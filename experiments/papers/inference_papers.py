"""Papers on alignment as inference, on variational inference and its gradients."""

from experiments.papers.paper import Paper, abstract, paper

INFERENCE = {
    "korbak-2022": Paper(
        "Korbak, Perez and Buckley 2022: RL with KL penalties as Bayesian inference",
        "RL with a KL penalty is variational inference. The objective is beta times the ELBO, its "
        "optimum the posterior p0 exp(r/beta)/Z, and the two gradients are one.",
        paper("2205.11275"),
        "equivalence",
    ),
    "stiennon-2020": Paper(
        "Ziegler et al. 2019, Stiennon et al. 2020: a KL penalty in the reward",
        "The KL penalty keeps the policy from collapsing to a single mode. Reward alone collapses.",
        paper("2009.01325"),
        "collapse",
    ),
    "control-as-inference": Paper(
        "Levine 2018: control as probabilistic inference",
        "The policy of maximum entropy RL is the posterior given an observed optimality variable "
        "with p(O = 1) = exp((r - r_max)/beta), if the dynamics are deterministic, as those of "
        "text are.",
        abstract("1805.00909"),
    ),
    "black-box": Paper(
        "Ranganath, Gerrish and Blei 2014: black box variational inference",
        "The mean of log w grad log q is the gradient of the ELBO, for any model. Control variates "
        "made of the score reduce its noise.",
        abstract("1401.0118"),
    ),
    "leave-one-out": Paper(
        "Kool, van Hoof and Welling 2019: a baseline for free from several samples",
        "The mean of the other samples is a baseline without bias that reduces the noise of "
        "REINFORCE. Here: means over random guides and rewards; with two samples, a quarter of "
        "them have more noise with the baseline than without.",
        abstract(),
    ),
    "vargrad": Paper(
        "Richter et al. 2020: VarGrad",
        "The gradient of half the variance of log w, with the samples held fixed, is the gradient "
        "with a leave-one-out baseline, on every sample.",
        paper("2010.10436"),
    ),
    "landing": Paper(
        "Roeder, Wu and Duvenaud 2017: sticking the landing",
        "The score term alone leaves noise at q = p*, and without the term the gradient is exactly "
        "0 there. Responses have no path derivative: leave-one-out takes its part here.",
        abstract("1703.09194"),
    ),
    "latro": Paper(
        "Chen et al. 2024: language models are hidden reasoners (LaTRO)",
        "The rationale z of a known answer y is a latent variable: E_q[log p(y given z)] less "
        "KL(q || p0) is a bound on log p(y), and more rationales make the bound tighter. Here: "
        "log p(y) is log Z, and the slack of the bound KL(q || p*).",
        abstract("2411.04282"),
    ),
    "iwae": Paper(
        "Burda, Grosse and Salakhutdinov 2016: importance weighted autoencoders",
        "The mean of the log of K averaged weights is a bound on log Z that tightens with K.",
        paper("1509.00519"),
    ),
    "renyi": Paper(
        "Li and Turner 2016: the variational Renyi bound",
        "A family of bounds falls from log Z at order 0 to the ELBO at order 1.",
        paper("1602.02311"),
    ),
    "wake": Paper(
        "Bornschein and Bengio 2015: reweighted wake-sleep",
        "Self-normalised weights give the gradient of KL(p* || q), with a bias that vanishes as "
        "the number of samples grows.",
        paper("1406.2751"),
    ),
    "inference-gaps": Paper(
        "Cremer, Li and Duvenaud 2018: inference suboptimality",
        "The KL that a shared guide leaves splits into the gap of the best member of the family "
        "and an amortisation gap, which is often the larger one. Here, bigrams.",
        abstract("1801.03558"),
        against=("approximation less amortisation",),
        caveat="Here the approximation gap is the larger one.",
    ),
    "kl-estimators": Paper(
        "Schulman 2020: approximating the KL divergence",
        "k3 has no bias and less variance than k1, and k2 has little bias near q = p.",
        paper(),
        against=("mu 3, deviation of k3",),
        caveat="Far from p the variance of k3 is the larger one.",
    ),
    "rao-blackwell": Paper(
        "Amini et al. 2025: better estimation of a KL between language models",
        "The exact KL of the next token, summed over the positions of a draw, is unbiased, never "
        "negative, and has no more variance than log q/p0.",
        paper("2504.10637"),
    ),
}
