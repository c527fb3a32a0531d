"""Gradient of Pyro's `Trace_ELBO` against REINFORCE, the mean against the exact gradient."""

import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch import Tensor, nn
from transformers import PreTrainedModel

from experiments.shared.gradients import gradient_of, loss_gradient, moved_guide, relative_error
from guides import FineTuned
from inference import Enumeration, log_guide_at
from model import AlignmentModel, Prompts


def reinforce_error(model: AlignmentModel, prompts: Prompts, num_samples: int) -> float:
    """Relative error of `Trace_ELBO` against REINFORCE in torch, on the same responses."""
    guide, space = moved_guide(model.prior), model.prior.space
    response = guide.distribution(prompts).sample((num_samples,))  # [K, N, T]
    by_pyro = gradient_at(model, guide, prompts, response)

    policy, reward = guide.language_model.network, model.reward(prompts, response)
    networks = policy, model.prior.network
    policy.zero_grad()
    for n in range(len(prompts)):
        prompt = prompts.ids[n][prompts.mask[n]]
        for k in range(num_samples):
            tokens = response[k, n][space.is_token(response)[k, n]]
            reinforce_with_kl_penalty(*networks, prompt, tokens, reward[k, n], model.beta)
    return relative_error(by_pyro, gradient_of(policy) / num_samples)


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
    mean = torch.zeros(())
    for weight, response in zip(prob, truth.support, strict=True):
        mean = mean + weight * gradient_at(model, guide, prompts, response[None])
    guide.zero_grad()
    log_guide = log_guide_at(guide, prompts, truth.support)
    (log_guide.exp() * (log_guide - truth.log_joint)).sum().backward()
    return relative_error(mean, gradient_of(guide))


def gradient_at(
    model: AlignmentModel,
    guide: FineTuned,
    prompts: Prompts,
    response: Tensor,
    objective: Trace_ELBO | None = None,
) -> Tensor:
    """Gradient of -ELBO at the responses `[K, N, T]`, by Pyro's `Trace_ELBO` or an ELBO of its."""
    if objective is None:
        objective = Trace_ELBO(len(response), vectorize_particles=True, max_plate_nesting=1)
    draws = poutine.Trace()
    site = {"type": "sample", "value": response, "is_observed": False, "infer": {}}
    draws.add_node("response", name="response", **site)
    with poutine.replay(trace=draws):
        return loss_gradient(objective, model, guide, prompts)
