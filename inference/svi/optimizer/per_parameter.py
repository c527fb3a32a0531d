"""The optimisers of `pyro.optim` in a fit: one torch optimiser for each parameter, made and stepped as Pyro does."""

from __future__ import annotations

import math

import torch
from pyro.optim import PyroOptim
from torch import Tensor

from inference.svi.optimizer.backup import OptimizerEntry
from inference.svi.optimizer.checked import CheckedOptimizer
from inference.svi.optimizer.options import check_options, trial_parameter, try_step


class PerParameterOptimizer(CheckedOptimizer):
    """An optimiser of `pyro.optim`, checked. It clips and steps each parameter on its own.

    Args:
        optimizer: what a function of `pyro.optim` returns, such as `pyro.optim.ClippedAdam({"lr": 1e-3})`; a new one.

    Raises:
        TypeError: if the optimiser does something else in a step than Pyro's own class, as a scheduler does.
        ValueError: if the optimiser has stepped before, cannot step, or would go up the gradient.
    """

    def __init__(self, optimizer: PyroOptim) -> None:
        if type(optimizer) is not PyroOptim:
            raise TypeError(
                f"optimizer is a {type(optimizer).__name__}, expected one of `pyro.optim` that is no scheduler, or "
                "`FusedOptimizer`, whose `schedule` changes the learning rate from step to step"
            )
        if optimizer.optim_objs:
            raise ValueError("the optimizer has been used already, expected a new one for each fit")
        if isinstance(optimizer.pt_optim_args, dict):
            try_step(optimizer.pt_optim_constructor([trial_parameter()], **optimizer.pt_optim_args))
        if isinstance(optimizer.pt_clip_args, dict):
            check_options(optimizer.pt_clip_args)
        super().__init__(
            optimizer.pt_optim_constructor, optimizer.pt_optim_args, optimizer.pt_clip_args
        )
        self.optim_objs, self.grad_clip = optimizer.optim_objs, optimizer.grad_clip

    @property
    def learning_rate(self) -> float:
        """Learning rate of the next step; NaN before the parameters are met, or where they have several."""
        rates = {
            float(group.get("lr", math.nan))
            for entry in self.optim_objs.values()
            for group in entry.param_groups
        }
        if not rates and isinstance(self.pt_optim_args, dict):
            return float(self.pt_optim_args.get("lr", math.nan))
        return rates.pop() if len(rates) == 1 else math.nan

    def _adopt(self, new: dict[str, Tensor]) -> None:
        for name, parameter in new.items():
            self.optim_objs[parameter] = self._get_optim(parameter)
            self.grad_clip[parameter] = self._get_grad_clip(parameter)
            self._entries[name] = OptimizerEntry.of(parameter, self.optim_objs[parameter])
            check_options(self._entries[name].group | self._get_grad_clip_args(parameter))

    def _advance(self, trained: list[Tensor], norm: torch.Tensor) -> None:
        PyroOptim.__call__(self, trained)
