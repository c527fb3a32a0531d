"""A moving average of unbiased estimates of Z, for each prompt on its own."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from model import Prompts
from model.common.checks import finite


class LogZAverage:
    """log of the mean of all estimates of Z seen so far, or of about the last 1/(1 - decay) once there are as many.

    Args:
        decay: how much of the average stays when an estimate is added, at most.
    """

    def __init__(self, decay: float = 0.99) -> None:
        self.decay = finite("decay", decay, at_least=0, below=1)
        self._seen: dict[str, tuple[float, int]] = {}

    def update(self, prompts: Prompts, log_z_hat: Tensor) -> Tensor:
        """Add one estimate for each prompt, `[N]`, nats. Returns the averages, `[N]`.

        An estimate of NaN or +inf is returned as it is and not added: the average would never be a number again.
        """
        averages = []
        for name, new in zip(prompts.names(), log_z_hat.tolist(), strict=True):
            if not new < math.inf:
                averages.append(new)
                continue
            old, count = self._seen.get(name, (-math.inf, 0))
            keep = min(self.decay, count / (count + 1))
            kept = old + math.log(keep) if keep > 0 else -math.inf
            average = float(np.logaddexp(kept, new + math.log1p(-keep)))
            self._seen[name] = (average, count + 1)
            averages.append(average)
        return log_z_hat.new_tensor(averages)

    def get_state(self) -> dict[str, Tensor]:
        """By prompt: the average and how many estimates it has seen."""
        return {name: torch.tensor(seen, dtype=torch.float64) for name, seen in self._seen.items()}

    def set_state(self, state: dict[str, Tensor]) -> None:
        """Take up what `get_state` gave."""
        self._seen = {name: (seen[0].item(), int(seen[1].item())) for name, seen in state.items()}
