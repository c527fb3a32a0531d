"""Shape of a reward without a reference: a power of the probability in place of its log."""

import torch
from torch import Tensor

from experiments.identities.findings import exact, paired
from experiments.identities.preferences import excess, judged, preferred, won
from experiments.identities.world import World, cases
from experiments.shared.claims import Finding
from inference.direct_preferences import LIKELIHOODS, alpha_divergence
from inference.roots import root

ALPHA = 0.25
"""Power of the mean probability of a token. A smaller one is nearer to SimPO's logarithm."""


def target(alpha: float, nats: Tensor, length: Tensor) -> Tensor:
    """log q, `[S]`, with (1 - P^-alpha)/alpha = nats + c, P the mean probability of a token."""

    def at(value: float) -> Tensor:
        return -length / alpha * torch.log1p(-alpha * (nats + value))

    return at(root(lambda value: at(value).logsumexp(0).item(), -1e4, -nats.max().item()))


def alpha_po_check(_: World) -> list[Finding]:
    """(1 - P^-alpha)/alpha in place of SimPO's log P (AlphaPO, arXiv 2501.03884), no margin.

    The reward is the link of an alpha divergence of f-DPO, as a function of P in place of q/p0.
    """
    link, errors = alpha_divergence(ALPHA), []
    numbers: list[list[float]] = []
    for case in cases(priors=True):
        (wins, beta), length = judged(case), case.length
        own, nats = preferred(case, wins), case.reward / case.model.beta
        both = [target(alpha, nats, length) for alpha in (ALPHA, 1e-6)]

        def shaped(log_guide: Tensor, length: Tensor = length) -> Tensor:
            return link(log_guide / length)

        errors.append(excess(LIKELIHOODS["dpo"], won(case, wins), beta, shaped, both[0]))
        distances = [case.gap(log_guide) for log_guide in (*both, case.log_prior)]
        gains = [(own @ case.log_ratio(log_guide)).item() for log_guide in both]
        numbers.append([*distances, *gains])
    alpha_po, sim_po, prior, gain, other_gain = torch.tensor(numbers).T
    of_loss = (
        f"alpha {ALPHA:g}, loss at P = (1 - alpha (r + c))^(-1/alpha) less the least of any rewards"
    )
    return [
        exact(of_loss, *errors),
        paired("AlphaPO less SimPO, KL(optimum || p*), nats", alpha_po, sim_po, below=0.0),
        paired(
            "AlphaPO less SimPO, mean log q/p0 of the preferred, nats", gain, other_gain, above=0.0
        ),
        paired("AlphaPO less the prior, KL from p*, nats", alpha_po, prior, above=0.0),
    ]
