"""Leave-one-out: REINFORCE whose baseline is the mean of the other particles.

    grad ELBO_hat = 1/K sum_k (log w_k - 1/(K-1) sum_{j != k} log w_j) grad log q(x_k)

RLOO (Ahmadian et al. 2024, arXiv 2402.14740) with the KL penalty in the reward. Also, sample by
sample, the gradient of half the variance of the log-weights, VarGrad (Richter et al. 2020, arXiv
2010.10436). At q = p* all log-weights are log Z and the gradient is 0 on every sample; the gradient
of `Trace_ELBO` is not.
"""

from collections.abc import Callable

import torch
from pyro.distributions.util import is_identically_zero
from pyro.infer import Trace_ELBO
from pyro.poutine import Trace
from torch import Tensor

from inference.objectives.parts.response_objective import Losses, ResponseObjective
from inference.objectives.parts.surrogate_loss import SurrogateLoss
from inference.programs import Program
from inference.response_site import ResponseSiteError, SameResponses, is_sample
from model import Prompts
from model.common.checks import whole_number

BASELINE = "the baseline is the mean of the others"  # reason why one particle is too few


class LeaveOneOut_ELBO(SurrogateLoss, Trace_ELBO):  # noqa: N801 - named as Pyro names its objectives
    """The ELBO with a leave-one-out baseline for each prompt. Unbiased, value and gradient.

    Replaces `Trace_ELBO` for any model and any guide without reparameterized sites. Each member of
    a plate around all sites of model and guide has its own baseline; other dimensions are summed.

        svi = pyro.infer.SVI(model, guide, optimizer, LeaveOneOut_ELBO(num_particles=64))
        loss = svi.step(prompts)

    Args:
        num_particles: K, at least 2, drawn at once.
        max_plate_nesting: Number of nested plates in model and guide; 1 for the plate of prompts.

    Raises:
        ResponseSiteError: In a step, if the guide draws nothing, or other sites than the model.
    """

    ascends_elbo = True

    def __init__(self, num_particles: int = 64, max_plate_nesting: int = 1) -> None:
        num_particles = whole_number("num_particles", num_particles, at_least=2, why=BASELINE)
        nesting = whole_number("max_plate_nesting", max_plate_nesting, at_least=0)
        super().__init__(num_particles, max_plate_nesting=nesting, vectorize_particles=True)

    def _losses(self, model: Callable, guide: Callable, args: tuple, kwargs: dict) -> tuple:
        with SameResponses():
            [(model_trace, guide_trace)] = self._get_traces(model, guide, args, kwargs)
        _check_guide_sites(model_trace, guide_trace)
        sites = _sample_sites(model_trace) + _sample_sites(guide_trace)
        stacks = [
            [plate for plate in site["cond_indep_stack"] if plate.vectorized] for site in sites
        ]
        shared = set.intersection(*({plate.dim for plate in stack} for stack in stacks))
        log_joint = _total([site["log_prob"] for site in _sample_sites(model_trace)], shared)
        log_guide = _total([site["log_prob"] for site in _sample_sites(guide_trace)], shared)
        score = _total([_score(site) for site in _sample_sites(guide_trace)], shared)
        log_weight = (log_joint - log_guide).detach()  # [K, N]
        # the second term trains the model's parameters, if there are any
        surrogate = leave_one_out(log_weight) * score + log_joint
        return -log_weight.mean(0).sum(), -surrogate.mean(0).sum()


def leave_one_out(values: Tensor) -> Tensor:
    """Each value minus the mean of the others along dimension 0, `[K, ...]`. No bias."""
    whole_number("num_particles", len(values), at_least=2, why=BASELINE)
    return (values - values.mean(0)) * (len(values) / (len(values) - 1))


def _check_guide_sites(model_trace: Trace, guide_trace: Trace) -> None:
    """Refuse a guide without sites, or with other latent sites than the model (Pyro warns)."""
    latent = {name for name, site in model_trace.nodes.items() if _is_latent(site)}
    if not any(is_sample(site) for site in guide_trace.nodes.values()):
        raise ResponseSiteError(
            f"the guide draws nothing, expected the latent sites of the model, {sorted(latent)}: a "
            "`LanguageModel` is made a guide by `FineTuned` or `Fixed`"
        )
    for name, site in guide_trace.nodes.items():
        if _is_latent(site) and not site["infer"].get("is_auxiliary") and name not in latent:
            raise ResponseSiteError(
                f"the guide draws {name!r}, which is no latent site of the model, expected "
                f"{sorted(latent) or 'none'}, or the mark `infer={{'is_auxiliary': True}}`"
            )
    if missing := sorted(latent - guide_trace.nodes.keys()):
        raise ResponseSiteError(
            f"the guide lacks the latent sites {missing} of the model, whose log-probabilities "
            "would count as if observed: draw them in the guide, or hide them by `poutine.block`"
        )


def _is_latent(site: dict) -> bool:
    return is_sample(site) and not site["is_observed"]


def _sample_sites(trace: Trace) -> list[dict]:
    return [site for site in trace.nodes.values() if site["type"] == "sample"]


def _score(site: dict) -> Tensor:
    """log q at a guide's site, as the score function differentiates log q."""
    _, score_function, entropy_term = site["score_parts"]
    if not is_identically_zero(entropy_term):
        fix = "use Trace_ELBO, which has its pathwise gradient"
        raise NotImplementedError(f"site {site['name']!r} is reparameterized: {fix}")
    return score_function


def _total(values: list[Tensor], kept_dims: set[int]) -> Tensor:
    """Sum of `values`, each first summed over every dimension that is not in `kept_dims`."""
    reduced = []
    for value in values:
        dims = [dim for dim in range(-value.dim(), 0) if dim not in kept_dims]
        reduced.append(value.sum(dims, keepdim=True) if dims else value)
    return torch.stack(torch.broadcast_tensors(*reduced)).sum(0)


class RewardOnly(ResponseObjective):
    """RL without KL penalty, to compare inference with: -E_q[r]/beta by REINFORCE. Unbiased.

        grad E_q[r/beta]_hat = 1/K sum_k (r_k - 1/(K-1) sum_{j != k} r_j)/beta grad log q(x_k)

    The limit of `LeaveOneOut_ELBO` as beta -> 0. Every distribution over the responses of the
    largest reward is an optimum, whatever the prior: `OBJECTIVES` does not list the class. The
    metrics have the ELBO.
    """

    def losses(self, model: Program, guide: Program, prompts: Prompts) -> Losses:
        distribution, response = self.draw(guide, prompts)
        log_guide = distribution.log_prob(response)  # [K, N]
        joint = self.score(model, prompts, response)
        surrogate = -(leave_one_out(joint.log_likelihood) * log_guide).mean(0).sum()
        log_weight = joint.log_joint - log_guide.detach()
        loss = -joint.log_likelihood.mean(0).sum()
        return Losses(loss, surrogate, response, log_guide, log_weight, joint.log_likelihood)
