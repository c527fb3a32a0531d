"""Papers on preferences, and on rewards learned from preferences."""

from experiments.papers.paper import Paper, abstract, paper

PREFERENCES = {
    "dpo": Paper(
        "Rafailov et al. 2023: direct preference optimisation (DPO)",
        "The optimum of DPO is the posterior of the judge's reward, without a reward model.",
        paper("2305.18290"),
        "dpo --numbers 100 --seeds 2",
        supports=("tabular, KL of the optima",),
        against=("KL of DPO above",),
        caveat="Over a small family the optimum is not the member nearest to the posterior.",
    ),
    "dpo-gap": Paper(
        "arXiv 2505.19770, 2025: DPO with a limited class of policies",
        "If the class of policies lacks the posterior, DPO ends at a worse policy than a reward "
        "model followed by RL, however much data there is.",
        abstract("2505.19770"),
        "dpo --numbers 100 --seeds 2",
        supports=("KL of DPO above",),
    ),
    "ipo": Paper(
        "Azar et al. 2023: a general paradigm from human preferences (IPO)",
        "The target of IPO is p0 exp(P(x beats y)/beta)/Z, also if the preferences are certain, "
        "where the optimum of DPO leaves the prior altogether.",
        abstract("2310.12036"),
    ),
    "nash": Paper(
        "Munos et al. 2023: Nash learning from human feedback",
        "The equilibrium of two players with a KL penalty is p0 exp(P(x beats q)/beta)/Z, the "
        "posterior of its own rate of wins. No policy wins against the equilibrium, also where "
        "preferences go in circles and no reward explains them.",
        abstract("2312.00886"),
    ),
    "online-ipo": Paper(
        "Calandriello et al. 2024: online IPO and self-play",
        "IPO on draws of the policy has the gradient of self-play, and so the equilibrium as its "
        "target. IPO on draws of the prior has another.",
        abstract("2403.08635"),
    ),
    "sppo": Paper(
        "Wu et al. 2024: self-play preference optimisation (SPPO)",
        "Steps q exp(eta P(x beats q))/Z, each fitted by squares with eta/2 for log Z, near the "
        "equilibrium of the game without a prior.",
        paper("2405.00675"),
        supports=("eta 0.5", "the mean of"),
        against=("eta 16", "each of the last"),
        caveat="With eta/2 for log Z, a large eta makes another step. The mean of all iterates "
        "nears the equilibrium. Where preferences go in circles, the iterates do not.",
    ),
    "implicit-prm": Paper(
        "Rafailov et al. 2024: from r to Q*; Yuan et al. 2024: implicit process rewards",
        "A policy trained on whole responses has process rewards: beta log q/p0 of the tokens so "
        "far is beta log E_p0[exp(r/beta)] of the responses that go on from there: a soft value, "
        "above their mean reward. The reward r is the policy's own, beta log q/p0 of the whole "
        "response.",
        paper("2412.01981"),
        supports=("soft value, all prefixes", "soft value less"),
    ),
    "f-dpo": Paper(
        "Wang et al. 2023: direct preference optimisation beyond the reverse KL (f-DPO)",
        "At the optimum of a reward with the penalty D_f, r = beta f'(q/p0) + c: every divergence "
        "has a DPO of its own.",
        paper("2309.16240"),
    ),
    "exo": Paper(
        "EXO, 2024: efficient exact optimisation",
        "Reverse KL to the optimal policy in place of DPO's forward KL optimises the alignment "
        "objective exactly. Here: pairs without end.",
        paper("2402.00856"),
        supports=("labels of the rewards",),
        against=("labels 0.9 and 0.1", "labels 1 - e and e"),
        caveat="It is exact for rewards as labels. Labels of one comparison make another reward, "
        "(2 P - 1) log((1 - e)/e) for two labels 1 - e and e: near the judge's for e = 0.1, and "
        "several times as large at the e = exp(-10) of the authors' code.",
    ),
    "slic": Paper(
        "Zhao et al. 2023: sequence likelihood calibration (SLiC-HF)",
        "A hinge on differences of log-likelihoods does the work of RLHF.",
        abstract("2305.10425"),
        supports=("KL(p0 || p*)",),
        against=("KL(optimum || p*)",),
        caveat="The optimum is nearer to the posterior than the prior is, and not the posterior.",
    ),
    "kto": Paper(
        "KTO, 2024: model alignment as prospect theoretic optimisation",
        "Labels of good and bad responses do the work of pairs. Here: draws of the prior without "
        "end, and two reference points: 0, at which the estimate of the authors' code is for such "
        "draws, and KL(q || p0), that of the paper.",
        paper("2402.01306"),
        supports=("optimum less prior",),
        against=("soft filter", "KL(optimum || p*)"),
        caveat="The optimum is a soft filter: nearer to the posterior than the prior is on most "
        "random worlds, not on all, and not the posterior.",
    ),
    "nca": Paper(
        "Chen et al. 2024: noise contrastive alignment (InfoNCA, NCA)",
        "Losses of noise contrast extract the optimal policy from the rewards of K draws. InfoNCA "
        "has DPO as its case of two. NCA keeps chosen responses from becoming rarer. Here: draws "
        "of the prior without end.",
        paper("2402.05369"),
        supports=("InfoNCA, 2 draws", "share of the chosen"),
        against=("NCA, 2 and 3 draws", "NCA, 2 draws, KL(optimum || p*), nats (the"),
        caveat="The optimum of InfoNCA is the posterior. That of NCA is soft best of K, which "
        "nears the posterior as K grows.",
    ),
    "oaif": Paper(
        "Guo et al. 2024: online AI feedback (OAIF, online DPO)",
        "DPO on pairs of the policy's own draws does better than on a fixed set of pairs. Here: "
        "pairs without end, and a small family, bigrams.",
        abstract("2402.04792"),
        "identities --only on-policy-pairs",
        supports=("gradient at q = p*", "pairs of the guide: "),
        against=("KL(p* || q)",),
        caveat="The end is nearly the nearest of the family in KL(q || p*), and, for this reward, "
        "further from the posterior in KL(p* || q). A rich guide has the posterior as its optimum "
        "with any pairs.",
    ),
    "wpo": Paper(
        "Zhou et al. 2024: weighted preference optimisation (WPO)",
        "Pairs of another policy, weighed by their probability under the policy, simulate pairs of "
        "its own draws. Here: pairs of the prior without end, the geometric mean probability of a "
        "token, and a small family, bigrams. The alignment of the weights was not tried.",
        paper("2406.11827"),
        "identities --only on-policy-pairs",
        supports=("gradient at q = p*", "weighed pairs of the prior"),
        against=("far from 0",),
        caveat="The weights close a fifth to a third of the gap in KL(q || p*) that pairs of the "
        "policy's own draws close nearly whole.",
    ),
    "xpo": Paper(
        "Xie et al. 2024: exploratory preference optimisation (XPO)",
        "Online DPO with the log-probability of the reference's responses as a penalty explores "
        "outside the reference. Here: pairs of the prior without end. The penalty is log Z of the "
        "implicit reward, centred. The descent from the prior ends above DPO in log Z, almost at "
        "the posterior of a smaller beta. The paper assumes bounded log-ratios. Without a bound "
        "the loss has no minimum, since mass on a response that pairs rarely contain costs less "
        "than it gains. Online rounds were not tried.",
        abstract("2405.21046"),
    ),
    "apo": Paper(
        "D'Oosterlinck et al. 2024: anchored preference optimisation (APO)",
        "Anchors say whether both responses of a pair are to rise or to fall. Here: pairs of the "
        "prior without end, where APO-zero is KTO with the reference point 0. Its optimum is "
        "nearer to the posterior than the prior is, in the mean over random worlds, and not the "
        "posterior. That of APO-down, which is for pairs worse than the model's own draws, is "
        "further away.",
        paper("2408.06266"),
    ),
    "cal-dpo": Paper(
        "Xiao et al. 2024: calibrated DPO (Cal-DPO)",
        "Squares that pin beta log q/p0 of the chosen response to 1/2, and of the rejected one to "
        "-1/2, give DPO's implicit reward the scale of the reward, and keep the chosen response "
        "from becoming rarer. Here: pairs of the prior without end, beta 1, and "
        "means over random worlds.",
        paper("2412.14516"),
        supports=("preferred that become rarer", "mean log q/p0", "optimum less prior"),
        against=("squares alone", "KL(optimum || p0 exp", "KL(optimum || p*)"),
        caveat="Preferred responses that win less than half of their pairs still become rarer. "
        "The scale is that of the rate of wins, not that of the judge's reward. The squares alone "
        "are a squared residual of this rate, with its mean for log Z as in Kimi k1.5, and the "
        "optimum is nearly that of IPO: the optimum of DPO, the posterior, is given up.",
    ),
    "discopop": Paper(
        "Lu et al. 2024: DiscoPOP, a loss found by a language model",
        "A blend of the logistic and the exponential loss learns preferences better than DPO. "
        "Here: pairs of the prior without end, all logits free.",
        paper("2406.08414"),
        supports=("from p*, end",),
        against=("from p0",),
        caveat="A minimum is near the posterior. The loss is not convex and rises where the margin "
        "passes 0, as the paper notes. A descent from the prior ends before the rise, on most "
        "random worlds below the prior's reward.",
    ),
    "displacement": Paper(
        "Razin et al. 2024: likelihood displacement",
        "DPO can make the preferred response less likely. Here: at the optimum itself, the "
        "posterior, all responses with a reward below beta log Z become rarer, preferred or not.",
        abstract("2410.08847"),
    ),
    "rdpo": Paper(
        "Chowdhury et al. 2024: provably robust DPO (rDPO)",
        "A loss without bias for reversed labels keeps the optimum of DPO, where label smoothing "
        "(cDPO) moves it.",
        abstract("2403.00409"),
        supports=("nats, rDPO: error", "nats, cDPO"),
        against=("beta h = 40, nats, rDPO",),
        caveat="So does the likelihood of labels with flips, which is bounded. The log-likelihood "
        "of rDPO grows without limit on a pair that was judged once: no optimum on finite data.",
    ),
    "spin": Paper(
        "Chen et al. 2024: self-play fine-tuning (SPIN)",
        "Rounds of DPO with data against draws of the last policy, which is the reference too, end "
        "at the distribution of the data. Here: each round at its optimum, and p* for the data.",
        paper("2401.01335"),
        supports=("loss at q_old", "lam 1,", "lam 5"),
        against=("lam 0.4", "lam 0.1"),
        caveat="The optimum of a round is q_old (p_data/q_old)^(1/lam): with lam below 1/2 each "
        "round overshoots further than the last. The authors' code has lam 0.1, and takes few "
        "small steps a round.",
    ),
    "tr-dpo": Paper(
        "Gorbatovski et al. 2024: learn your reference model (TR-DPO)",
        "A reference that is updated in training lets the policy leave the prior further. Here: "
        "hard updates, each at the optimum of DPO, without end of data. After n of them the policy "
        "is the posterior of beta/n, as in mirror descent.",
        abstract("2404.09656"),
    ),
    "simpo": Paper(
        "Meng et al. 2024: SimPO",
        "The average log-probability of a token as the reward does the work of DPO without a "
        "reference model.",
        paper("2405.14734"),
        supports=("no margin", "E[r]"),
        against=("target less prior, KL",),
        caveat="The prior has no part in the optimum. Without a margin the optimum is that of a "
        "balance per token (FlowRL) with all tokens equally likely in place of p0, in nearly all "
        "random worlds further from the posterior than the prior is.",
    ),
    "alpha-po": Paper(
        "Gupta et al. 2025: AlphaPO",
        "The power (1 - P^-alpha)/alpha of the mean probability P of a token, in place of SimPO's "
        "log P, shapes the reward, and a positive alpha tempers likelihood displacement. Here: no "
        "margin, pairs without end, alpha 0.25, and means over random worlds. The shape is the "
        "link of an alpha divergence of f-DPO. The optimum has P = (1 - alpha (r + c))^(-1/alpha), "
        "and preferred responses lose less than with SimPO.",
        abstract("2501.03884"),
        supports=("loss at P", "AlphaPO less SimPO"),
        against=("less the prior",),
        caveat="The optimum is nearer to the posterior than that of SimPO, and in the mean still "
        "further than the prior, which has no part in it.",
    ),
    "orpo": Paper(
        "Hong et al. 2024: ORPO",
        "The odds ratio of two responses, added to fine-tuning on the chosen one, does the work of "
        "DPO without a reference model. Here: pairs of prior draws without end, and the paper's "
        "weight of 0.1.",
        paper("2403.07691"),
        supports=("odds alone, loss at", "E[r]", "beta 0.1, optimum less prior, KL"),
        against=("the chosen alone), nats", "odds alone, optimum less prior"),
        caveat="At this weight the optimum is nearly that of fine-tuning on the chosen alone. The "
        "odds alone end, in nearly all random worlds, further from the posterior than the prior "
        "is, where the mean probability of a token is sigmoid(r + c).",
    ),
    "odpo": Paper(
        "Amini, Vieira and Cotterell 2024: DPO with an offset (ODPO)",
        "An offset that grows with the difference of the scores separates two responses more where "
        "one is much better. Here: half the difference of the rewards, for the preferences of "
        "Bradley and Terry without end. The paper's logarithm, and few pairs, were not tried.",
        paper("2402.10571"),
        supports=("E[r] at the optimum",),
        against=("KL(optimum || p*)", "KL(optimum || posterior of beta"),
        caveat="The optimum is, almost, the posterior of a smaller beta: another beta does this.",
    ),
    "tdpo": Paper(
        "Zeng et al. 2024: token-level DPO (TDPO)",
        "With the KL of every token in the reward, the optimum is p0 exp(Q/beta) at each token, Q "
        "the mean reward of the responses that the prior goes on with, and the KL from the prior "
        "is smaller than that of DPO. Here: TDPO_1. The optimum is the target of controlled "
        "decoding, and not the posterior. The stopped gradient of TDPO_2 was not tried.",
        paper("2404.11999"),
        against=("TDPO less DPO",),
        caveat="In the mean over random worlds KL(p0 || optimum) is larger than that of DPO. It is "
        "smaller on a third of them.",
    ),
    "bco": Paper(
        "Jung et al. 2024: binary classifier optimisation (BCO)",
        "A classifier of good and bad responses whose logit is the implicit reward aligns without "
        "pairs. Here: draws of the prior, labelled without end. The weights for labels of other "
        "prompts were not tried.",
        paper("2404.04656"),
        supports=("-beta log Z as the shift",),
        against=("the mean of all responses as the shift, KL",),
        caveat="The optimum is the posterior of the log-odds of a good response if the logit is "
        "shifted by beta log Z. The mean of all responses as the shift has another optimum.",
    ),
    "rpo": Paper(
        "Pang et al. 2024: DPO with the likelihood of the chosen (RPO); Xu et al. 2024: CPO",
        "The log-likelihood of the chosen response, added to DPO, keeps the chosen response from "
        "becoming rarer. Here: one round of RPO, of weight 1, on pairs without end, with the "
        "log-likelihood as it is; the paper divides it by the length.",
        abstract("2404.19733"),
        supports=("RPO, share",),
        against=("RPO, KL",),
        caveat="Fewer preferred responses become rarer, and the optimum is not the posterior.",
    ),
    "dpop": Paper(
        "Pal et al. 2024: DPO-Positive (DPOP)",
        "A penalty for a chosen response that is rarer than under the prior ends the displacement "
        "of DPO. Here: pairs without end, in which one response is chosen in some and rejected in "
        "others, with a the share of its pairs that a response wins.",
        abstract("2402.13228"),
        supports=("weight 50", "weight 5,", "weight 2 (max a / min a - 1)"),
        against=("least weight that holds",),
        caveat="The optimum is the prior, where nothing becomes rarer and nothing is learned, if "
        "the weight is at least 2 (max a / min a - 1). The paper's weight of 50 is above this "
        "here; a weight of 5 is below, and the optimum is away from the prior.",
    ),
    "rso": Paper(
        "Liu et al. 2023: statistical rejection sampling optimisation (RSO)",
        "The maximum likelihood estimate of the optimal policy needs preference pairs drawn from "
        "that policy.",
        abstract("2309.06657"),
        against=("pairs from", "pairs without end", "second derivatives"),
        caveat="Either pairs from the posterior or pairs from the prior can teach more, and pairs "
        "of all responses alike teach more than both. With enough pairs from any of them a rich "
        "guide reaches the posterior.",
    ),
    "gao-2022": Paper(
        "Gao et al. 2022: scaling laws for reward model over-optimisation",
        "The gold reward rises, peaks and falls as the KL grows. With more preferences the gold "
        "reward is higher, and falls less.",
        paper("2210.10760"),
        "rlhf --num-preferences 30 1000 --steps 1 --simulations 0 --draws 1024",
        supports=("gold reward lost beyond", "gold reward gained at the peak"),
        against=("gold reward lost from peak to end",),
        caveat="From the higher peak to the end, here a single response, more is lost and not "
        "less. The paper's curves end before.",
    ),
    "coste-2023": Paper(
        "Coste et al. 2023: ensembles of reward models",
        "Pessimism about an uncertain reward, such as the minimum of an ensemble, has more gold "
        "reward than the mean. Here: the posteriors of both, and of the mean less a multiple of "
        "the deviation; the paper's code subtracts a multiple of the variance.",
        paper("2310.02743"),
        "rlhf --num-preferences 30 1000 --steps 1 --simulations 0 --draws 1024",
        supports=("of the lower bound", "of the minimum"),
    ),
}
