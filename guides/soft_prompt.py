"""Soft prompts: q_phi(x) is the prior after M virtual tokens that are learned; the network's weights are the prior's own.

    prompt: phi is `[M, H]`, input embeddings                           Lester et al. 2021, arXiv 2104.08691
    prefix: phi is `[M, layers, 2, heads, D]`, keys and values          Li and Liang 2021, arXiv 2101.00190

q(x | prompt) = p0(x | virtual tokens, prompt): virtual tokens at positions 0 to M - 1, then the prompt, then the response.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from guides.guide import Guide, OtherGuideError, check_prior, load_into
from guides.peft_format import adapter_config, adapter_weights, save_adapter
from model import LanguageModel, Prompts, ResponseDistribution
from model.common.checks import instance, one_of, whole_number
from model.prior.language_model import CachedState
from model.prior.tokenization import token_rows

Kind = Literal["prompt", "prefix"]

NAME = "prompt_embeddings"  # as peft calls them
PEFT_TYPES = {"prompt": "PROMPT_TUNING", "prefix": "PREFIX_TUNING"}


@dataclass(frozen=True)
class SoftPromptOptions:
    """Options of `SoftPrompt`."""

    kind: Kind = "prompt"
    """Parameters of a virtual token. `prompt`, the input embedding of the token; `prefix`, the keys
    and values of the token at every layer, without the network of Li and Liang that produces them."""

    num_virtual_tokens: int = 8
    """Number of virtual tokens before the prompt."""

    text: str | None = None
    """Text whose tokens, repeated or cut, are the virtual tokens at the start of training; default,
    the token that begins texts and then zeros, a start close to the prior."""


class SoftPrompt(Guide):
    """The prior with learned virtual tokens before the prompt, read once and shared by all prompts.

    It cannot start at the prior, for it moves the prompt by M positions and takes some attention. By default it starts with the
    embedding of the token that begins texts, then zeros, or the keys and values of these: the nearest start of those tried.
    With M = 8, temperature 0.7 and 12 tokens after "The film was" or "The movie was", KL(q || p0) is 0.28 nats on the film
    reviews and 3.9 on SmolLM2; with the first token M times 0.75 and 6.8, with the average embedding after it 0.40 and 6.5,
    with random tokens 20 and 6.5. `inference.diagnose` reports this distance, `experiments.steer` before and after the fit.
    Networks that normalise by the root mean square, as Llama does, have steep gradients at an embedding of zero: clip them, or
    start from a text.

    Args:
        prior: the language model that reads the virtual tokens; it stays as it is.
        kind: what is learned of a virtual token: `prompt`, its input embedding; `prefix`, its keys and values at every layer,
            without the network that Li and Liang make them by.
        num_virtual_tokens: M, how many.
        text: what the virtual tokens are at the start, repeated or cut to M; by default what changes little, see above.

    Raises:
        ValueError: if the kind is unknown, M is below 1 or leaves no room, `text` has no tokens, or a prefix is asked of a
            network whose layers differ in the shape of their keys and values.
    """

    def __init__(
        self,
        prior: LanguageModel,
        *,
        kind: Kind = "prompt",
        num_virtual_tokens: int = 8,
        text: str | None = None,
    ) -> None:
        super().__init__()
        if text is not None:
            instance("text", text, str)
        self.prior = check_prior(prior)
        self.kind = one_of("kind", kind, get_args(Kind))
        self.num_virtual_tokens = whole_number(
            "num_virtual_tokens", num_virtual_tokens, at_most=65_536
        )
        self._check_room(prompt_length=1)
        with torch.no_grad():
            start = (
                _unnoticed(prior, num_virtual_tokens)
                if text is None
                else _of_text(prior, text, num_virtual_tokens)
            )
            if kind == "prefix":
                keys_and_values = _keys_and_values(prior.read(start))
                self._layout = keys_and_values.shape[1:]
                start = keys_and_values.flatten(1)
        # in bfloat16 small updates would be lost
        self.virtual_tokens = nn.Parameter(
            start.to(torch.promote_types(start.dtype, torch.float32))
        )

    def distribution(self, prompts: Prompts) -> ResponseDistribution:
        """q(response | prompts).

        Raises:
            ValueError: if virtual tokens, prompt and response together are too long for the network.
        """
        self._check_room(prompts.ids.shape[1])
        return ResponseDistribution(
            self, prompts, self.prior.space, temperature=self.prior.temperature
        )

    def start(self, prompts: Prompts) -> tuple[Tensor, CachedState]:
        """See `Decoder`. The virtual tokens are read anew each time, so that each pass has a gradient of its own."""
        return self.prior.start(prompts, self._read())

    def extend(self, state: CachedState, ids: Tensor) -> tuple[Tensor, CachedState]:
        """See `Decoder`."""
        return self.prior.extend(state, ids)

    def _read(self) -> Any:
        """The virtual tokens as a cache of one row, in the network's type."""
        network = self.prior.network
        virtual = self.virtual_tokens.to(network.dtype)
        if self.kind == "prompt":
            return self.prior.read(virtual)
        layers = virtual.unflatten(1, self._layout).permute(
            1, 2, 3, 0, 4
        )  # [M, L, 2, heads, D] -> [L, 2, heads, M, D]
        return DynamicCache(
            [(keys[None], values[None]) for keys, values in layers], config=network.config
        )

    def _check_room(self, prompt_length: int) -> None:
        needed, room = (
            self.num_virtual_tokens + prompt_length + self.prior.max_new_tokens,
            _room(self.prior),
        )
        if room is not None and needed > room:
            raise ValueError(
                f"{self.num_virtual_tokens} virtual tokens, {prompt_length} of the prompt and "
                f"{self.prior.max_new_tokens} of the response are over the {room} that the network sees at once: lower "
                "num_virtual_tokens, or shorten the prompt or the response"
            )

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the virtual tokens and the tokenizer; `peft` alone loads them onto the prior's network."""
        from peft import PrefixTuningConfig, PromptTuningConfig  # takes seconds to import

        network = self.prior.network
        shared = {
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": network.name_or_path,
            "num_virtual_tokens": self.num_virtual_tokens,
            "num_transformer_submodules": 1,
            "inference_mode": True,
        }
        if self.kind == "prompt":
            config = PromptTuningConfig(**shared, token_dim=self.virtual_tokens.shape[1])
        else:
            num_layers, _, num_heads, width = self._layout
            sizes = {
                "num_layers": num_layers,
                "num_attention_heads": num_heads,
                "token_dim": num_heads * width,
            }
            config = PrefixTuningConfig(**shared, **sizes)
        save_adapter(folder, config, {NAME: self.virtual_tokens}, self.prior.tokenizer)

    def load_pretrained(self, folder: str | Path) -> None:
        written_by = adapter_config(folder)["peft_type"]
        if written_by != PEFT_TYPES[self.kind]:
            raise OtherGuideError(
                f"{folder} is of another guide: peft calls it {written_by}, not {PEFT_TYPES[self.kind]}"
            )
        load_into({NAME: self.virtual_tokens}, adapter_weights(folder), str(folder))


def _unnoticed(prior: LanguageModel, num_tokens: int) -> Tensor:
    """Input embeddings that change little of what follows, `[M, H]`: a token that begins texts, then zeros.

    The first one is there for the attention that has nothing to look for, which networks send to the first token.
    """
    bos = prior.tokenizer.bos_token_id
    first = _embedded(prior, [prior.end_ids[0] if bos is None else bos])
    return torch.cat([first, first.new_zeros(num_tokens - 1, first.shape[1])])


def _of_text(prior: LanguageModel, text: str, num_tokens: int) -> Tensor:
    """Input embeddings of a text, repeated or cut, `[M, H]`."""
    ids = token_rows(prior.tokenizer, [text])[0]
    if not ids:
        raise ValueError(
            f"text is {text!r}, which has no tokens: write at least one, or leave it out"
        )
    return _embedded(prior, list(islice(cycle(ids), num_tokens)))


def _embedded(prior: LanguageModel, ids: list[int]) -> Tensor:
    return prior.network.get_input_embeddings()(torch.tensor(ids, device=prior.device))


def _keys_and_values(cache: Any) -> Tensor:
    """All keys and values of a cache of one row, `[M, layers, 2, heads, D]`: the order that peft has them in."""
    shapes = {
        tuple(tensor.shape)
        for layer in cache.layers
        for tensor in (layer.keys, layer.values)
        if tensor is not None
    }
    if len(shapes) != 1 or any(layer.keys is None for layer in cache.layers):
        raise ValueError(
            f"the network's keys and values have shapes {sorted(shapes)}, expected one shape at all layers: choose "
            "kind='prompt'"
        )
    layers = torch.stack([torch.stack([layer.keys[0], layer.values[0]]) for layer in cache.layers])
    return layers.permute(3, 0, 1, 2, 4)


def _room(prior: LanguageModel) -> int | None:
    """The most tokens that the network reads with each in sight of all before it.

    Sliding windows count columns, so that with padding between the virtual tokens and a short prompt, the window would depend
    on the other prompts of the batch.
    """
    config = prior.network.config.get_text_config()
    windows = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
    return min((size for size in [prior.context, *windows] if size is not None), default=None)
