"""Match of a guide to the prior before training: KL(p0 || q) on draws of the prior, by L-BFGS.

    loss = 1/K sum_k sum_t KL(p0(. | x_k<t) || q(. | x_k<t)),   x_k ~ p0

For guides whose parameters have no value with q = p0. No reward is used. The KL is summed over the
vocabulary at each token, so that few draws suffice. The draws stay the same: a loss without noise
needs no learning rate.
"""

from functools import partial

import torch
from torch import Tensor

from guides.guide import Guide
from model import LanguageModel, Prompts, ResponseDistribution
from model.common.minimise import minimise

NUM_RESPONSES = 32
"""Number of draws, over all prompts."""
SEED = 2**31 + 16_180
"""Seed of the draws, from the half of all seeds where no one chooses a seed by hand."""


def match_prior(
    guide: Guide,
    prior: LanguageModel,
    prompts: Prompts,
    max_steps: int,
    micro_batch: int | None = None,
) -> None:
    """Move the trained parameters of a guide towards q = p0, in place.

    A step takes about 1.3 forward and backward passes of the guide and forward passes of the prior
    over the draws. The parameters stay as they are if the loss does not fall. torch's random state
    stays as it is.

    Args:
        guide: guide whose `distribution` is a `ResponseDistribution`.
        prior: the prior of the guide.
        prompts: N prompts, of which the first `NUM_RESPONSES` are used.
        max_steps: largest number of steps; 0 for none.
        micro_batch: largest number of draws that are differentiated at a time, at the price of one
            more pass of the guide; None for all.
    """
    if max_steps == 0:
        return
    prompts = prompts[:NUM_RESPONSES]
    prior_distribution = prior(prompts)
    devices = [prior.device] if prior.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(SEED)
        response = prior_distribution.sample((-(-NUM_RESPONSES // len(prompts)),))  # [K, N, T]
    terms = partial(kl_per_token, prior_distribution)

    def loss() -> Tensor:
        distribution = guide.distribution(prompts).in_micro_batches(micro_batch)
        (kl,) = distribution.in_chunks(terms, response)  # [K, N, T]
        return kl.sum(-1).mean()

    parameters = list(guide.trained().values())
    with torch.no_grad():
        before, start = [parameter.clone() for parameter in parameters], loss().item()
    with torch.enable_grad():
        end = minimise(loss, parameters, max_steps=max_steps)
    for parameter, old in zip(parameters, before, strict=True):
        parameter.grad = None
        if not end < start:  # also if NaN
            parameter.data.copy_(old)


def kl_per_token(
    prior: ResponseDistribution, guide: ResponseDistribution, response: Tensor
) -> tuple[Tensor]:
    """KL(p0 || q) of the next token, `[B, T]`, for B responses; 0 at padding, where logits are.

    A token of prior probability 0 counts as 0. The KL is infinite if q excludes any other token.
    """
    with torch.no_grad():  # [B, T, V]
        log_prior = prior.alongside(guide).next_token_logits(response).log_softmax(-1)
    log_ratio = log_prior - guide.next_token_logits(response).log_softmax(-1)
    prob = log_prior.exp()
    return ((prob * log_ratio.masked_fill(prob == 0, 0.0)).sum(-1),)
