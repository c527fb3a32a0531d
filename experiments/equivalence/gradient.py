"""Gradient of Pyro's `Trace_ELBO` against REINFORCE, the mean against the exact gradient."""

import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from transformers import PreTrainedModel

from experiments.shared.worlds import moved_guide
from guides import FineTuned
from inference import Enumeration, log_guide_at
from inference.programs import parameter_scope
from model import AlignmentModel, Prompts


def reinforce_error(model: AlignmentModel, prompts: Prompts, num_samples: int) -> float:
    """Relative error of `Trace_ELBO` against REINFORCE in torch, on the same responses."""
    guide, space = moved_guide(model.prior), model.prior.space
    response = guide.distribution(prompts).sample((num_samples,))  # [K, N, T]
    by_pyro = elbo_gradient(model, guide, prompts, response)

    policy, reward = guide.language_model.network, model.reward(prompts, response)
    policy.zero_grad()
    for n in range(len(prompts)):
        prompt = prompts.ids[n][prompts.mask[n]]
        for k in range(num_samples):
            tokens = response[k, n][space.is_token(response)[k, n]]
            reinforce_with_kl_penalty(
                policy, model.prior.network, prompt, tokens, reward[k, n], model.beta
            )
    by_hand = [gradient / num_samples for gradient in gradients(policy)]
    return relative_error(by_pyro, by_hand)


def reinforce_with_kl_penalty(
    policy: PreTrainedModel,
    reference: PreTrainedModel,
    prompt: Tensor,
    response: Tensor,
    reward: Tensor,
    beta: float,
) -> None:
    """Add the gradient of -E[R]/beta, R = r - beta (log pi - log pi_ref), to the policy's `.grad`.

    RL from one response, as in a textbook: no inference, no Pyro, no code of this project.
    """
    sequence = torch.cat([prompt, response])[None]

    def log_prob(network: nn.Module) -> Tensor:
        log_probs = network(sequence).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        return log_probs.gather(1, response[:, None]).sum()

    log_pi = log_prob(policy)
    with torch.no_grad():
        penalised = reward - beta * (log_pi - log_prob(reference))
    (-(penalised / beta) * log_pi).backward()


def expectation_error(model: AlignmentModel, prompts: Prompts) -> float:
    """Relative error of the mean gradient over responses, against autograd on the exact ELBO."""
    guide, truth = moved_guide(model.prior), Enumeration(model, prompts)
    prob = truth.log_guide(guide).exp()[:, 0]
    means = [torch.zeros_like(parameter) for parameter in guide.parameters()]
    for weight, response in zip(prob, truth.support, strict=True):
        gradient = elbo_gradient(model, guide, prompts, response[None])
        for mean, part in zip(means, gradient, strict=True):
            mean += weight * part
    guide.zero_grad()
    log_guide = log_guide_at(guide, prompts, truth.support)
    (log_guide.exp() * (log_guide - truth.log_joint)).sum().backward()
    return relative_error(means, gradients(guide))


def elbo_gradient(
    model: AlignmentModel, guide: FineTuned, prompts: Prompts, response: Tensor
) -> list[Tensor]:
    """Gradient of -ELBO by Pyro's `Trace_ELBO` at the responses `[K, N, T]`."""
    objective = Trace_ELBO(len(response), vectorize_particles=True, max_plate_nesting=1)
    draws = poutine.Trace()
    site = {"type": "sample", "value": response, "is_observed": False, "infer": {}}
    draws.add_node("response", name="response", **site)
    guide.zero_grad()
    with parameter_scope(guide), poutine.replay(trace=draws):
        objective.loss_and_grads(model, guide, prompts)
    return gradients(guide)


def gradients(module: nn.Module) -> list[Tensor]:
    """Copies of the gradients of all parameters."""
    return [
        parameter.grad.clone() for parameter in module.parameters() if parameter.grad is not None
    ]


def relative_error(gradient: list[Tensor], expected: list[Tensor]) -> float:
    """Norm of the difference over the norm of the expected gradient, all parameters together."""
    difference = get_total_norm([a - b for a, b in zip(gradient, expected, strict=True)])
    return (difference / get_total_norm(expected)).item()
