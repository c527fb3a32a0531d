"""The dual of moment matching, a convex function of the multipliers.

    p(x)         = base(x) exp(lambda . phi(x)) / Z(lambda)
    dual(lambda) = log Z(lambda) - lambda . target

The gradient is E_p[phi] - target, the Hessian Cov_p[phi].
"""

import numpy as np
import scipy
import torch
from numpy.typing import NDArray
from torch import Tensor

LIMIT = 30.0
"""Largest multiplier of an unattainable target, nats per standard deviation of the feature."""
POLISH = 3  # number of plain Newton steps at the end, where the dual is flat to rounding
GRADIENT = 1e-10  # tolerance of the dual's gradient, in standard deviations of a feature
CONVERGED = 1e-6  # largest error of a moment, in standard deviations of the feature
ROUNDING = 1e-12  # largest relative range of a constant feature


class MomentDual:
    """log Z(lambda) - lambda . target, averaged over prompts, for features of unit variance.

    Takes features `[F, M, N]`, log probabilities of the base `[M, N]`, and target means `[F]`.
    """

    def __init__(self, phi: Tensor, log_base: Tensor, target: Tensor) -> None:
        base = log_base.exp()
        impossible = base == 0
        mean = (base * phi).sum(1, keepdim=True)  # [F, 1, N]
        deviation = (base * (phi - mean).square()).sum(1).mean(1).sqrt()  # [F]
        highest = phi.masked_fill(impossible, -torch.inf).amax(1)
        extent = (highest - phi.masked_fill(impossible, torch.inf).amin(1)).amax(1)
        self.rounding = ROUNDING * phi.masked_fill(impossible, 0.0).abs().amax((1, 2))
        self.free = extent > self.rounding  # a constant feature has no multiplier
        scale = torch.where(deviation > 0, deviation, extent)
        self.scale = torch.where(self.free, scale, 1.0)
        # centred on the target: the gradient is a mean of these
        centred = (phi - target[:, None, None]) / self.scale[:, None, None]
        self.phi = torch.where(self.free[:, None, None], centred, 0.0)
        self.log_base = log_base

    def _log_z_and_prob(self, scaled: NDArray) -> tuple[Tensor, Tensor]:
        """log Z `[N]` and p `[M, N]` at scaled multipliers."""
        log_joint = self.log_base + torch.einsum("f,fmn->mn", torch.from_numpy(scaled), self.phi)
        return log_joint.logsumexp(0), log_joint.softmax(0)

    def value_and_gradient(self, scaled: NDArray) -> tuple[float, NDArray]:
        log_z, prob = self._log_z_and_prob(scaled)
        return log_z.mean().item(), (prob * self.phi).sum(1).mean(1).numpy()

    def hessian(self, scaled: NDArray) -> NDArray:
        """Covariance of the features within a prompt, averaged over prompts, `[F, F]`."""
        _, prob = self._log_z_and_prob(scaled)
        mean = (prob * self.phi).sum(1)  # [F, N]
        second = torch.einsum("mn,fmn,gmn->fgn", prob, self.phi, self.phi)
        return (second - mean[:, None] * mean[None]).mean(-1).numpy()

    def solve(self, attainable: bool) -> Tensor:
        """The minimum, or the best within `LIMIT`, `[F]`, nats per unit of the feature."""
        solution = np.zeros(len(self.phi))
        dual = self.value_and_gradient
        if attainable:
            method = {"hess": self.hessian, "method": "trust-exact"}
            options = {"gtol": GRADIENT, "maxiter": 1000}
            solution = scipy.optimize.minimize(
                dual, solution, jac=True, **method, options=options
            ).x
            for _ in range(POLISH):
                solution = solution - np.linalg.pinv(self.hessian(solution)) @ dual(solution)[1]
            scale = self.scale.numpy()
            error = np.abs(dual(solution)[1]) * scale
            spread = np.sqrt(np.diag(self.hessian(solution)).clip(min=0)) * scale
            if (error > CONVERGED * spread + self.rounding.numpy()).any():
                fault = (
                    f"the moments are off by up to {error.max():.1e}. Ask for less, or draw more"
                )
                raise RuntimeError(f"the multipliers did not converge: {fault}")
        else:
            bounds = [(-LIMIT, LIMIT)] * len(solution)
            solution = scipy.optimize.minimize(
                dual, solution, jac=True, bounds=bounds, method="L-BFGS-B"
            ).x
        return torch.where(self.free, torch.from_numpy(solution) / self.scale, 0.0)

    def standard_errors(self, multipliers: Tensor, exact: bool) -> list[float]:
        """Standard errors of the multipliers, by the delta method."""
        if exact:
            return [0.0] * len(multipliers)
        scaled = (multipliers * self.scale).numpy()
        _, prob = self._log_z_and_prob(scaled)
        num_draws, num_prompts = prob.shape
        residual = self.phi - (prob * self.phi).sum(1, keepdim=True)
        influence = num_draws * prob * residual / num_prompts  # [F, M, N]
        square = torch.einsum("fmn,gmn->fg", influence, influence).numpy()
        noise = square / (num_draws - 1) / num_draws
        inverse = np.linalg.pinv(self.hessian(scaled))
        return (np.sqrt(np.diag(inverse @ noise @ inverse)) / self.scale.numpy()).tolist()


def room(phi: Tensor, log_base: Tensor, target: Tensor) -> float:
    """The largest t with target = t E_base[phi] + (1 - t) times a mean of phi; below 0 for none.

    Above 0 the target is inside the attainable set, and the multipliers are finite; at 0 it is on
    the edge. A linear program in the probabilities of the different values of phi at each prompt.
    """
    num_prompts = log_base.shape[1]
    possible = log_base > -torch.inf
    values = [phi[:, possible[:, n], n].T.unique(dim=0) for n in range(num_prompts)]  # [U, F] each
    base_mean = (log_base.exp() * phi).sum(1).mean(1)  # [F]
    rows = torch.cat(values)  # [C, F]
    scale = rows.abs().amax(0).clamp(min=1e-12)
    ones = torch.ones(num_prompts, 1, dtype=torch.float64)
    one_each = torch.block_diag(*(torch.ones(1, len(part)).double() for part in values))  # [N, C]
    moments = torch.cat([(rows / scale).T / num_prompts, (base_mean / scale)[:, None]], 1)
    equal = torch.cat([moments, torch.cat([one_each, ones], 1)])
    right = torch.cat([target / scale, ones[:, 0]])
    cost = np.zeros(equal.shape[1])
    cost[-1] = -1.0
    program = scipy.optimize.linprog(cost, A_eq=equal.numpy(), b_eq=right.numpy(), method="highs")
    return -program.fun if program.status == 0 else -1.0
