"""A moving average of unbiased estimates of Z, for each prompt."""

import math

import numpy as np
import torch
from torch import Tensor

from model import Prompts
from model.common.checks import finite


class LogZAverage:
    """log of the mean of all estimates of Z, or of about the last 1/(1 - decay) estimates.

    Args:
        decay: Largest weight of the old average when an estimate is added.
    """

    def __init__(self, decay: float = 0.99) -> None:
        self.decay = finite("decay", decay, at_least=0, below=1)
        self._averages: dict[str, tuple[float, int]] = {}  # average and number of estimates

    def update(self, prompts: Prompts, log_z_hat: Tensor) -> Tensor:
        """Add one estimate for each prompt, `[N]`, nats; return the averages, `[N]`, nats.

        An estimate of NaN or +inf is returned unchanged and not added, as it would never fade.
        """
        averages = []
        for name, new in zip(prompts.names(), log_z_hat.tolist(), strict=True):
            if not new < math.inf:
                averages.append(new)
                continue
            old, count = self._averages.get(name, (-math.inf, 0))
            decay = min(self.decay, count / (count + 1))
            log_old = old + math.log(decay) if decay > 0 else -math.inf
            average = float(np.logaddexp(log_old, new + math.log1p(-decay)))
            self._averages[name] = (average, count + 1)
            averages.append(average)
        return log_z_hat.new_tensor(averages)

    def get_state(self) -> dict[str, Tensor]:
        """Average and number of estimates of each prompt, for checkpoints."""
        return {name: torch.tensor(v, dtype=torch.float64) for name, v in self._averages.items()}

    def set_state(self, state: dict[str, Tensor]) -> None:
        self._averages = {name: (v[0].item(), int(v[1].item())) for name, v in state.items()}
