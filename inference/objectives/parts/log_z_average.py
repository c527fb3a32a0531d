"""A moving average of unbiased estimates of Z, for each prompt."""

import math

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
        self._averages: dict[str, Tensor] = {}  # average, nats, and number of estimates, `[2]`

    def update(self, prompts: Prompts, log_z_hat: Tensor) -> Tensor:
        """Add one estimate for each prompt, `[N]`, nats; return the averages, `[N]`, nats.

        An estimate of NaN or +inf is returned unchanged and not added, as it would never fade.
        Nothing waits for a GPU.
        """
        new, names = log_z_hat.detach().double(), prompts.names()
        nothing = torch.stack([new.new_full((), -math.inf), new.new_zeros(())])
        old = torch.stack([self._averages.get(name, nothing) for name in names], 1)  # [2, N]
        decay = (old[1] / (old[1] + 1)).clamp(max=self.decay)
        average = torch.logaddexp(old[0] + decay.log(), new + torch.log1p(-decay))
        is_number = new < math.inf
        state = torch.where(is_number, torch.stack([average, old[1] + 1]), old)
        self._averages |= dict(zip(names, state.unbind(1), strict=True))
        return torch.where(is_number, average, new).to(log_z_hat)

    def get_state(self) -> dict[str, Tensor]:
        """Average and number of estimates of each prompt, for checkpoints."""
        return dict(self._averages)

    def set_state(self, state: dict[str, Tensor]) -> None:
        self._averages = dict(state)
