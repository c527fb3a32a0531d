"""Soft prompts: q_phi(x | prompt) = p0(x | virtual tokens, prompt), with M learned virtual tokens.

    prompt: phi is `[M, H]`, input embeddings (Lester et al. 2021, arXiv 2104.08691)
    prefix: phi is `[M, layers, 2, heads, D]`, keys and values (Li and Liang 2021, arXiv 2101.00190)

The network's weights are the prior's own. Virtual tokens have positions 0 to M - 1.
"""

from itertools import cycle, islice
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from guides.adapters import adapter_config, adapter_weights, save_adapter
from guides.guide import Guide, OtherGuideError, check_prior, load_into
from guides.prior_decoder import PriorDecoder
from guides.prior_match import match_prior
from model import LanguageModel, Prompts, ResponseDistribution
from model.common.checks import instance, one_of, whole_number
from model.prior.cached_state import CachedState
from model.prior.prompts import check_prompts
from model.prior.tokenization import token_rows

Kind = Literal["prompt", "prefix"]

NAME = "prompt_embeddings"  # the name that `peft` gives the tensor
FAINT = 0.1
"""Length of the virtual tokens after the first, as a share of the first, before training."""
PEFT_TYPES = {"prompt": ("PROMPT_TUNING", "P_TUNING"), "prefix": ("PREFIX_TUNING",)}
"""Types of `peft` by kind. P-tuning is saved as input embeddings, without its encoder."""


class SoftPrompt(PriorDecoder, Guide):
    """The prior after learned virtual tokens, which are computed once and shared by all prompts.

    q cannot start at p0: the virtual tokens take attention and move the prompt by M positions, in
    `peft` as here. `soft_prompt_of`, the entry of the registry, moves the virtual tokens towards
    the prior before training. KL(q || p0) in nats with M = 8, 12 tokens on networks with random
    weights, 24 else:

        network                          no match   prompt   prefix
        film reviews, temperature 1          0.50     0.35     0.38
        a story model                        0.47     0.01     0.00
        random Llama                         14.4      2.0      0.7
        random GPT-2                         12.2      5.7      5.1

    The random GPT-2 has learned positions as long as its embeddings, and moving a prompt by M
    positions changes every token.

    Args:
        prior: Language model that reads the virtual tokens; not changed.
        kind, num_virtual_tokens, text: See `soft_prompt_of`.

    Raises:
        ValueError: If M leaves no room, `text` has no tokens, or a prefix would need keys and
            values of one shape at all layers.
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
        number = whole_number("num_virtual_tokens", num_virtual_tokens, at_most=65_536)
        self.num_virtual_tokens = number
        self._check_room(prompt_length=1)
        with torch.no_grad():
            start = _unnoticed(prior, number) if text is None else _of_text(prior, text, number)
            _check_readable(prior, start)
            if kind == "prefix":
                keys_and_values = _keys_and_values(prior.read(start))
                self._layout = keys_and_values.shape[1:]
                start = keys_and_values.flatten(1)
        # bfloat16 would lose small updates
        wide = torch.promote_types(start.dtype, torch.float32)
        self.virtual_tokens = nn.Parameter(start.to(wide))

    def distribution(self, prompts: Prompts) -> ResponseDistribution:
        """q(response | prompts); `ValueError` if the network sees fewer tokens at once."""
        self._check_room(prompts.ids.shape[1])
        space, temperature = self.prior.space, self.prior.temperature
        return ResponseDistribution(self, prompts, space, temperature=temperature)

    def start(self, prompts: Prompts) -> tuple[Tensor, CachedState]:
        """See `Decoder`. Reads the virtual tokens anew, so that each pass has its own gradient."""
        return self.prior.start(prompts, self._read())

    def extend(self, state: CachedState, ids: Tensor) -> tuple[Tensor, CachedState]:
        return self.prior.extend(state, ids)

    def logits_of(self, hidden: Tensor) -> Tensor:
        return self.prior.logits_of(hidden)

    def _read(self) -> Any:
        """Cache of the virtual tokens, with one row, in the network's data type."""
        network = self.prior.network
        virtual = self.virtual_tokens.to(network.dtype)
        if self.kind == "prompt":
            return self.prior.read(virtual)
        # [M, L, 2, heads, D] -> [L, 2, heads, M, D]
        layers = virtual.unflatten(1, self._layout).permute(1, 2, 3, 0, 4)
        pairs = [(keys[None], values[None]) for keys, values in layers]
        return DynamicCache(pairs, config=network.config)

    def _check_room(self, prompt_length: int) -> None:
        own, after, room = self.num_virtual_tokens, self.prior.max_new_tokens, _room(self.prior)
        if room is not None and own + prompt_length + after > room:
            raise ValueError(
                f"{own} virtual tokens, {prompt_length} of the prompt and {after} of the response "
                f"are over the {room} that the network sees at once: lower num_virtual_tokens"
            )

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the virtual tokens and the tokenizer; `peft` alone loads the virtual tokens."""
        from peft import PrefixTuningConfig, PromptTuningConfig  # takes seconds to import

        shared: dict[str, Any] = {"task_type": "CAUSAL_LM", "inference_mode": True}
        shared |= {"num_virtual_tokens": self.num_virtual_tokens, "num_transformer_submodules": 1}
        shared["base_model_name_or_path"] = self.prior.network.name_or_path
        if self.kind == "prompt":
            config = PromptTuningConfig(**shared, token_dim=self.virtual_tokens.shape[1])
        else:
            num_layers, _, num_heads, width = self._layout
            sizes = {"num_layers": num_layers, "num_attention_heads": num_heads}
            config = PrefixTuningConfig(**shared, **sizes, token_dim=num_heads * width)
        save_adapter(folder, config, {NAME: self.virtual_tokens}, self.prior.tokenizer)

    def load_pretrained(self, folder: str | Path) -> None:
        kind, expected = adapter_config(folder)["peft_type"], PEFT_TYPES[self.kind]
        if kind not in expected:
            fault = f"peft calls it {kind}, not {' or '.join(expected)}"
            raise OtherGuideError(f"{folder} is of another guide: {fault}")
        load_into({NAME: self.virtual_tokens}, adapter_weights(folder), str(folder))


def soft_prompt_of(
    prior: LanguageModel,
    prompts: Prompts,
    *,
    kind: Kind = "prompt",
    num_virtual_tokens: int = 8,
    text: str | None = None,
    match_steps: int = 30,
    match_micro_batch: int | None = None,
) -> SoftPrompt:
    """Build a soft prompt whose start is matched to the prior on the prompts.

    The result depends on the arguments alone. A text is the start as it is.

    Args:
        prior: Language model that reads the virtual tokens; not changed.
        prompts: Prompts on which the start is close to the prior.
        kind: Parameters of a virtual token. `prompt`, the input embedding of the token; `prefix`,
            the keys and values of the token at every layer, without the network of Li and Liang
            behind them.
        num_virtual_tokens: Number M of virtual tokens before the prompt.
        text: Text whose tokens, repeated or cut, are the virtual tokens at the start of training;
            default, virtual tokens close to the prior.
        match_steps: Number of steps that move the virtual tokens towards the prior before training,
            without rewards, where no text is the start. See `guides/prior_match.py`.
        match_micro_batch: Largest number of responses that the match differentiates at a time; None
            for all 32. Less memory, and the same start up to rounding. `steer --micro-batch` sets
            this too.
    """
    number = whole_number("match_steps", match_steps, at_least=0)
    if match_micro_batch is not None:
        match_micro_batch = whole_number("match_micro_batch", match_micro_batch)
    guide = SoftPrompt(prior, kind=kind, num_virtual_tokens=num_virtual_tokens, text=text)
    check_prompts(prompts)
    match_prior(guide, prior, prompts, 0 if text is not None else number, match_micro_batch)
    return guide


def _unnoticed(prior: LanguageModel, num_tokens: int) -> Tensor:
    """Input embeddings close to no tokens, `[M, H]`: the token that begins texts, then faint ones.

    An embedding of exactly zero has a steep gradient before a root-mean-square normalisation.
    """
    bos = prior.tokenizer.bos_token_id
    first = _embedded(prior, [prior.end_ids[0] if bos is None else bos])
    return torch.cat([first, FAINT * first.expand(num_tokens - 1, -1)])


def _of_text(prior: LanguageModel, text: str, num_tokens: int) -> Tensor:
    """Input embeddings of a text, repeated or cut, `[M, H]`."""
    ids = token_rows(prior.tokenizer, [text])[0]
    if not ids:
        fix = "write at least one, or leave it out"
        raise ValueError(f"text is {text!r}, which has no tokens: {fix}")
    return _embedded(prior, list(islice(cycle(ids), num_tokens)))


def _embedded(prior: LanguageModel, ids: list[int]) -> Tensor:
    return prior.network.get_input_embeddings()(torch.tensor(ids, device=prior.device))


def _check_readable(prior: LanguageModel, start: Tensor) -> None:
    """Refuse a network, such as Gemma 4, that reads embeddings of tokens alone."""
    try:
        prior.read(0.5 * start)
    except Exception as error:  # any error of the network's own code
        fault = f"{type(prior.network).__name__} cannot read virtual tokens"
        raise ValueError(f"{fault}: choose another guide, such as `LoRA` ({error})") from error


def _keys_and_values(cache: Any) -> Tensor:
    """Keys and values of a cache with one row, in `peft`'s order: `[M, layers, 2, heads, D]`."""
    pairs = [(layer.keys, layer.values) for layer in cache.layers]
    shapes = {tuple(part.shape) for pair in pairs for part in pair if part is not None}
    if len(shapes) != 1 or any(keys is None for keys, _ in pairs):
        own = sum(keys is not None for keys, _ in pairs)
        fault = f"{own} of {len(pairs)} layers have keys and values, of shapes {sorted(shapes)}"
        raise ValueError(f"{fault}, expected one shape at all layers: choose kind='prompt'")
    layers = torch.stack([torch.stack([keys[0], values[0]]) for keys, values in pairs])
    return layers.permute(3, 0, 1, 2, 4)


def _room(prior: LanguageModel) -> int | None:
    """Largest number of tokens such that each token attends to all tokens before it.

    Sliding windows count columns. Padding between the virtual tokens and a short prompt would let
    the window depend on the other prompts of the batch.
    """
    config = prior.network.config.get_text_config()
    windows = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
    return min((size for size in [prior.context, *windows] if size is not None), default=None)
