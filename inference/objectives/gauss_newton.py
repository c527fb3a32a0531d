"""Gauss-Newton: the log-weights of all responses so far, fitted by weighted least squares.

At the posterior log w is one constant for each prompt. A step solves for the parameters phi that
bring the log-weights of the responses in memory nearest to such constants,

    min_phi,c  sum_i a_i (log p*(x_i) - log q(x_i) - grad log q(x_i) (phi - phi_i) - c)^2
               + ridge g |phi - phi_0|^2,      a_i = min(1, q(x_i) / q_i(x_i))^power

with log q, its gradient and phi_i from when response i was drawn by q_i, and g the mean square of
the last gradients' norms. This is Bayesian linear regression: a Gaussian prior of the parameters
around phi_0, and log-weights as observations. phi_0 is where the guide was at the oldest response
in memory, so that the pull vanishes as the guide settles. The posterior is a fixed point, where all
residuals are 0, if the family has the posterior. Old gradients are those of old parameters: a
memory that never drops a response ends near the posterior, one that does ends there. Responses are
fitted from their first draw on.

`leave-one-out` is one gradient step on the same loss for the last responses alone, and forgets the
others. The solution is in the space of the M responses in memory (kernel ridge regression): an
`[M, M]` system a step, and M gradients of D numbers in memory.

Half the variance of log-weights as a loss: VarGrad, Richter et al. 2020, arXiv 2010.10436. Steps in
the space of samples: minSR, Chen and Heyl 2023, arXiv 2302.01941; with a memory of the steps
before, SPRING, Goldshlager et al. 2024, arXiv 2401.10190. Here the memory is of the observations.
"""

import os
import weakref

import pyro
import torch
from torch import Tensor

from inference.objectives.leave_one_out import BASELINE
from inference.objectives.parts.response_gradients import response_gradients
from inference.objectives.parts.response_memory import ResponseMemory
from inference.objectives.parts.response_objective import Losses, ResponseObjective
from inference.programs import Program
from model import Prompts
from model.common.checks import positive, whole_number
from model.common.devices import total_memory
from model.common.sharded_tensors import is_sharded


class GaussNewton(ResponseObjective):
    """Weighted least squares over all responses so far, for guides of few parameters.

        fit(model, LoRA(prior), prompts, num_steps=40, objective=GaussNewton(num_particles=32))

    `.grad` is minus the step, and `fit` takes whole steps by `WholeSteps`, shortened to a size in
    nats. Fewer responses for the same nats than `leave-one-out` on language models with adapters,
    at a memory of M D numbers, which checkpoints hold too: see "Which to choose" in
    inference/README.md.

    Args:
        num_particles: K, at least 2, number of fresh responses to each prompt in a step.
        ridge: Strength of the pull to earlier parameters, in units of a response's squared
            gradient. A larger ridge learns less from each response, and fits less of their noise.
        power: Power of the weight q/q_i of a response that the guide has left behind. 0 counts all
            alike, 1 is a truncated importance weight.
        capacity: M, largest number of responses in memory beside those of the last step. The
            oldest batches leave first.

    Raises:
        ValueError: In a step, if M gradients are more than the memory of the device.
        ValueError: In a step with another guide than the steps before.
        NotImplementedError: In a step, if the parameters are sharded.
    """

    ascends_elbo = True
    takes_whole_steps = True
    min_particles = 2
    why_particles = BASELINE

    def __init__(
        self,
        num_particles: int = 64,
        *,
        ridge: float = 0.1,
        power: float = 1.0,
        capacity: int = 4096,
    ) -> None:
        super().__init__(num_particles)
        self.ridge = positive("ridge", ridge)
        self.power = positive("power", power)
        self.capacity = whole_number("capacity", capacity)
        self.memory: ResponseMemory | None = None

    def losses(self, model: Program, guide: Program, prompts: Prompts) -> Losses:
        distribution, response = self.draw(guide, prompts)
        joint = self.score(model, prompts, response)
        parameters = _trained()
        self._check_same(parameters)
        with torch.enable_grad():
            log_guide, gradient = response_gradients(distribution, response, parameters)
        log_weight = joint.log_joint - log_guide.double()
        point = torch.cat([parameter.detach().flatten() for parameter in parameters.values()])
        if self.memory is None:
            _check_room(point, self.capacity)
            self.memory = ResponseMemory(point)
        self.memory.move(point)
        self.memory.add(prompts, gradient, joint.log_joint, log_guide.double())
        self.memory.forget(self.capacity)
        parts = self._step().split([parameter.numel() for parameter in parameters.values()])
        pairs = zip(parameters.values(), parts, strict=True)
        surrogate = torch.stack([-(p * part.view_as(p)).sum() for p, part in pairs]).sum()
        draws = (response, log_guide, log_weight, joint.log_likelihood)
        return Losses(-log_weight.mean(0).sum(), surrogate, *draws)

    def _check_same(self, parameters: dict[str, Tensor]) -> None:
        """Refuse the parameters of another guide than that whose gradients are in memory."""
        if self.memory is None or self not in _PARAMETERS:
            _PARAMETERS[self] = [weakref.ref(parameter) for parameter in parameters.values()]
        first = [id(reference()) for reference in _PARAMETERS[self]]
        if first != [id(parameter) for parameter in parameters.values()]:
            raise ValueError(
                "GaussNewton has gradients of another guide: make a new objective for each guide"
            )

    def _step(self) -> Tensor:
        """Step from the parameters now to the solution of the least squares, `[D]`."""
        assert self.memory is not None
        memory = self.memory
        weight = (self.power * (memory.log_guide - memory.log_drawn)).clamp(max=0.0).exp()  # [M]
        from_start = memory.point - memory.batches[0].point  # phi - phi_0, [D]
        residual = memory.log_target - memory.log_guide + memory.along(from_start)
        last = len(memory.batches[-1].gradient)
        ridge = self.ridge * memory.product.diagonal()[-last:].mean()
        # prompts with a response in memory; no weight is divided by 0
        different, index = memory.prompt.unique(return_inverse=True)
        one_hot = torch.nn.functional.one_hot(index, len(different)).to(weight)
        tiny = torch.finfo(weight.dtype).tiny
        means = (one_hot * weight[:, None]) / (one_hot.T @ weight).clamp(min=tiny)  # [M, N]
        root = weight.sqrt()[:, None]
        system = _centred_system(memory.product, root, one_hot, means)
        # above the rounding of the products, so that the system is positive definite
        least = torch.finfo(system.dtype).eps * system.trace() + torch.finfo(system.dtype).tiny
        system.diagonal().add_(ridge.clamp(min=least))
        centred = residual - one_hot @ (means.T @ residual)
        right = root * centred[:, None]
        solution = torch.cholesky_solve(right.to(system), torch.linalg.cholesky(system))
        return memory.combined((root * solution)[:, 0]) - from_start

    def copy_state(self) -> dict[str, Tensor]:
        return self.get_state()  # no tensor of the memory is changed in place

    def get_state(self) -> dict[str, Tensor]:
        return {} if self.memory is None else self.memory.get_state()

    def set_state(self, state: dict[str, Tensor]) -> None:
        self.memory = ResponseMemory.from_state(state) if state else None


_PARAMETERS: weakref.WeakKeyDictionary[GaussNewton, list[weakref.ref[Tensor]]]
_PARAMETERS = weakref.WeakKeyDictionary()
"""Parameters of the first step of each objective; no attribute, which a copy would copy."""


def _centred_system(product: Tensor, root: Tensor, one_hot: Tensor, means: Tensor) -> Tensor:
    """R (I - H W^T) P (I - W H^T) R, `[M, M]`: products of gradients less their prompts' means.

    Args:
        product: P, `[M, M]`.
        root: diagonal of R, `[M, 1]`.
        one_hot, means: H, the prompt of each response, and W, the weights of a prompt's mean,
            `[M, N]`.
    """
    root, one_hot, means = (tensor.to(product) for tensor in (root, one_hot, means))
    across = product @ means  # [M, N]
    half = root * (across - 0.5 * one_hot @ (means.T @ across))
    one_hot = root * one_hot
    system = (root * product).mul_(root.T)
    return system.addmm_(torch.cat([one_hot, half], 1), torch.cat([half, one_hot], 1).T, alpha=-1)


def _trained() -> dict[str, Tensor]:
    """Parameters in Pyro's store that train, in the order of their names."""
    store = sorted(pyro.get_param_store().named_parameters())
    parameters = {name: parameter for name, parameter in store if parameter.requires_grad}
    if any(map(is_sharded, parameters.values())):
        raise NotImplementedError(
            "GaussNewton needs whole parameters, and these are sharded: leave the shards out"
        )
    return parameters


def _check_room(point: Tensor, capacity: int) -> None:
    """Refuse parameters whose gradients at `capacity` responses are more than the memory."""
    room = total_memory(point.device) or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    needed = capacity * point.numel() * point.element_size()
    if needed > room:
        raise ValueError(
            f"{capacity} gradients of {point.numel():,} numbers take {needed / 1e9:.0f} GB, and "
            f"the device has {room / 1e9:.0f} GB: train fewer parameters, as by `LoRA` with few "
            "`target_modules`, or, in Python, lower `capacity`"
        )
