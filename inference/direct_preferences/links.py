"""Links f': the reward over beta as a function of log q/p0, for a penalty of another divergence.

    max_q  E_q[r] - beta D_f(q || p0),   D_f = E_p0[f(q/p0)]      =>      r = beta f'(q/p0) + c

Wang et al. 2024, arXiv 2309.16240.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import softplus

LINKS: dict[str, Callable[[Tensor], Tensor]] = {
    "reverse-kl": lambda log_ratio: log_ratio,
    "forward-kl": lambda log_ratio: -torch.exp(-log_ratio),
    # log 2u/(1 + u), up to a constant
    "jensen-shannon": lambda log_ratio: -softplus(-log_ratio),
    "chi-squared": lambda log_ratio: log_ratio + torch.exp(log_ratio),
}
"""f'(u) of log u, by the name of the divergence; `chi-squared` is the mixture of chi-PO."""
