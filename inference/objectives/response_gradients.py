"""log q of each response with a gradient of its own: the rows of a Jacobian.

A pass of a network for one response is vectorised over responses (`torch.func.vmap`), at about
twice the cost of one gradient of their sum. Other decoders take a pass for each response, and so do
networks in half precision, with windows of attention, or with positions that depend on token ids.
"""

import itertools
from collections.abc import Mapping
from typing import Any

import torch
import transformers
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from inference.programs import autoregressive
from model import LanguageModel, Prompts, ResponseDistribution
from model.prior.division import Block

AT_ONCE = 32
"""Number of responses whose gradients are computed together."""


def response_gradients(
    distribution: TorchDistribution, response: Tensor, parameters: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """log q of responses `[K, N, T]`, `[K, N]`, nats, and gradients in all parameters, `[K, N, D]`.

    D is the number of all numbers of the parameters, in their order. No result has a gradient.
    """
    q = autoregressive(distribution)
    if q.division is None:
        return _of_all(q, response, parameters)

    def of_block(block: Block) -> tuple[Tensor, Tensor]:
        own = response[block.particles, block.prompts]
        return _of_all(_of_prompts(q, block.prompts), own, parameters)

    log_guide, gradients = q.division.compute(of_block, *response.shape[:2])
    return log_guide, gradients


def _of_prompts(q: ResponseDistribution, index: slice | list[int]) -> ResponseDistribution:
    return ResponseDistribution(q.decoder, q.prompts[index], q.space, temperature=q.temperature)


def _of_all(
    q: ResponseDistribution, response: Tensor, parameters: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    decoder, own = q.decoder, {id(parameter) for parameter in parameters.values()}
    if isinstance(decoder, LanguageModel) and _can_vectorise(decoder, q.prompts):
        names = {id(p): name for name, p in decoder.network.named_parameters()}
        if own <= names.keys():
            by_name = {names[id(p)]: p for p in parameters.values()}
            return _vectorised(q, decoder, response, by_name)
    tensors, rows = list(parameters.values()), []
    for k, n in itertools.product(*map(range, response.shape[:2])):
        value = _of_prompts(q, [n]).log_prob(response[[k]][:, [n]]).squeeze()
        # the decoder may share parts of the graph between passes, as a mixture its weights
        gradients = torch.autograd.grad(
            value, tensors, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        rows.append((value.detach(), torch.cat([gradient.flatten() for gradient in gradients])))
    shape = response.shape[:2]
    log_guide, gradient = map(torch.stack, zip(*rows, strict=True))
    return log_guide.view(shape), gradient.view(*shape, -1)


@torch.no_grad()
def _can_vectorise(decoder: LanguageModel, prompts: Prompts) -> bool:
    if decoder.network.dtype.itemsize <= 2:
        return False
    _, state = decoder.start(prompts[[0]])
    return decoder.takes_one_mask(state)


def _vectorised(
    q: ResponseDistribution,
    decoder: LanguageModel,
    response: Tensor,
    parameters: Mapping[str, Tensor],
) -> tuple[Tensor, Tensor]:
    network, space = decoder.network, q.space
    trained = {name: parameter.detach() for name, parameter in parameters.items()}
    every = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    fixed = {name: tensor.detach() for name, tensor in every.items() if name not in trained}

    def log_prob(
        own: dict[str, Tensor], ids: Tensor, mask: Tensor, positions: Tensor, is_token: Tensor
    ) -> Tensor:
        """log q of one response: ids `[L]`, mask `[L, L]`, positions `[L]`, is_token `[T]`."""
        inputs = {"input_ids": ids, "attention_mask": mask[None], "position_ids": positions}
        batch: dict[str, Any] = {name: tensor[None] for name, tensor in inputs.items()}
        batch["use_cache"] = False
        logits = functional_call(network, {**own, **fixed}, (), batch).logits[0]
        later = logits[-len(is_token) - 1 : -1] / q.temperature
        later = later.log_softmax(-1, dtype=torch.promote_types(later.dtype, torch.float32))
        chosen = later.gather(-1, ids[-len(is_token) :, None])[:, 0]
        return torch.where(is_token, chosen, 0.0).sum()

    rows = _rows(q.prompts, response.flatten(0, 1), network, space.is_token(response).flatten(0, 1))
    function = vmap(grad_and_value(log_prob), in_dims=(None, 0, 0, 0, 0), chunk_size=AT_ONCE)
    with sdpa_kernel(SDPBackend.MATH):  # vmap falls back to loops for the other kernels
        gradients, log_guide = function(trained, *rows)
    flat = [gradients[name].flatten(1) for name in parameters]
    shape = response.shape[:2]
    return log_guide.view(shape), torch.cat(flat, 1).view(*shape, -1)


def _rows(
    prompts: Prompts, response: Tensor, network: "transformers.PreTrainedModel", is_token: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ids, additive masks, positions and `is_token` of responses `[B, T]` behind their prompts."""
    times = len(response) // len(prompts)
    ids = torch.cat([prompts.ids.repeat(times, 1), response], 1)
    seen = torch.cat([prompts.mask.repeat(times, 1), torch.ones_like(is_token)], 1)
    positions = (seen.cumsum(1) - 1).clamp(min=0)
    length = ids.shape[1]
    before = torch.ones(length, length, dtype=torch.bool, device=ids.device).tril()
    # padding sees itself, so that its row of attention is no division by zero
    allowed = before & seen[:, None] | torch.eye(length, dtype=torch.bool, device=ids.device)
    lowest = torch.finfo(network.dtype).min
    mask = torch.zeros(allowed.shape, dtype=network.dtype, device=ids.device)
    return ids, mask.masked_fill(~allowed, lowest), positions, is_token
