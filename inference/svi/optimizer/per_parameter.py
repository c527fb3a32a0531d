"""Optimisers of `pyro.optim` in a fit: one torch optimiser for each parameter."""

import math

from pyro.optim import PyroOptim
from torch import Tensor

from inference.svi.optimizer.backup import OptimizerEntry
from inference.svi.optimizer.checked import CheckedOptimizer
from inference.svi.optimizer.torch_optimizers import check_options, trial_parameter, try_step


class PerParameterOptimizer(CheckedOptimizer):
    """An optimiser of `pyro.optim` with checks. Clips and steps each parameter on its own.

    Raises:
        TypeError: if the optimiser overrides the step of Pyro's class, as a scheduler does.
        ValueError: if the optimiser has stepped before, cannot step, or would ascend the gradient.
    """

    def __init__(self, optimizer: PyroOptim) -> None:
        if type(optimizer) is not PyroOptim:
            raise TypeError(
                f"optimizer is a {type(optimizer).__name__}, expected one of `pyro.optim` that is "
                "no scheduler, or `FusedOptimizer`, whose `schedule` changes the learning rate "
                "from step to step"
            )
        if optimizer.optim_objs:
            raise ValueError("the optimizer has been used already, expected a new one for each fit")
        constructor, options = optimizer.pt_optim_constructor, optimizer.pt_optim_args
        if isinstance(options, dict):
            try_step(constructor([trial_parameter()], **options))
        if isinstance(optimizer.pt_clip_args, dict):
            check_options(optimizer.pt_clip_args)
        super().__init__(constructor, options, optimizer.pt_clip_args)
        self.optim_objs, self.grad_clip = optimizer.optim_objs, optimizer.grad_clip

    @property
    def learning_rate(self) -> float:
        """Learning rate of the next step; NaN before the first step, or if there are several."""
        groups = [group for entry in self.optim_objs.values() for group in entry.param_groups]
        rates = {float(group.get("lr", math.nan)) for group in groups}
        if not rates and isinstance(self.pt_optim_args, dict):
            return float(self.pt_optim_args.get("lr", math.nan))
        return rates.pop() if len(rates) == 1 else math.nan

    def _adopt(self, new: dict[str, Tensor]) -> None:
        for name, parameter in new.items():
            self.optim_objs[parameter] = self._get_optim(parameter)
            self.grad_clip[parameter] = self._get_grad_clip(parameter)
            self._entries[name] = OptimizerEntry.of(parameter, self.optim_objs[parameter])
            check_options(self._entries[name].group | self._get_grad_clip_args(parameter))

    def _advance(self, trained: list[Tensor], norm: Tensor) -> bool:
        PyroOptim.__call__(self, trained)
        return False
