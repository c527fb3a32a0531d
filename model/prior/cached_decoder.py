"""A causal network read with a key-value cache: once over the prompts, then token by token."""

import inspect
from collections.abc import Collection
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
import transformers
from torch import Tensor
from torch.nn.functional import pad
from transformers.cache_utils import DynamicCache

from model.common.devices import is_asynchronous, total_memory
from model.common.graphs import NOT_COMPILED, has_graphs
from model.networks.adapter import check_settings
from model.networks.checks import check_causal, checked_network, evaluating, without_head
from model.networks.layers import layer_checkpoints
from model.networks.layers.attention import faster_attention
from model.networks.layers.fused_layers import fused_layers
from model.networks.layers.head import logits_of, splits_head, states_before_head
from model.networks.layers.packed_layers import PackedLayers, packs
from model.networks.layers.pointwise_recomputation import pointwise_recomputation
from model.networks.layers.rotary_attention import rotary_layers
from model.networks.layers.rounded_adapters import RoundedAdapters, rounded_together
from model.networks.positions import (
    first_position,
    longest_context,
    padding_position,
    without_padding,
)
from model.networks.sharded_modules import gathered_once
from model.prior.cached_state import CachedState, cache_of, rows_of
from model.prior.decoder import Decoder
from model.prior.fixed_state import FixedState, is_plain
from model.prior.prompts import Prompts
from model.prior.recorded_pass import recorded_passes

ROOM = 1 << 28
"""Smallest memory, in bytes, for the keys and values of responses that are read together."""
SHARE = 1 / 8  # share of a GPU's memory for the keys and values of responses that are read together
LITTLE_WORK = 1e12
"""Largest number of weights times tokens of a pass that a GPU runs faster than it starts."""
ATTENTION = {"full_attention", "sliding_attention", "chunked_attention"}
"""Kinds of layer with keys and values by position, whose state can be selected row by row."""
CACHE = ("cache", "past_key_values")
"""Names of the keys and values of a network, from `transformers` 5.24 on and before."""
WIDE = {"eager", "sdpa"}
"""Implementations of attention that take a mask for each sequence, query and column."""


class CachedDecoder(Decoder):
    """The `Decoder` of a causal network with a key-value cache.

    Args:
        network: takes `position_ids` and keys and values. Frozen, in evaluation mode for good.
        max_new_tokens: T, the most tokens of a response.

    Attributes:
        context: most tokens, of prompt and response, that the network reads; None without a limit.
        splits_head: see `Decoder`; False for networks whose own code cannot be divided.
        in_step: see `Decoder`; True if the network is sharded.
        takes_padding: False if the network is known to give NaN to prompts with padding.
        gathers_draws: True if a sharded network is gathered once for a draw.
    """

    splits_head = in_step = compile_decode = gathers_draws = False
    takes_padding = True

    def __init__(self, network: "transformers.PreTrainedModel", max_new_tokens: int) -> None:
        super().__init__()
        network = self.network = checked_network(network)
        arguments = inspect.signature(network.forward).parameters
        self._cache = _cache_argument(network, arguments)
        config = network.config.get_text_config()
        experts = getattr(config, "_experts_implementation", None)
        if network.dtype == torch.float64 and experts == "grouped_mm":
            network.set_experts_implementation("eager")  # torch has no such product in float64
        check_causal(network.eval())
        _speed_up(network)
        # networks with ALiBi count positions by the mask `[B, C]`
        is_alibi = getattr(config, "alibi", False)
        self._takes_positions = "position_ids" in arguments and not is_alibi
        self.max_new_tokens = max_new_tokens
        self._keeps_last_logits = "logits_to_keep" in arguments
        self._padding, self._first_position = padding_position(network), first_position(network)
        self.context = longest_context(network)
        self.splits_head = splits_head(network)
        self._num_weights = sum(parameter.numel() for parameter in network.parameters())
        self._weight_bytes = sum(parameter.nbytes for parameter in network.parameters())
        self.requires_grad_(False)
        self.zero_grad(set_to_none=True)

    @property
    def device(self) -> torch.device:
        return self.network.device

    def start(self, prompts: Prompts, prefix: Any = None) -> tuple[Tensor, CachedState]:
        """See `Decoder`. One pass over the N prompts, with logits for their last position only.

        The network reads `prefix` before each prompt: a cache of one row, at positions 0 to M - 1.
        """
        evaluating(self.network)
        num_read, cache = 0, None
        if prefix is not None:
            num_read = prefix.get_seq_length()
            cache = rows_of(prefix, prompts.ids.new_zeros(len(prompts)))
        mask = pad(prompts.mask.long(), (num_read, self.max_new_tokens), value=1)
        state = self._unread(mask, prompts.is_padded, cache, num_read)
        if self.records and prefix is None and not torch.is_grad_enabled():
            own = prompts.mask.long() if prompts.is_padded else None
            logits, hidden, *parts = recorded_passes(self)(self, self._start, prompts.ids, own)
            cache, num_read = cache_of(parts), prompts.ids.shape[1]
            return logits, replace(state, cache=cache, num_read=num_read, hidden=hidden)
        logits, state = self._run(state, prompts.ids, last_only=True)
        return logits[:, -1], state

    def _start(self, ids: Tensor, mask: Tensor | None) -> tuple[Tensor, ...]:
        """Logits after prompts `[N, P]`, the state's `hidden`, and keys and values by layer."""
        logits, state = self._first(ids, mask, last_only=True)
        layers = state.cache.layers
        keys_and_values = (part for each in layers for part in (each.keys, each.values))
        return logits[:, -1], state.hidden, *keys_and_values

    def _states(self, ids: Tensor, mask: Tensor | None) -> tuple[Tensor, ...]:
        """Hidden states of `ids` `[B, L]`, `[B, L, H]`."""
        return (self._first(ids, mask, skip_head=True)[1].hidden,)

    def _first(
        self, ids: Tensor, mask: Tensor | None, **options: bool
    ) -> tuple[Tensor, CachedState]:
        """`_run` of the first tokens that the network reads, with their mask, `[B, L]` each."""
        every = torch.ones_like(ids) if mask is None else mask
        return self._run(self._unread(every, mask is not None), ids, **options)

    def extend(self, state: CachedState, ids: Tensor) -> tuple[Tensor, CachedState]:
        """See `Decoder`. A `FixedState` reads one token a sequence, and is changed in place."""
        if isinstance(state, FixedState):
            return self._run_fixed(state, ids), state
        return self._run(state, ids)

    def _run_fixed(self, state: FixedState, ids: Tensor) -> Tensor:
        """Read one token a sequence, `[B, 1]`; returns logits `[B, 1, V]`.

        Every operation has the same shapes and places in memory for every token, and none waits
        for the device.
        """
        out = without_head(self.network)(
            input_ids=ids,
            position_ids=state.next_positions(),
            attention_mask=self._wide(state.mask()),
            use_cache=True,
            **{self._cache: state.cache},
        )
        state.hidden = out.last_hidden_state
        state.column.add_(1)
        return self.logits_of(state.hidden[:, 0])[:, None]

    def extend_states(self, state: CachedState, ids: Tensor) -> CachedState:
        return self._run(state, ids, skip_head=True)[1]

    def is_faster_whole(self, prompts: Prompts, num_responses: int) -> bool:
        """See `Decoder`. A GPU starts the kernels of a small pass more slowly than it runs them."""
        if self.in_step or not self.splits_head or not is_asynchronous(self.device):
            return False
        return self._num_weights * num_responses * prompts.ids.shape[1] <= LITTLE_WORK

    @property
    def records(self) -> bool:
        """See `Decoder`. Checkpointed layers compute otherwise in the backward pass."""
        if self.in_step or not (self.compile_decode and has_graphs(self.device)):
            return False
        return not (layer_checkpoints.are_on() or torch.is_autocast_enabled(self.device.type))

    def states_before(self, prompts: Prompts, rows: Tensor, ids: Tensor) -> Tensor:
        evaluating(self.network)
        tokens = torch.cat([prompts.ids[rows], ids[:, :-1]], 1)
        mask = None
        if prompts.is_padded:
            mask = pad(prompts.mask.long(), (0, ids.shape[1] - 1), value=1)[rows]
        if self.records:
            (hidden,) = recorded_passes(self)(self, self._states, tokens, mask)
        else:
            (hidden,) = self._states(tokens, mask)
        return hidden[:, -ids.shape[1] :]

    def logits_of(self, hidden: Tensor) -> Tensor:
        """See `Decoder`. The network's own code scales or caps the logits."""
        return logits_of(self.network, hidden)

    def decoding(self, num_tokens: int = 0) -> AbstractContextManager[Any]:
        """See `Decoder`. Faster layers for passes of one token."""
        if not self.in_step and packs(self.network, num_tokens):
            return PackedLayers(self.network)
        return RoundedAdapters(self.network)

    def drawing(self) -> AbstractContextManager[Any]:
        return gathered_once(self.network) if self.gathers_draws else nullcontext()

    @property
    def room(self) -> int:
        """Number of tokens whose keys and values take the memory of the weights, or `ROOM`.

        On a GPU they may take `SHARE` of all memory: a GPU needs many responses at a time.
        """
        config, num_numbers = self.network.config.get_text_config(), 0  # of keys and values
        # layers of Gemma 4 differ
        for layer in getattr(config, "per_layer_config", [config] * config.num_hidden_layers):
            num_heads = layer.num_attention_heads
            width = getattr(layer, "head_dim", None) or layer.hidden_size // num_heads
            num_numbers += 2 * width * (getattr(layer, "num_key_value_heads", None) or num_heads)
        num_bytes = num_numbers * self.network.dtype.itemsize
        return max(ROOM, self._weight_bytes, int(SHARE * total_memory(self.device))) // num_bytes

    def read(self, embeddings: Tensor) -> Any:
        """Read M input embeddings `[M, H]`. Returns a cache of one row, a `prefix` for `start`."""
        evaluating(self.network)
        mask = torch.ones(1, len(embeddings), dtype=torch.long, device=embeddings.device)
        # a copy, which CTRL scales in place
        state = self._unread(mask, False)
        logits, state = self._run(state, embeddings[None].clone(), last_only=True)
        if self.in_step and logits.requires_grad:
            # FSDP gathers a layer for the backward pass when the layer's output has a gradient
            last = state.cache.layers[-1]
            last.keys = last.keys + 0.0 * logits.sum()
        return state.cache

    def check_fixed(self) -> None:
        """Refuse a network that cannot read a `FixedState`, by a `ValueError`."""
        attention = self.network.config._attn_implementation
        faults = {
            f"attention by {attention!r}, expected one of {sorted(WIDE)}": attention not in WIDE,
            "positions that depend on token ids": self._padding is not None,
            "positions by the mask": not self._takes_positions,
            "an output layer that its own code alone can call": not self.splits_head,
        }
        for fault, is_so in faults.items():
            if is_so:
                raise ValueError(f"{type(self.network).__name__} has {fault}: {NOT_COMPILED}")

    def _takes_wide_mask(self, cache: Any) -> bool:
        """True if attention takes the mask of `_wide` for all layers of a cache; None for a new."""
        config = self.network.config
        if config._attn_implementation not in WIDE or not self._takes_positions:
            return False
        cache = DynamicCache(config=config) if cache is None else cache
        return all(map(is_plain, cache.layers))

    def takes_one_mask(self, state: CachedState) -> bool:
        """True if one mask says for all layers which tokens a token reads, whatever their ids."""
        return self._padding is None and self._takes_wide_mask(state.cache)

    def _wide(self, mask: Tensor, num_tokens: int = 1) -> Tensor:
        """A mask of columns `[B, C]` as attention adds it for the last L tokens, `[B, 1, L, C]`.

        Torch would make these numbers of a mask of True and False in each layer. Padding reads
        itself: attention to nothing is NaN.
        """
        mask, dtype = mask.bool()[:, None, None], self.network.dtype
        if num_tokens > 1:
            columns = torch.arange(mask.shape[-1], device=mask.device)
            own = columns[-num_tokens:, None]
            mask = (mask & (columns <= own)) | (columns == own)
        return torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, torch.finfo(dtype).min)

    def _unread(
        self, mask: Tensor, is_padded: bool, cache: Any = None, num_read: int = 0
    ) -> CachedState:
        """The state before a pass, with the mask of all columns, `[B, C]`."""
        if is_padded and not num_read and not self.takes_padding:  # else padding reads the prefix
            attention = self.network.config._attn_implementation
            raise ValueError(
                f"{type(self.network).__name__} in {self.network.dtype}, with attention by "
                f"{attention!r}, gives NaN to prompts of different lengths, which are padded: load "
                "it in float32, or pass prompts of one length at a time"
            )
        positions = (mask.cumsum(1) - 1).clamp(min=0) + self._first_position
        hidden = torch.empty(0, device=mask.device)
        return CachedState(cache, num_read, mask, positions, is_padded, hidden)

    def _run(
        self,
        state: CachedState,
        tokens: Tensor,
        *,
        last_only: bool = False,
        skip_head: bool = False,
    ) -> tuple[Tensor, CachedState]:
        """Read L more tokens: their ids `[B, L]`, or their input embeddings `[B, L, H]`.

        With `skip_head` the logits are empty.
        """
        name = "inputs_embeds" if tokens.is_floating_point() else "input_ids"
        start, end, positions = state.num_read, state.num_read + tokens.shape[1], state.positions
        if self._padding is not None and name == "input_ids":
            skipped = (tokens == self._padding) & state.mask[:, start:end].bool()
            later = without_padding(positions[:, start:], skipped, self._padding)
            positions = torch.cat([positions[:, :start], later], 1)
        batch: dict[str, Any] = {name: tokens}
        if self._takes_positions:
            batch["position_ids"] = positions[:, start:end]
        mask: Tensor | None = state.mask[:, :end] if state.is_padded else None
        # `transformers` reads the values of a mask `[B, C]`, and waits for the device
        reads_mask = mask is not None and is_asynchronous(tokens.device)
        if reads_mask and (self.records or self._takes_wide_mask(state.cache)):
            mask = self._wide(state.mask[:, :end], tokens.shape[1])
        batch |= {"attention_mask": mask, self._cache: state.cache}
        if last_only and self._keeps_last_logits:
            batch["logits_to_keep"] = 1
        with (
            layer_checkpoints.around(self.network),
            rounded_together(self.network, tokens.shape[1]),
            pointwise_recomputation(self.network),
            faster_attention(self.network),
            states_before_head(self.network, copies=last_only, skip_head=skip_head) as hidden,
        ):
            out = self.network(**batch, use_cache=True)
        cache = out[self._cache]
        # some decoders of encoder-decoders, such as RemBERT, keep their keys and values in a part
        cache = getattr(cache, "self_attention_cache", cache)
        new = CachedState(cache, end, state.mask, positions, state.is_padded, hidden[0])
        return out.logits, new


def _cache_argument(network: "transformers.PreTrainedModel", arguments: Collection[str]) -> str:
    """Name of the keys and values of attention; refuses a network with layers of another kind."""
    kind = type(network).__name__
    for adapter in getattr(network, "peft_config", {}).values():
        check_settings(f"the network {kind}", adapter.to_dict())
    names = [name for name in CACHE if name in arguments]
    if not names:
        expected = f"expected {' or '.join(CACHE)}, the keys and values of attention"
        fix = "recurrent networks, such as Mamba and RWKV, are not supported as prior"
        raise ValueError(f"{kind}.forward takes {', '.join(arguments)}: {expected}; {fix}")
    config = network.config.get_text_config()
    if others := set(getattr(config, "layer_types", None) or ()) - ATTENTION:
        expected = "expected layers of attention alone"
        raise ValueError(f"{kind} has layers of kind {sorted(others)}, {expected}")
    return names[0]


def _speed_up(network: "transformers.PreTrainedModel") -> None:
    """Replace adapters, layers and a check by faster ones, in place."""
    if any(hasattr(module, "lora_A") for module in network.modules()):
        from model.networks.layers import adapted_linear  # takes seconds to import

        adapted_linear.faster_adapters(network)
    fused_layers(network)
    rotary_layers(network)
    # the search for padding in a pass without a mask waits for a GPU: there is no padding then
    vars(without_head(network))["warn_if_padding_and_no_attention_mask"] = _no_warning


def _no_warning(*_: Any) -> None:
    """No warning of padding in a pass without a mask."""
