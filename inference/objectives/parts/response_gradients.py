"""log q of each response with a gradient of its own: the rows of a Jacobian.

A pass of a network for one response is vectorised over responses (`torch.func.vmap`), at about
twice the cost of one gradient of their sum, and so is the head of `Twisted`, after one pass of the
prior without gradient. Other decoders take a pass for each response, and so do networks in half
precision, with windows of attention, or with positions that depend on token ids.
"""

import itertools
from collections.abc import Mapping
from typing import Any

import torch
import transformers
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from guides.twisted import Twisted, TwistHead
from inference.programs import autoregressive
from model import LanguageModel, Prompts, ResponseDistribution
from model.networks.checks import evaluating
from model.prior.division import Block
from model.prior.logits import CHUNK, scaled

AT_ONCE = 32  # number of responses whose gradients are computed together


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
    decoder = q.decoder
    if (
        isinstance(decoder, LanguageModel)
        and _can_vectorise(decoder, q.prompts)
        and (by_name := _by_name(decoder.network, parameters))
    ):
        return _vectorised(q, decoder, response, by_name)
    if (
        isinstance(decoder, Twisted)
        and isinstance(decoder.head, TwistHead)  # another may have operations that `vmap` refuses
        and decoder.splits_head
        and (by_name := _by_name(decoder.head, parameters))
    ):
        return _of_head(q, decoder, response, by_name)
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


def _by_name(module: nn.Module, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parameters by their names in a module; empty if the module lacks one of them."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    if not all(id(parameter) in names for parameter in parameters.values()):
        return {}
    return {names[id(parameter)]: parameter for parameter in parameters.values()}


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
    trained, fixed = _trained_and_fixed(network, parameters)

    def log_prob(
        own: dict[str, Tensor], ids: Tensor, mask: Tensor, positions: Tensor, is_token: Tensor
    ) -> Tensor:
        """log q of one response: ids `[L]`, mask `[L, L]`, positions `[L]`, is_token `[T]`."""
        inputs = {"input_ids": ids, "attention_mask": mask[None], "position_ids": positions}
        batch: dict[str, Any] = {name: tensor[None] for name, tensor in inputs.items()}
        batch["use_cache"] = False
        logits = functional_call(network, {**own, **fixed}, (), batch).logits[0]
        later = logits[-len(is_token) - 1 : -1] / q.temperature
        return _log_prob(later, ids[-len(is_token) :], is_token)

    rows = _rows(q.prompts, response.flatten(0, 1), network, space.is_token(response).flatten(0, 1))
    function = vmap(grad_and_value(log_prob), in_dims=(None, 0, 0, 0, 0), chunk_size=AT_ONCE)
    with sdpa_kernel(SDPBackend.MATH):  # vmap falls back to loops for the other kernels
        gradients, log_guide = function(trained, *rows)
    flat = [gradients[name].flatten(1) for name in parameters]
    shape = response.shape[:2]
    return log_guide.view(shape), torch.cat(flat, 1).view(*shape, -1)


def _of_head(
    q: ResponseDistribution, decoder: Twisted, response: Tensor, parameters: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """The same for the parameters of a twist's head, by their names there."""
    head, prior = evaluating(decoder.head), decoder.prior
    trained, fixed = _trained_and_fixed(head, parameters)

    def log_prob(
        own: dict[str, Tensor], hidden: Tensor, logits: Tensor, ids: Tensor, is_token: Tensor
    ) -> Tensor:
        """log q of one response: hidden `[T, H]`, logits `[T, V]`, ids `[T]`, is_token `[T]`."""
        log_psi = functional_call(head, {**own, **fixed}, (hidden,))
        return _log_prob(decoder.reweighted(logits, log_psi) / q.temperature, ids, is_token)

    with torch.no_grad():
        _, states = prior(q.prompts).log_prob_and_hidden(response)
    states, value = states.flatten(0, 1), response.flatten(0, 1)
    is_token = q.space.is_token(value)
    at_once = max(1, CHUNK // (value.shape[1] * prior.vocab_size))
    rows = []
    for part in torch.arange(len(value), device=value.device).split(at_once):
        with torch.no_grad():
            logits = prior.logits_of(states[part].flatten(0, 1)).unflatten(0, (len(part), -1))
        inputs = (states[part], scaled(logits, prior.temperature), value[part], is_token[part])
        rows.append(vmap(grad_and_value(log_prob), in_dims=(None, 0, 0, 0, 0))(trained, *inputs))
    log_guide = torch.cat([values for _, values in rows])
    flat = [torch.cat([gradients[name].flatten(1) for name in trained], 1) for gradients, _ in rows]
    shape = response.shape[:2]
    return log_guide.view(shape), torch.cat(flat).view(*shape, -1)


def _trained_and_fixed(
    module: nn.Module, parameters: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Parameters by name without gradient, and all other parameters and buffers of the module."""
    trained = {name: parameter.detach() for name, parameter in parameters.items()}
    every = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return trained, {n: tensor.detach() for n, tensor in every.items() if n not in trained}


def _log_prob(logits: Tensor, ids: Tensor, is_token: Tensor) -> Tensor:
    """log q of one response from logits `[T, V]`, ids `[T]` and `is_token` `[T]`, nats."""
    wide = torch.promote_types(logits.dtype, torch.float32)
    chosen = logits.log_softmax(-1, dtype=wide).gather(-1, ids[:, None])[:, 0]
    return torch.where(is_token, chosen, 0.0).sum()


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
