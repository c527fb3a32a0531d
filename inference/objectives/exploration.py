"""Bolder draws of a guide, at a distance in nats: the temperature adapts to the distance.

    a(x) = the guide q with its logits divided by a temperature of at least 1
    size = 1/2 mean_x (log a(x) - log q(x))^2,   x ~ a     near KL(a || q)

One temperature is a short distance on short responses and a long one on long responses: 1.5 is 0.15
nats on four tokens of a random network, and many nats on 24 tokens of English. The size grows as
the square of (temperature - 1), to which the temperature of the next batch is fitted.
"""

import math

import torch
from torch import Tensor

from model.common.checks import finite

START = 1.05
"""Temperature of the first batch, before a size is measured."""
LARGEST = 2.0
"""Largest temperature, of a guide that is nearly uniform or deterministic."""
GROWTH = 2.0  # largest factor of temperature - 1 from batch to batch
DECAY = 0.25  # smallest factor


class Exploration:
    """Temperature of bolder draws whose size is `kl` nats a response, the mean over prompts.

        exploration = Exploration(0.15)
        exploration.measure(log_ratio)  # log a - log q of the draws, [K, N]
        exploration.temperature  # of the next batch

    Args:
        kl: KL(a || q) of the bolder draws, nats a response; 0 for draws of the guide.
    """

    def __init__(self, kl: float) -> None:
        self.kl = finite("exploration_kl", kl, at_least=0)
        self.temperature = START if self.kl else 1.0

    @torch.no_grad()
    def measure(self, log_ratio: Tensor) -> None:
        """Adapt the temperature to draws at the temperature, given log a - log q `[K, N]`, nats."""
        if not self.kl:
            return
        size = 0.5 * log_ratio.double().square().mean().item()
        factor = GROWTH if size == 0 else math.sqrt(self.kl / size)
        # NaN, of a guide that is to be undone, leaves the smallest factor
        factor = min(factor, GROWTH) if factor >= DECAY else DECAY
        self.temperature = min(1 + (self.temperature - 1) * factor, LARGEST)

    def get_state(self) -> dict[str, Tensor]:
        """The temperature, for checkpoints."""
        return {"temperature": torch.tensor(self.temperature, dtype=torch.float64)}

    def set_state(self, state: dict[str, Tensor]) -> None:
        self.temperature = state["temperature"].item()
