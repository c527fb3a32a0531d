"""Attention with rotary positions in fewer kernels, in half precision on a GPU.

    y = x cos + (-x_2, x_1) sin,   x = (x_1, x_2) in halves of its last dimension

Su et al. 2021 (arXiv 2104.09864). Queries and keys that lie beside each other in memory, as those
of `PackedLayers`, are rotated in three kernels, and others in six, where `transformers` runs ten.
The result is rounded once less. The first keys and values of a cache are not copied. Other numbers
have the code of `transformers`, which `torch.func` can transform.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from model.common.compiled_code import compiled
from model.common.devices import HALF, is_asynchronous

PARTS = {"q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm"}
"""Names of the parts of a layer; norms of heads are those of Qwen3 and Gemma3."""


class RotaryAttention(nn.Module):
    """First base of attention such as `LlamaAttention`, the same up to rounding."""

    config: Any

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        is_plain = self.config._attn_implementation == "sdpa" and not (self.training or args)
        is_plain = is_plain and hidden_states.dtype in HALF
        if is_plain and is_asynchronous(hidden_states.device):
            return rotary_attention(self, hidden_states, **kwargs)
        return super().forward(hidden_states, *args, **kwargs)


def rotary_attention(
    layer: Any, x: Tensor, position_embeddings: Any, attention_mask: Any = None, **kwargs: Any
) -> tuple[Tensor, Tensor | None]:
    """Output of an attention layer for x `[B, L, H]` at angles, cos and sin of `[B, L, D]`.

    Arguments are those of `LlamaAttention`.
    """
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    # the name is another from `transformers` 5.24 on
    caches = [kwargs.pop(name, None) for name in ("cache", "past_key_values")]
    cache = next((each for each in caches if each is not None), None)
    shape = (*x.shape[:-1], -1, layer.head_dim)
    cos, sin = (each.unsqueeze(2) for each in position_embeddings)
    query, key, value = layer.q_proj(x), layer.k_proj(x), layer.v_proj(x)
    if hasattr(layer, "q_norm"):
        query, key = layer.q_norm(query.view(shape)), layer.k_norm(key.view(shape))
    if (both := _joined(query, key)) is not None:
        sizes = [part.shape[-1] // layer.head_dim for part in (query, key)]
        query, key = _rotated(both.view(shape), cos, sin).split(sizes, 2)
    else:
        query, key = (_Rotated.apply(part.view(shape), cos, sin) for part in (query, key))
    value = value.view(shape)
    query, key, value = (each.transpose(1, 2) for each in (query, key, value))
    if cache is not None:
        key, value = _updated(cache, key, value, layer.layer_idx)
    y, weights = ALL_ATTENTION_FUNCTIONS["sdpa"](
        layer, query, key, value, attention_mask, scaling=layer.scaling, **kwargs
    )
    return layer.o_proj(y.reshape(*x.shape[:-1], -1)), weights


def _joined(query: Tensor, key: Tensor) -> Tensor | None:
    """One view of tensors that lie beside each other; None for others, or with a gradient."""
    storages = [part.untyped_storage().data_ptr() for part in (query, key)]
    end = query.storage_offset() + query.shape[-1]
    is_beside = (storages[0], end) == (storages[1], key.storage_offset())
    if query.requires_grad or not is_beside or query.stride() != key.stride():
        return None
    size = (*query.shape[:-1], query.shape[-1] + key.shape[-1])
    return query.as_strided(size, query.stride())


def _rotated(x: Tensor, cos: Tensor, sin: Tensor, sign: float = 1.0) -> Tensor:
    """x turned by the angles; with the sign -1 the sine's part is transposed, as in a gradient."""
    first, second = slice(None, x.shape[-1] // 2), slice(x.shape[-1] // 2, None)
    by_first, by_second = (first, second) if sign > 0 else (second, first)
    y = x * cos
    y[..., first].addcmul_(x[..., second], sin[..., by_first], value=-sign)
    y[..., second].addcmul_(x[..., first], sin[..., by_second], value=sign)
    return y


class _Rotated(torch.autograd.Function):
    """`_rotated` with a gradient of x, which needs the angles alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotated(x, cos, sin)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _rotated(grad, cos, sin, sign=-1.0), None, None


def _updated(cache: Any, key: Tensor, value: Tensor, index: int) -> tuple[Tensor, Tensor]:
    """Keys and values of a layer with the new ones."""
    from transformers.cache_utils import DynamicLayer

    layers: Any = getattr(cache, "layers", ())
    layer: Any = layers[index] if index < len(layers) else None
    if type(layer) is not DynamicLayer or layer.is_initialized:
        return cache.update(key, value, index)
    layer.lazy_initialization(key, value)
    for name, new in (("keys", key), ("values", value)):  # views of packed layers are copied
        is_view = new.untyped_storage().nbytes() > new.nbytes
        setattr(layer, name, new.clone() if is_view else new)
    return layer.keys, layer.values  # a gradient that kept a view would keep all of it


def rotary_layers(network: nn.Module) -> None:
    """Make the layers of a network that compute `rotary_attention` `RotaryAttention`."""
    for module in network.modules():
        kind: Any = type(module)
        if "q_proj" not in module._modules or {*module._modules} != _parts(kind):
            continue
        if all(type(each) is nn.Parameter for each in module.parameters()):  # no shards of weights
            module.__class__ = _fused_kind(kind)


@cache
def _fused_kind(kind: Any) -> Any:
    return type(kind.__name__, (RotaryAttention, kind), {})


@cache
def _parts(kind: Any) -> set[str]:
    """Parts of attention with the code of one of five families; of other code none.

    Others for example clip queries, rotate a part of them, or rotate pairs of neighbours.
    """
    from transformers.models.gemma3.modeling_gemma3 import Gemma3Attention
    from transformers.models.llama.modeling_llama import LlamaAttention
    from transformers.models.mistral.modeling_mistral import MistralAttention
    from transformers.models.qwen2.modeling_qwen2 import Qwen2Attention
    from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention

    families = LlamaAttention, MistralAttention, Qwen2Attention, Qwen3Attention, Gemma3Attention
    codes = _codes(kind)
    is_plain = all(codes) and any(codes == _codes(family) for family in families)
    return PARTS & {*kind.forward.__code__.co_names} if is_plain else set()


def _codes(kind: Any) -> list[Any]:
    """Code of `forward` and of the functions of its positions; None for what is not comparable."""
    functions = [kind.forward]
    for name in ("apply_rotary_pos_emb", "rotate_half"):
        functions.append(getattr(functions[-1], "__globals__", {}).get(name))
    codes = [getattr(each, "__code__", None) for each in functions]
    # a function with free variables, as a wrapper, does more than its code
    return [None if code is None or code.co_freevars else compiled(code) for code in codes]
