"""Preferences: the optimum of each loss on preferences without end, over all distributions."""

import math
from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from experiments.identities.findings import DISTINCT, exact, over_cases, paired
from experiments.identities.residuals import minimum, pairs
from experiments.identities.world import World, cases, kl
from experiments.shared.claims import Finding, within
from inference.direct_preferences import LIKELIHOODS, bradley_terry, exo, kto, robust, smoothed
from inference.direct_preferences.likelihoods import Likelihood
from inference.roots import root
from model.preferences import FIRST

Head = Callable[[Tensor], Tensor]
"""r/beta of all responses, `[S]`, as a function of log q."""
FEW = 12
"""Number of cases of findings that need a descent in each."""


def optimum(world: World, likelihood: Likelihood, wins: Tensor, beta: float) -> Tensor:
    """log q at the least loss, `[S]`, for P(x beats y) `[S, S]` of pairs of prior draws."""
    return least(world, likelihood, won(world, wins), beta, world.log_ratio)


def least(world: World, likelihood: Likelihood, weight: Tensor, beta: float, head: Head) -> Tensor:
    """log q at the least loss, `[S]`, for pairs that the first has won, of a weight `[S, S]`."""
    return minimum(partial(loss_of, likelihood, weight, beta, head), world)


def loss_of(
    likelihood: Likelihood, weight: Tensor, beta: float, head: Head, log_guide: Tensor
) -> Tensor:
    """Negative log-likelihood of pairs that the first has won, of a weight `[S, S]`, nats."""
    rewards, outcome = pairs(head(log_guide)).flatten(1), torch.full((weight.numel(),), FIRST)
    return -(weight.flatten() * likelihood(rewards, outcome, beta)).sum()


def excess(
    likelihood: Likelihood, weight: Tensor, beta: float, head: Head, log_guide: Tensor
) -> float:
    """Loss less the entropy of the labels, nats: 0 at the optimum over all rewards, else above 0.

    The least loss of a pair is the entropy of its label (Gibbs), for P(x beats y) as in the labels.
    """
    label = weight / (weight + weight.T)
    least_loss = -(weight * label.log()).sum()
    return (loss_of(likelihood, weight, beta, head, log_guide) - least_loss).item()


def won(world: World, wins: Tensor) -> Tensor:
    """Probability of a pair of prior draws of which the first has won, `[S, S]`."""
    return pairs(world.log_prior).sum(0).exp() * wins


def preferred(world: World, wins: Tensor) -> Tensor:
    """Probability of a response as the preferred one of two different ones, `[S]`."""
    weight = won(world, wins).fill_diagonal_(0.0).sum(1)
    return weight / weight.sum()


def judged(world: World) -> tuple[Tensor, float]:
    """P(x beats y) of a judge with 4 nats per unit of reward, and the beta that gives p*."""
    sharpness = 4.0
    nats = sharpness * world.reward
    return (nats[:, None] - nats).sigmoid(), sharpness * world.model.beta


def ipo(world: World) -> list[Finding]:
    """IPO: p0 exp(P(x beats y)/beta), also for certain preferences (arXiv 2310.12036).

    DPO has no optimum for certain preferences: the descent goes on to the best response.
    """
    findings = []
    noisy, _ = judged(world)
    certain = (world.reward[:, None] > world.reward).double()
    certain.fill_diagonal_(0.5)
    beta = 0.5
    for name, wins in (("a noisy judge", noisy), ("a certain judge", certain)):
        log_guide = optimum(world, LIKELIHOODS["ipo"], wins, beta)
        share = wins @ world.log_prior.exp()
        log_target = (world.log_prior + share / beta).log_softmax(0)
        subject = f"{name}, KL(optimum || p0 exp(P(x beats y)/beta)/Z), nats"
        findings.append(exact(subject, kl(log_guide, log_target), limit=1e-6))
    nats = kl(log_guide, world.log_prior)
    of_dpo = kl(optimum(world, LIKELIHOODS["dpo"], certain, beta), world.log_prior)
    subject = "a certain judge, KL(q || p0) where the descent of DPO ends"
    findings.append(within(f"{subject}, nats (IPO: {nats:.2g})", of_dpo, above=2 * nats))
    return findings


def slic(world: World) -> list[Finding]:
    """SLiC's hinge has another optimum than the posterior (arXiv 2305.10425)."""
    wins, beta = judged(world)
    distances = [
        world.gap(log) for log in (optimum(world, LIKELIHOODS["slic"], wins, beta), world.log_prior)
    ]
    return [
        within("KL(optimum || p*), nats", distances[0], above=DISTINCT),
        within("KL(p0 || p*), nats (above the optimum's)", distances[1], above=distances[0]),
    ]


def exo_check(world: World) -> list[Finding]:
    """Reverse KL from the preferences of q to labels of pairs (EXO, arXiv 2402.00856).

    Labels of the rewards are P(x beats y). A label of one comparison is 1 - e or e, and the mean of
    the loss has its minimum at beta h = (2 P - 1) log((1 - e)/e), which is log P/(1 - P) for P near
    1/2 and e = 0.119. The authors' code has e = exp(-10).
    """
    wins, beta = judged(world)
    weight = pairs(world.log_prior).sum(0).exp()

    def loss(log_guide: Tensor) -> Tensor:
        first, second = pairs(log_guide - world.log_prior)
        log_own = torch.stack([logsigmoid(beta * h) for h in (first - second, second - first)])
        log_label = torch.stack([wins, wins.T]).log()
        return (weight * (log_own.exp() * (log_own - log_label)).sum(0)).sum()

    of_labels = (optimum(world, exo(flip), wins, beta) for flip in (0.1, math.exp(-10)))
    nats = [world.gap(log) for log in (minimum(loss, world), *of_labels, world.log_prior)]
    subject = "KL(optimum || p*), nats"
    sure = f"labels 1 - e and e, e = exp(-10), {subject} (the prior's: {nats[3]:.2g})"
    return [
        exact(f"labels of the rewards, {subject}", nats[0], limit=1e-6),
        within(f"labels 0.9 and 0.1, {subject}", nats[1], above=DISTINCT, below=0.1),
        within(sure, nats[2], above=0.1),
    ]


def kto_check(world: World) -> list[Finding]:
    """KTO on draws of p0, of which the preferred is desirable (arXiv 2402.01306).

    The paper's reference point z is KL(q || p0). The authors' code estimates z by the mean of log
    q/p0 over responses of the data, at least 0, which is 0 for draws of p0.
    """
    wins, beta = judged(world)
    errors, findings = [], []
    points: dict[str, Callable[[World], float]] = {"0": lambda _: 0.0, "KL(q || p0)": _own_point}
    for name, point in points.items():
        log_guide = optimum(world, kto(reference=point(world)), wins, beta)
        errors.append(kl(soft_filter(world, point(world)), log_guide))
        ends = [soft_filter(case, point(case)) for case in cases(priors=True)]
        distance = f"z {name}, KL(optimum || p*), nats"
        findings += [
            less_prior(f"z {name}, optimum", ends, below=0.0),
            over_cases(
                distance,
                [case.gap(log) for case, log in zip(cases(priors=True), ends, strict=True)],
                above=DISTINCT,
            ),
        ]
    subject = "z 0 and KL(q || p0), KL(soft filter || optimum), nats"
    return [exact(subject, *errors, limit=5e-3), *findings]


def less_prior(subject: str, log_guides: Iterable[Tensor], **limits: float) -> Finding:
    """KL from a guide of each case to p*, less that from the prior, in as many cases."""
    both = [
        (case.gap(log_guide), case.gap(case.log_prior))
        for case, log_guide in zip(cases(priors=True), log_guides, strict=False)
    ]
    own, prior = torch.tensor(both).T
    return paired(f"{subject} less prior, KL to p*, nats", own, prior, **limits)


def soft_filter(world: World, z: float) -> Tensor:
    """log q at the maximum of E_p0[(2 a - 1) sigmoid(log q/p0 - z)], `[S]`, nats: KTO at beta 1.

    With a the share of wins against p0, q/p0 is max(0, sqrt((2 a - 1) e^z/lam) - e^z).
    """
    prior, scale = world.log_prior.exp(), math.exp(z)
    gain = (2 * judged(world)[0] @ prior - 1).clamp(min=0.0)
    top = (gain.max() / scale).log().item()

    def prob(log_lam: float) -> Tensor:
        return prior * ((gain * scale / math.exp(log_lam)).sqrt() - scale).clamp(min=0.0)

    return prob(root(lambda x: prob(x).sum().item() - 1, top - 50.0, top)).log()


def _own_point(world: World) -> float:
    """The z that is KL(q || p0) of its own optimum, nats."""
    limit = -world.log_prior.min().item()
    return root(lambda z: z - kl(soft_filter(world, z), world.log_prior), 0.0, limit)


def displacement(world: World) -> list[Finding]:
    """Preferred responses that lose probability, at the optimum of DPO (arXiv 2410.08847).

    log q/p0 = r/beta - log Z at the optimum: all responses with r below beta log Z lose, whether
    they were preferred or not.
    """
    wins, beta = judged(world)
    log_guide = optimum(world, LIKELIHOODS["dpo"], wins, beta)
    loses = (log_guide < world.log_prior).double()
    weight = won(world, wins)
    weight.fill_diagonal_(0.0)
    prob = weight / weight.sum()  # of a pair of different responses
    preferred, both = (prob.sum(1) @ loses).item(), (loses @ prob @ loses).item()
    return [
        exact("KL(optimum || p*), nats", world.gap(log_guide), limit=1e-6),
        within("share of preferred responses that become rarer", preferred, above=0.1),
        within("share of pairs of which both become rarer", both, above=0.1),
    ]


def rdpo(world: World) -> list[Finding]:
    """Labels reversed with a known probability: rDPO, cDPO, the likelihood (arXiv 2403.00409)."""
    flip = 0.2
    wins, beta = judged(world)
    noisy = (1 - flip) * wins + flip * wins.T
    losses = {
        "rDPO": robust(flip),
        "the likelihood with flips": bradley_terry(flip=flip),
        "DPO": LIKELIHOODS["dpo"],
        "cDPO": smoothed(flip),
    }
    nats = {name: world.gap(optimum(world, loss, noisy, beta)) for name, loss in losses.items()}
    subject = f"{100 * flip:.0f}% reversed, KL(optimum || p*), nats"
    wide = torch.tensor([[40 / beta], [0.0]], dtype=torch.float64)
    gain = [losses[name](wide, torch.tensor([FIRST]), beta).item() for name in list(losses)[:2]]
    one = "log-likelihood of one pair at beta h = 40, nats"
    return [
        *[exact(f"{subject}, {name}", nats.pop(name), limit=1e-6) for name in list(losses)[:2]],
        *[within(f"{subject}, {name}", nats[name], above=DISTINCT) for name in nats],
        within(f"{one}, the likelihood with flips", gain[1], below=0.0),
        within(f"{one}, rDPO", gain[0], above=0.0),
    ]
