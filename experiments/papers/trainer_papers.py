"""Papers on algorithms that train a policy."""

from experiments.papers.paper import Paper, Source, abstract, paper

K3_LOSS = "k3 as a loss, token by token (GRPO), distance from grad KL(q || p0)"
K3_VALUE = "k3 as a loss, token by token (GRPO), value"
K3_RATIO = "k3 times the ratio, token by token (TRL), distance from grad KL(q || p0)"

TRAINERS = {
    "mpo": Paper(
        "Abdolmaleki et al. 2018: maximum a posteriori policy optimisation (MPO)",
        "The temperature of a KL budget is the minimum of a convex dual, and the policy of that "
        "budget is the posterior at that temperature.",
        paper("1806.06920"),
    ),
    "ppo": Paper(
        "Schulman et al. 2017: proximal policy optimisation (PPO)",
        "A clipped objective allows several steps on each batch, and so learns more from the same "
        "number of samples.",
        paper("1707.06347"),
    ),
    "rloo": Paper(
        "Ahmadian et al. 2024: back to basics (RLOO)",
        "REINFORCE with a leave-one-out baseline and the KL in the reward needs no clip and no "
        "critic. Here: the trainer reaches the posterior.",
        abstract("2402.14740"),
        "trainer_targets --only rloo --steps 400 --seeds 2",
    ),
    "grpo": Paper(
        "Shao et al. 2024: DeepSeekMath (GRPO)",
        "A loss with the unbiased, positive estimator k3 penalises the KL from the policy to the "
        "reference.",
        paper("2402.03300"),
        "kl_estimators",
        supports=(K3_VALUE,),
        against=(f"{K3_LOSS}: ",),
        caveat="The value is that KL. The gradient of the loss is another one: the forward KL.",
    ),
    "deepseek-v3.2": Paper(
        "DeepSeek-V3.2, 2025: an unbiased estimate of the KL",
        "k3 times the importance ratio has an unbiased gradient of the KL.",
        paper("2512.02556"),
        "kl_estimators",
        supports=(f"{K3_RATIO} by position",),
        against=(f"{K3_RATIO}: ",),
        caveat="The gradient is that of each token's KL with the tokens before held fixed, not of "
        "the KL of the whole response.",
    ),
    "off-policy-mask": Paper(
        "DeepSeek-V3.2, 2025: off-policy sequence masking",
        "Failures whose probability has fallen since they were drawn mislead, and are dropped. "
        "Here: draws of the prior for guides away from it, PPO's clip, the KL in the reward, a "
        "limit of 0.1 nats a token, and random priors, guides and rewards. On draws of the "
        "guide the mask drops nothing, and the posterior remains a fixed point. Stability over a "
        "long training was not tried.",
        Source("TRL", "2512.02556"),
        supports=("share of dropped tokens at", "q = p*"),
        against=("mean gradient",),
        caveat="PPO's clip drops such tokens of failures already. The mask drops the other tokens "
        "of these responses too, and the mean gradient is as often further from that of the ELBO "
        "as it is nearer.",
    ),
    "rpg": Paper(
        "Zhang et al. 2025: the design of KL-regularised policy gradients (RPG)",
        "Draws of another policy need a weight for the gradient of a surrogate to be that of its "
        "objective. k3 is an unnormalised KL(q || p0) if the ratio of policy and sampler weighs "
        "it, and is differentiated. The KL term of GRPO lacks the ratio. Here: the ratio of the "
        "response gives the KL of whole responses, and the ratio of the token that of each token "
        "after prefixes of the sampler; without a ratio, or with one that is not differentiated, "
        "k3 has neither gradient.",
        paper("2505.17508"),
        "kl_estimators",
        supports=(
            "k3 times the ratio, whole response",
            "ratio of the token, distance from grad KL(q || p0) by position, prefixes",
            "k3 as a loss, token by token, no correction",
        ),
    ),
    "dr-grpo": Paper(
        "Liu et al. 2025: Dr. GRPO",
        "Without scaling by the deviation and without division by length, GRPO's biases are gone. "
        "Here, with k3 as a loss: the trainer reaches the target predicted for these choices.",
        paper("2503.20783"),
        "trainer_targets --only dr-grpo",
    ),
    "reinforce++": Paper(
        "Hu et al. 2025: REINFORCE++",
        "Advantages normalised over all prompts in place of the group are unbiased and stable. "
        "Here, with the KL in the reward, and one advantage for a response: the trainer reaches "
        "the posterior. The authors' code normalises over tokens, and leaves the KL of earlier "
        "tokens out of the advantage of a token.",
        paper("2501.03262"),
        "trainer_targets --only reinforce++ --steps 400 --seeds 2",
    ),
    "dapo": Paper(
        "Yu et al. 2025: DAPO",
        "A wider clip above and an average over all tokens train long responses stably. Here, with "
        "GRPO's penalty, which DAPO drops: the trainer reaches the target predicted for GRPO.",
        paper("2503.14476"),
        "trainer_targets --only dapo --steps 800 --seeds 6",
    ),
    "gspo": Paper(
        "Zheng et al. 2025: group sequence policy optimisation (GSPO)",
        "One importance ratio for a response in place of a ratio for each token trains stably. "
        "Here: the trainer reaches the target predicted for its average over tokens.",
        paper("2507.18071"),
        "trainer_targets --only gspo",
    ),
    "cispo": Paper(
        "MiniMax 2025: CISPO",
        "A clipped importance weight without gradient keeps all tokens in the update. Here: the "
        "trainer reaches the target predicted for GRPO.",
        abstract("2506.13585"),
        "trainer_targets --only cispo --steps 800 --seeds 6",
    ),
    "gflownet": Paper(
        "Hu et al. 2023: amortising intractable inference in language models",
        "Fine-tuning by GFlowNet objectives, off-policy and with replay, samples from the "
        "posterior. Here: trajectory balance against leave-one-out on the same responses.",
        paper("2310.04363"),
    ),
    "sub-tb": Paper(
        "Madan et al. 2022: sub-trajectory balance",
        "Balance of every part of a draw learns from partial responses. Here, as Hu et al. 2023 "
        "fine-tune language models: the variance of log w over the beginnings of one draw, each "
        "ended there, with the posterior as the only minimum.",
        paper("2209.12782"),
    ),
    "tba": Paper(
        "Bartoldson et al. 2025: trajectory balance with asynchrony (TBA)",
        "Trajectory balance learns from responses of any earlier policy without importance ratios: "
        "its only minimum is the posterior, for any distribution of the responses.",
        paper("2503.18929"),
        "identities --only off-policy-balance",
    ),
    "gvpo": Paper(
        "GVPO, 2025: group variance policy optimisation",
        "Rewards less implicit rewards, centred in their group, weigh the responses: a gradient "
        "for draws from any distribution, 0 at the posterior alone. Here: the gradient of the "
        "variance of log w, with the prior as the reference, which is the last policy in the "
        "authors' code.",
        paper("2504.19599"),
        "identities --only gvpo off-policy-balance",
    ),
    "gkd": Paper(
        "Agarwal et al. 2023: on-policy distillation (GKD)",
        "A student learns from a teacher, by the KL of each token of the student's own responses. "
        "Here: inference without a reward, where the teacher is the prior.",
        abstract("2306.13649"),
        supports=("a table of all prefixes",),
        against=("bigrams",),
        caveat="The gradient leaves out that the responses change. A student that cannot be the "
        "teacher ends further away in KL than the ELBO brings it.",
    ),
    "dro": Paper(
        "Richemond et al. 2024: direct reward optimisation (DRO)",
        "Single responses with rewards do for pairs: squares of r - V - beta log q/p0, over the "
        "policy and a value V of the prompt. Here: the minimum is the posterior, with V = beta log "
        "Z, for draws of any distribution. A value held at the mean reward has another minimum.",
        abstract("2405.19107"),
    ),
    "rebel": Paper(
        "Gao et al. 2024: regressing relative rewards (REBEL)",
        "RL is the regression of differences of rewards on differences of log ratios. The loss of "
        "a pair is VarGrad with two samples. Here: ratios to the prior. The authors' code has "
        "ratios to the last policy, and the KL to the prior, times c, in the reward: the same loss "
        "for a step size of 1/c.",
        paper("2404.16767"),
    ),
    "a-star-po": Paper(
        "A*-PO, 2025: optimal advantage regression",
        "log Z from draws of the prior, and one squared residual for each response: the minimum "
        "is the posterior. Here: one beta. The authors' code has log Z at a larger beta than the "
        "residual, a wrong constant, which draws of the policy itself forgive.",
        paper("2505.20686"),
        "log_z",
        against=("KL of the others to the target",),
        caveat="With few draws of the prior log Z is off, which moves the target off-policy.",
    ),
    "gdc": Paper(
        "Khalifa et al. 2021: generation with distributional control (GDC)",
        "Constraints on means define the nearest distribution to the prior that meets them, an "
        "exponential family. For one binary feature lambda has a closed form.",
        paper("2012.11635"),
    ),
    "gdc++": Paper(
        "Korbak et al. 2022: RL and distribution matching without catastrophic forgetting",
        "A baseline reduces the noise of the distributional policy gradient. At the target no "
        "noise remains.",
        paper("2206.00761"),
    ),
    "f-dpg": Paper(
        "Go et al. 2023: f-divergence minimisation (f-DPG)",
        "The gradient of any f-divergence from the target is a policy gradient with the pseudo-"
        "reward -f'(q/p*).",
        paper("2302.08215"),
    ),
    "remax": Paper(
        "Li et al. 2023: ReMax",
        "The greedy response is a baseline that reduces the noise of REINFORCE without a value "
        "function. Here, the log-weight of the greedy response; the authors' code subtracts the "
        "reward of the greedy response alone, and charges each token with its own KL.",
        paper("2310.10505"),
        "identities --only greedy greedy-baseline",
        supports=("grad ELBO", "at q = p*", "less none"),
        against=("greedy less the mean",),
        caveat="The baseline has no bias, and no noise is left at the posterior. Away from the "
        "posterior, over random guides and rewards, it takes noise, and leaves 1.7 times as much "
        "as the mean as the baseline.",
    ),
    "vine-ppo": Paper(
        "Kazemnejad et al. 2024: VinePPO",
        "Values of prefixes, each a mean of draws that go on from the prefix, give tokens their "
        "credit without bias, and better than values for whole responses. Here: responses of up to "
        "three tokens, a value before every token, the KL in the reward; the paper has a value "
        "before every step of reasoning.",
        paper("2410.01679"),
        supports=("mean gradient", "9 draws of each prefix", "exact values"),
        against=("1 draw of each prefix", "at equal tokens drawn"),
        caveat="Nine draws of each prefix take a quarter of the noise of a trained response. With "
        "as many drawn tokens, more responses have far less noise.",
    ),
    "opo": Paper(
        "Hao et al. 2025: the optimal baseline (OPO)",
        "The baseline of least noise is the mean of the rewards weighed by squared scores, for "
        "which lengths are a substitute.",
        paper("2505.23585"),
        supports=("squared scores",),
        against=("weights of length", "groups of 2"),
        caveat="The gain is a few percent of the noise, and that the gain is the largest is a "
        "theorem. Over random guides and rewards lengths take about half of it in the mean, and "
        "add noise in about half of the cases. In a group of two, whose own rewards are in the "
        "baseline, the mean gradient has another direction than the gradient.",
    ),
    "rto": Paper(
        "Zhong et al. 2024: reinforced token optimisation (RTO)",
        "Rewards of tokens, beta log q/p0 of a policy trained by DPO, are learned from more easily "
        "than a reward at the end. Here: an exact DPO policy, the posterior, and the KL of each "
        "token in the reward. The token rewards are a baseline, the soft value of the prefix; no "
        "noise is left at the posterior.",
        abstract("2404.18922"),
        against=("mean as the baseline",),
        caveat="Away from the posterior token rewards have less noise than a reward at the end "
        "without a baseline, whose noise depends on the zero of the reward, and more noise than a "
        "reward at the end with the mean as the baseline.",
    ),
    "topr": Paper(
        "Le Roux et al. 2025: tapered off-policy REINFORCE (TOPR)",
        "Draws of a fixed policy train without a KL penalty if the importance ratio of failures is "
        "at most 1 and successes have none: failures help, and do no harm. Here: draws of the "
        "prior, rewards 1 and -1, all logits free. The end is the prior given success, that of "
        "fine-tuning on successes alone; failures make the way shorter.",
        abstract("2503.14286"),
    ),
    "asym-re": Paper(
        "Arnal et al. 2025: asymmetric REINFORCE",
        "REINFORCE without ratios on draws of a fixed policy improves the policy if the baseline "
        "is below the mean reward. With a baseline above, the policy collapses. Here: draws of the "
        "prior, all logits free.",
        abstract("2506.20520"),
    ),
    "brain": Paper(
        "Pandey et al. 2024: BRAIn",
        "A self-normalised baseline takes most of the noise of the gradient of KL(p* || q). Here: "
        "pairs of draws of the policy itself, for which the baseline has no bias. The paper draws "
        "from the prior.",
        abstract("2402.02479"),
    ),
    "tis": Paper(
        "Yao et al. 2025, Liu et al. 2025: truncated and masked importance sampling (TIS, MIS)",
        "Draws of a faster engine are off-policy. One weight for a response has no bias, weights "
        "of tokens, capped as in TIS or not, have less noise and a bias, and a cap on the weight "
        "of a response takes noise. IcePop (arXiv 2510.18855) drops tokens whose weight is out of "
        "range, with a bias too. Here: draws of the prior for guides away from it, and the KL in "
        "the reward. Noise and bias are means over random worlds: a single case can "
        "have the other order. The posterior is a fixed point with any of these weights, with no "
        "noise.",
        paper(),
    ),
    "vespo": Paper(
        "Shen et al. 2026: variational sequence-level soft policy optimisation (VESPO)",
        "A kernel of the weight of a response, w^k exp(lambda (1 - w)), is the solution of a "
        "variational problem and bounded, and so trains on stale draws. Here: draws of the prior, "
        "the KL in the reward, the kernels of the authors, and means over random worlds.",
        paper("2602.10693"),
        "identities --only soft-gates",
        supports=(
            "Q of the least objective",
            "VESPO less weights truncated at 2, log of the noise",
        ),
        against=("VESPO less weights truncated at 2, mean gradient",),
        caveat="The problem is (1 - k) KL(Q || a) + k KL(Q || q) + lambda E_Q[w]: at k above 1, Q "
        "is far from the draws. The sine of the angle to the gradient is twice the one that "
        "weights truncated at 2 leave, for a third less noise.",
    ),
    "sapo": Paper(
        "Gao et al. 2025: soft adaptive policy optimisation (SAPO)",
        "A soft gate on the ratio of each token learns from tokens that a hard clip drops, and "
        "tames large ratios. Here: draws of the prior for guides away from it, the clip at 0.2, "
        "and means over random worlds. On draws of the guide the gradient is that of GRPO.",
        abstract("2511.20347"),
        "identities --only soft-gates",
        supports=("q = a", "SAPO less ratios without a clip", "SAPO less PPO's clip, mean"),
        against=("SAPO less PPO's clip, log of the noise",),
        caveat="In the mean the gradient is nearer to that of the ELBO than with the clip. Which "
        "of the two is nearer, and which has less noise, depends on the world.",
    ),
    "gmpo": Paper(
        "Zhao et al. 2025: geometric-mean policy optimisation (GMPO)",
        "The geometric mean of the ratios of a response, each clipped, has more stable weights "
        "than the ratios of tokens, and allows a wider clip. Here: draws of the prior for guides "
        "away from it, clips at 0.4, as in the authors' code, and at GRPO's 0.2, and means over "
        "random worlds. The gradient has less noise than with GRPO's clip, at the same "
        "limits and at the wider ones. On draws of the guide the gradient is that of GRPO.",
        paper("2507.20673"),
        "identities --only trust-regions",
        supports=("q = a", "GMPO"),
    ),
    "dppo": Paper(
        "Qi et al. 2026: divergence proximal policy optimisation (DPPO)",
        "A clip of the ratio drops rare tokens whose probability hardly changes. A limit on the "
        "change of the probability is a better trust region. Here: draws of the prior for guides "
        "away from it, both limits 0.2, and means over random worlds. On draws of the "
        "guide the gradient is that of GRPO.",
        paper("2602.04879"),
        "identities --only trust-regions",
        supports=("q = a", "PPO's clip less all tokens", "0.2, share of", "0.2, mean gradient"),
        against=("DPPO less PPO's clip, both at 0.2, log of the noise",),
        caveat="Fewer tokens are dropped: the mean gradient is nearer to that of the ELBO, and its "
        "noise is larger. Which of the two is nearer depends on the world.",
    ),
    "gdpo": Paper(
        "Liu et al. 2026: decoupled normalisation of several rewards (GDPO)",
        "Rewards scaled one by one, before their sum, keep responses apart that the scaled sum of "
        "GRPO makes equal. Here: two rewards of 0 or 1 that 90% and half of the prior's draws "
        "meet, an exact KL penalty, groups without end, and the fixed point reached from the "
        "prior. The reward that nearly all draws meet has the larger weight. At another fixed "
        "point it is met always, and with a small penalty GDPO ends there.",
        paper("2601.05242"),
    ),
    "self-distillation": Paper(
        "Shenfeld et al. 2026 (SDFT), Hubotter et al. 2026 (SDPO): self-distillation",
        "The model itself, given a hint or feedback on its attempt, is a teacher that gives tokens "
        "their credit without a reward model. Here: whole responses, feedback of right and wrong, "
        "and a model given feedback as by Bayes' rule. One hint, with the prior as a fixed "
        "teacher, is the posterior of its likelihood. A teacher that follows the student, as in "
        "SDFT, multiplies the likelihood in again, and ends at the most likely responses.",
        abstract("2601.20802"),
        against=("prior 0.8, feedback, right",),
        caveat="With the feedback of each attempt, such a teacher rewards the information in the "
        "feedback: the mean update is the gradient of the mutual information of response and "
        "feedback, and right attempts become rarer where most are right. The prompts of the "
        "methods ask for a right solution as well, which is a hint.",
    ),
    "verifree": Paper(
        "Zhou et al. 2025: reasoning without verifiers (VeriFree)",
        "The probability of the right answer after a rationale is a reward with the gradient of a "
        "verifier and less noise. Here: the parameters of the rationale alone. With a KL penalty, "
        "which the paper does not have, the target is p0 exp(p(y given z)/beta)/Z, and not the "
        "posterior of rationales p0(z) p(y given z)/Z.",
        paper("2505.21493"),
    ),
    "entropy-control": Paper(
        "He et al. 2025: Skywork-OR1, adaptive entropy control",
        "A bonus for entropy keeps the entropy from collapsing. Here: a bonus of a times the "
        "entropy of whole responses, beside a penalty of beta KL: the posterior at beta + a of the "
        "prior p0^(beta/(beta + a)).",
        abstract("2505.22312"),
        "identities --only entropy",
        supports=("entropy bonus",),
    ),
    "entropy-mechanism": Paper(
        "Cui et al. 2025: the entropy mechanism of reinforcement learning",
        "The entropy changes by minus the covariance of log-probabilities and advantages, which is "
        "positive in practice, so that the entropy falls; the reward is a line in exp(entropy). "
        "Leaving out a few tokens of high covariance (Clip-Cov) holds the entropy up. Here: the "
        "tenth of the tokens of the highest covariance, as KL-Cov selects them, is left out, for "
        "random guides and rewards; nine tenths of the gain in reward are left.",
        paper("2505.22617"),
        "identities --only entropy-change high-covariance",
        supports=("slope of the entropy", "slope of E[r]"),
        against=("the entropy rises", "variance of E[r]"),
        caveat="The identity holds. The sign is a fact about models and tasks: for random guides "
        "and rewards the entropy rises as often as it falls. Nor is the reward of the posteriors "
        "of all beta a line in exp(entropy).",
    ),
    "dft": Paper(
        "Wu et al. 2025: dynamic fine-tuning (DFT)",
        "Fine-tuning is a policy gradient with a reward over q, and the scale q mends the reward. "
        "Here: whole responses in the part of tokens, and data without end. Generalisation was not "
        "tried.",
        paper("2508.05629"),
        supports=("descent of the loss", "without the scale"),
        against=("at the end, probability",),
        caveat="With the scale the gradient is the policy gradient of the reward p_data, and the "
        "ascent ends at the single most likely response, where fine-tuning ends at the data.",
    ),
    "luffy": Paper(
        "Yan et al. 2025: learning to reason under off-policy guidance (LUFFY)",
        "Demonstrations of another model join the group of own draws. The weight q/(q + gamma) of "
        "their tokens, with gamma 0.1, learns from rare tokens and avoids rigid imitation. Here: "
        "the term of the demonstrations alone, whole responses in the part of tokens, and "
        "demonstrations without end.",
        paper("2504.14945"),
        supports=("weight of the gradient", "largest q(x)", "total variation"),
        against=("given up",),
        caveat="Without the shaping the term is that of DFT, and ends at one response. With it the "
        "end is (sqrt(c p) - gamma)+ for demonstrations p: the rare ones are given up, since their "
        "weight falls with q.",
    ),
    "pass-at-k": Paper(
        "Walder and Karkhanis 2025: pass@k policy optimisation (PKPO)",
        "Transformed rewards of n draws have the gradient of pass@k for k up to n: training for "
        "pass@k solves harder prompts, and gains pass@k.",
        abstract("2505.15201"),
        supports=("mean gradient", "trained for pass@4"),
        against=("trained for one draw",),
        caveat="With a KL penalty the target is the posterior of the 0/1 reward at another beta "
        "for each prompt: hard prompts move further. At the same beta an easier prompt moves "
        "less, and training for one draw has the higher pass@k.",
    ),
    "star": Paper(
        "Zelikman et al. 2022: STaR; Singh et al. 2023: self-training (ReST-EM)",
        "Fine-tuning on one's own correct draws, round by round, is EM, and approximates a policy "
        "gradient of the accuracy. Here: fits of draws without end by a guide that is blind to the "
        "prompt, so that three prompts compete.",
        abstract("2203.14465"),
        supports=(
            "gradient of the fit",
            "prompt, least gain of a round",
            "draws, least gain of a round, mean accuracy",
            "prompt, least accuracy",
            ", weighed by p0/q",
        ),
        against=("draws, least gain of a round, sum", "draws, least accuracy", ", not weighed"),
        caveat="All correct draws are EM for the mean accuracy, which gives up a prompt. As many "
        "draws for each prompt are EM for the likelihood, the sum of log accuracies, and give up "
        "no prompt; the least accuracy can still fall. Draws with the answer as a hint, as STaR "
        "adds, fit another distribution without weights.",
    ),
    "negative": Paper(
        "Zhu et al. 2025: the effectiveness of negative reinforcement (NSR)",
        "Training on failures alone moves probability to other responses in proportion to the "
        "model's own, and keeps the diversity that training on successes alone loses. Here: whole "
        "responses to one prompt, all logits free, no clip.",
        paper("2506.01347"),
        supports=("step by one failure", "natural gradient", "success from 0.2"),
        against=(
            "mean gradient of failures",
            "along this gradient",
            "success from 0.8",
            "failures alone, largest probability",
        ),
        caveat="On draws of the policy both have one mean gradient, which makes the successes less "
        "diverse; failures have the lower noise for easy prompts alone. On fixed draws without a "
        "ratio, failures alone end at one response, and successes alone at the prior given "
        "success.",
    ),
    "max-rl": Paper(
        "MaxRL, 2026: maximum likelihood reinforcement learning",
        "The gradient of log p(success) is a sum over pass@k with weights 1/k, and the mean score "
        "of the successes.",
        paper("2602.02710"),
    ),
}
