"""A causal language model as a conditional distribution over responses, p(x | prompt)."""

from __future__ import annotations

import copy
import inspect
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from model.common.checks import instance, positive, whole_number
from model.common.digests import saved_together
from model.common.texts import listed_texts
from model.networks.adapter import forget_base
from model.networks.checks import (
    check_causal,
    check_ids,
    check_tokenizer,
    checked_network,
    evaluating,
)
from model.networks.loading import load_pretrained
from model.networks.positions import (
    first_position,
    longest_context,
    padding_position,
    without_padding,
)
from model.prior.cached_reading import check_cached_reading
from model.prior.prompts import Prompts
from model.prior.response_distribution import ResponseDistribution
from model.prior.response_end import checked_ids, default_end_ids
from model.prior.response_space import OtherLanguageModelError, ResponseSpace
from model.prior.tokenization import continuations, decoded, token_rows, vocabulary_digest

ATTENTION = {"full_attention", "sliding_attention", "chunked_attention"}
"""Kinds of layer that keep keys and values by position, so that a state can be selected row by row."""


@dataclass(frozen=True)
class CachedState:
    """The keys and values of B sequences, with what tells their real tokens from padding.

    Mask and positions are made once, for the columns still to come as well: a step of the decode only takes a view of them.

    Attributes:
        cache: Hugging Face's cache object.
        seen: columns in the cache.
        mask: `[B, P + T]`, 1 where a column holds a real token, or will.
        positions: `[B, P + T]`, real tokens before each column, and the position of the first.
        hidden: `[B, L, H]`, what the output layer was given for the L tokens read last (for a prompt, the last alone where the
            network can).
    """

    cache: Any
    seen: int
    mask: Tensor
    positions: Tensor
    hidden: Tensor

    def select(self, rows: Tensor) -> CachedState:
        return CachedState(
            _rows_of(self.cache, rows),
            self.seen,
            self.mask[rows],
            self.positions[rows],
            self.hidden[rows],
        )


class LanguageModel(nn.Module):
    """Any Hugging Face causal language model with its tokenizer. Calling it on prompts gives their `ResponseDistribution`.

    It is frozen and has no dropout, for good: a guide thaws its own copy. The `network` is put back into evaluation mode where
    it is found out of it.

    Args:
        network: a causal language model that takes `position_ids` and `past_key_values`.
        tokenizer: its tokenizer.
        max_new_tokens: T, the most tokens a response has.
        temperature: divides the logits, when sampling and when scoring.
        end_ids: ids that end a response; by default all that the generation settings, the configuration of the network and the
            tokenizer name, with a warning where they differ.
        pad_id: fills a response after its end; by default the tokenizer's padding id, else the first end id.

    Raises:
        ValueError: if no end id is known, an id is outside the vocabulary, or the network cannot be driven by a cache.
        CachedReadingError: if the network reads a few tokens otherwise with a cache than without.
    """

    _end_ids: Tensor

    def __init__(
        self,
        network: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_new_tokens: int,
        temperature: float = 1.0,
        end_ids: Iterable[int] | None = None,
        pad_id: int | None = None,
    ) -> None:
        super().__init__()
        max_new_tokens = whole_number("max_new_tokens", max_new_tokens)
        temperature = positive("temperature", temperature)
        network = checked_network(network)
        check_tokenizer(tokenizer)
        missing = {"position_ids", "past_key_values"} - set(
            inspect.signature(network.forward).parameters
        )
        if missing:
            raise ValueError(
                f"{type(network).__name__}.forward does not take {sorted(missing)}: expected a causal language model "
                "with a key-value cache, as `AutoModelForCausalLM` loads it"
            )
        kinds = (
            set(getattr(network.config.get_text_config(), "layer_types", None) or ()) - ATTENTION
        )
        if kinds:
            raise ValueError(
                f"{type(network).__name__} has layers of kind {sorted(kinds)}, whose state is not a key-value cache: "
                "expected a network of attention layers alone"
            )
        check_causal(network.eval())
        self.network = network
        self.tokenizer = tokenizer
        self.max_new_tokens = max_new_tokens
        self.temperature = temperature
        self.vocab_size = network.get_output_embeddings().weight.shape[0]
        named = default_end_ids(network, tokenizer, self.vocab_size) if end_ids is None else end_ids
        self.end_ids = checked_ids("end_ids", named, self.vocab_size)
        if not self.end_ids:
            raise ValueError(
                "neither the network nor its tokenizer names an end-of-sequence id: pass `end_ids=[...]`"
            )
        if pad_id is None:
            pad_id = tokenizer.pad_token_id
        (self.pad_id,) = checked_ids(
            "pad_id", [self.end_ids[0] if pad_id is None else pad_id], self.vocab_size
        )
        self.vocabulary = vocabulary_digest(tokenizer, self.vocab_size)
        self.register_buffer(
            "_end_ids", torch.tensor(self.end_ids, device=network.device), persistent=False
        )
        self._keeps_last_logits = "logits_to_keep" in inspect.signature(network.forward).parameters
        self._padding, self._first_position = padding_position(network), first_position(network)
        self._context = longest_context(network)
        self.requires_grad_(False)
        self.zero_grad(set_to_none=True)
        self.train(False)
        check_cached_reading(self, network, self._words(), max_new_tokens)

    def _words(self) -> list[int]:
        """Ordinary token ids, at least one."""
        padding = getattr(self.network.config.get_text_config(), "pad_token_id", None)
        special = {*self.tokenizer.all_special_ids, *self.end_ids, self.pad_id, padding}
        return [i for i in range(self.vocab_size) if i not in special] or [0]

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        max_new_tokens: int,
        temperature: float = 1.0,
        dtype: torch.dtype | str = torch.float32,
        device: torch.device | str | None = None,
        gguf_file: str | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
        base: str | Path | None = None,
        end_ids: Iterable[int] | None = None,
        pad_id: int | None = None,
    ) -> Self:
        """Load a checkpoint in Hugging Face format, or in GGUF, from a folder or from the hub.

        Args:
            name_or_path: a folder, or a name on the hub.
            max_new_tokens: T, the most tokens a response has.
            temperature: divides the logits.
            dtype: of the weights in memory, whatever it is on disk; a `torch.dtype` or its name.
            device: default: a GPU where there is one.
            gguf_file: the name of a GGUF file in the folder, for a model in that format.
            revision: branch, tag or commit on the hub.
            trust_remote_code: run modelling code that comes with the checkpoint; without it such a checkpoint is refused.
            base: of an adapter of `peft`, the network that it is for; default the one that it names.
            end_ids: see the class.
            pad_id: see the class.

        Raises:
            PretrainedError: if network or tokenizer cannot be loaded whole: see `load_network` and `load_tokenizer`.
        """
        where: dict[str, Any] = {"gguf_file": gguf_file, "revision": revision, "base": base}
        where = {key: value for key, value in where.items() if value is not None}
        network, tokenizer = load_pretrained(
            AutoModelForCausalLM,
            name_or_path,
            dtype,
            device,
            trust_remote_code=trust_remote_code,
            **where,
        )
        if gguf_file is not None:
            network = _without_quantization(network)
        return cls(
            network,
            tokenizer,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            end_ids=end_ids,
            pad_id=pad_id,
        )

    def train(self, mode: bool = True) -> Self:
        """Does nothing but leave evaluation mode on: with dropout, what is sampled would not be what is scored."""
        return super().train(False)

    @property
    def device(self) -> torch.device:
        return self.network.device

    @property
    def space(self) -> ResponseSpace:
        """What its responses look like."""
        return ResponseSpace(
            self.max_new_tokens, self.vocab_size, self._end_ids, self.pad_id, self.vocabulary
        )

    @property
    def context(self) -> int | None:
        """The most tokens, of prompt and response, that the network can read; None if it names no limit."""
        return self._context

    def save_pretrained(self, folder: str | Path) -> None:
        """Write network and tokenizer in Hugging Face format; `transformers` alone loads them again.

        Of a network with an adapter of `peft` the adapter alone is written.
        """
        with saved_together(folder) as new:
            self.network.save_pretrained(new)
            forget_base(new)
            self.tokenizer.save_pretrained(new)

    def encode(self, texts: Iterable[str]) -> Prompts:
        """Tokenize N prompts, with the beginning that the tokenizer adds, once; an empty one becomes its BOS.

        Special tokens that are written in a prompt are those tokens. An end that the tokenizer adds is left
        out: after it, no text would go on.

        Args:
            texts: a list of texts, or another iterable of them: an array, a series, a generator.

        Raises:
            TypeError: if that is something else, with the index of what is no text.
            ValueError: if there is no prompt, an empty one and no BOS, or one too long for the network's context.
        """
        texts = listed_texts("encode", texts)
        rows = token_rows(self.tokenizer, texts)
        context = self.context
        check_ids(rows, texts, self.network, self.tokenizer)
        for index, (text, row) in enumerate(zip(texts, rows, strict=True)):
            if not row and self.tokenizer.bos_token_id is None:
                raise ValueError(
                    f"prompt {index} is empty and the tokenizer has no BOS token: write at least one token"
                )
            if not row:
                row.append(self.tokenizer.bos_token_id)
            if context is not None and len(row) + self.max_new_tokens > context:
                raise ValueError(
                    f"prompt {index} has {len(row)} tokens ({text[:40]!r}...): with max_new_tokens={self.max_new_tokens} "
                    f"that is over the network's context of {context}. Shorten the prompt or the response."
                )
        return Prompts.from_ids(rows, texts, self.device, self.vocabulary)

    def decode(self, response: Tensor, prompts: Prompts | None = None) -> list:
        """Texts of responses without their end: N strings for `[N, T]`, K lists of N for `[K, N, T]`, and so on.

        With `prompts`, the whole texts: the prompt as written, then what the response adds to it, with the
        space of its first word. Without, the responses decoded on their own. Special tokens other than the end
        are part of a response and of its text. Those that the tokenizer adds to a prompt are part of neither.
        """
        self._check_decodable(response, prompts)
        rows = response.reshape(-1, response.shape[-1])
        mask = self.space.is_token(rows) & ~torch.isin(rows, self._end_ids)
        ids = [_kept(*row) for row in zip(rows.tolist(), mask.tolist(), strict=True)]
        if prompts is None:
            return _nested(decoded(self.tokenizer, ids), response.shape[:-1])
        heads = [
            row if text else [] for row, text in zip(prompts.rows(), prompts.texts, strict=True)
        ]
        added = continuations(self.tokenizer, heads, ids)
        texts = [prompts.texts[b % len(prompts)] + text for b, text in enumerate(added)]
        return _nested(texts, response.shape[:-1])

    def _check_decodable(self, response: Tensor, prompts: Prompts | None) -> None:
        """Refuse what are no responses of this language model, `[..., N, T]`, to N prompts."""
        instance("response", response, Tensor)
        if prompts is not None:
            instance("prompts", prompts, Prompts, why="`encode([...])` makes them of texts")
        if response.is_floating_point() or response.is_complex() or response.dim() < 2:
            raise ValueError(
                f"got responses of shape {tuple(response.shape)} and type {response.dtype}, expected token ids [..., N, T]"
            )
        if prompts is not None:
            self.space.check(prompts, response)
            if response.shape[-2] != len(prompts):
                raise ValueError(
                    f"got responses to {response.shape[-2]} prompts and {len(prompts)} prompts"
                )
        if (
            response.numel()
            and not 0 <= int(response.min()) <= int(response.max()) < self.vocab_size
        ):
            raise OtherLanguageModelError(
                f"the responses have token ids from {int(response.min())} to {int(response.max())}, and the language model has "
                f"{self.vocab_size}: they are another's"
            )

    def forward(self, prompts: Prompts) -> ResponseDistribution:
        """p(response | prompts): batch shape `[N]`, event shape `[T]`.

        Raises:
            TypeError: for what are no prompts.
            OtherLanguageModelError: for prompts that another language model encoded.
            ValueError: for prompts that leave too little of the context, or that have ids which the network does not know.
        """
        if not isinstance(prompts, Prompts):
            raise TypeError(
                f"expected Prompts, got {type(prompts).__name__}: make them with `encode([...])`"
            )
        self._check_room(prompts)
        return ResponseDistribution(self, prompts, self.space, temperature=self.temperature)

    def _check_room(self, prompts: Prompts) -> None:
        """Refuse prompts encoded for shorter responses, or made by hand of unknown ids."""
        context, longest = self.context, prompts.ids.shape[1]
        if context is not None and longest + self.max_new_tokens > context:
            longest = int(prompts.mask.sum(1).max())
            if longest + self.max_new_tokens > context:
                raise ValueError(
                    f"the longest prompt has {longest} tokens: with max_new_tokens={self.max_new_tokens} that is over the "
                    f"network's context of {context}. Shorten the prompt or the response."
                )
        if prompts.vocabulary is None:
            read = prompts.ids[prompts.mask]
            if (
                not 0
                <= int(read.min())
                <= int(read.max())
                < self.network.get_input_embeddings().weight.shape[0]
            ):
                raise ValueError(
                    f"the prompts have token ids up to {int(read.max())}, which the network does not know"
                )

    def start(self, prompts: Prompts, prefix: Any = None) -> tuple[Tensor, CachedState]:
        """See `Decoder`. One pass over the N prompts; logits for their last position only.

        Args:
            prompts: N prompts.
            prefix: what the network has read before each of them, a cache of one row and M columns at positions 0 to M - 1,
                which is left as it was; default nothing.
        """
        evaluating(self.network)
        num_read, cache = 0, None
        if prefix is not None:
            num_read, cache = (
                prefix.get_seq_length(),
                _rows_of(prefix, prompts.ids.new_zeros(len(prompts))),
            )
        mask = torch.nn.functional.pad(
            prompts.mask.long(), (num_read, self.max_new_tokens), value=1
        )
        logits, state = self._run(self._unread(mask, cache, num_read), prompts.ids, last_only=True)
        return logits[:, -1], state

    def extend(self, state: CachedState, ids: Tensor) -> tuple[Tensor, CachedState]:
        """See `Decoder`."""
        return self._run(state, ids)

    def read(self, embeddings: Tensor) -> Any:
        """What the network makes of M input embeddings `[M, H]`, with gradient: a cache of one row, a `prefix` for `start`."""
        evaluating(self.network)
        mask = torch.ones(1, len(embeddings), dtype=torch.long, device=embeddings.device)
        return self._run(self._unread(mask), embeddings[None], last_only=True)[1].cache

    def _unread(self, mask: Tensor, cache: Any = None, seen: int = 0) -> CachedState:
        """A state that has read nothing but what is in `cache`, with the mask of all columns, `[B, C]`."""
        nothing = torch.empty(0, device=mask.device)
        positions = (mask.cumsum(1) - 1).clamp(min=0) + self._first_position
        return CachedState(cache, seen, mask, positions, nothing)

    def _run(
        self, state: CachedState, tokens: Tensor, *, last_only: bool = False
    ) -> tuple[Tensor, CachedState]:
        """Read L tokens more: their ids `[B, L]`, or their input embeddings `[B, L, H]`."""
        name = "inputs_embeds" if tokens.is_floating_point() else "input_ids"
        seen, positions = state.seen + tokens.shape[1], state.positions
        if self._padding is not None and name == "input_ids":
            skipped = (tokens == self._padding) & state.mask[:, state.seen : seen].bool()
            later = without_padding(positions[:, state.seen :], skipped, self._padding)
            positions = torch.cat([positions[:, : state.seen], later], 1)
        keep = {"logits_to_keep": 1} if last_only and self._keeps_last_logits else {}
        hidden: list[Tensor] = []
        thread = threading.get_ident()

        def listen(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
            if threading.get_ident() != thread:
                return None  # another thread reads with the same network, and listens for itself
            # the last states alone are strided; torch would multiply them by frozen weights with a copy of the layer for each
            # prompt, which takes longer than all the rest
            hidden.append(
                inputs[0].clone(memory_format=torch.contiguous_format) if last_only else inputs[0]
            )
            return (hidden[0], *inputs[1:])

        # some networks scale or cap the output layer's logits, so it is listened to, and not called on its own
        listener = self.network.get_output_embeddings().register_forward_pre_hook(listen)
        try:
            out = self.network(
                **{name: tokens},
                attention_mask=state.mask[:, :seen],
                position_ids=positions[:, state.seen : seen],
                past_key_values=state.cache,
                use_cache=True,
                **keep,
            )
        finally:
            listener.remove()
        return out.logits, CachedState(out.past_key_values, seen, state.mask, positions, hidden[0])


def _rows_of(cache: Any, rows: Tensor) -> Any:
    """The sequences at `rows` of a cache, repeats allowed; the original stays as it was."""
    picked = copy.copy(cache)
    picked.layers = [copy.copy(layer) for layer in cache.layers]
    picked.batch_select_indices(rows)
    return picked


def _kept(row: list[int], mask: list[bool]) -> list[int]:
    return [token for token, is_kept in zip(row, mask, strict=True) if is_kept]


def _nested(texts: list[str], shape: Sequence[int]) -> list:
    """A flat list as lists of lists of the shape `[..., N]`."""
    for size in reversed(shape[1:]):
        texts = [texts[start : start + size] for start in range(0, len(texts), size)]  # type: ignore[misc]
    return texts


def _without_quantization(network: PreTrainedModel) -> PreTrainedModel:
    """A GGUF model's dequantized tensors in a fresh network: the loaded one refuses to be saved."""
    config = copy.deepcopy(network.config)
    config.__dict__.pop("quantization_config", None)
    fresh = type(network)(config).to(device=network.device, dtype=network.dtype)
    fresh.load_state_dict(network.state_dict())
    fresh.generation_config = network.generation_config
    return fresh
