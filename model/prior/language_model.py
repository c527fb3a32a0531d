"""A causal language model as a conditional distribution over responses, p(x | prompt)."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from model.common.checks import instance, positive, whole_number
from model.common.files import saved_together
from model.networks.adapter import forget_base
from model.networks.loading import load_pretrained
from model.prior.cached_decoder import CachedDecoder
from model.prior.decoder_check import check_cached_reading
from model.prior.encoding import encoded_prompts, warn_of_open_ends, warn_of_unknown_words
from model.prior.prompts import Columns, Prompts, check_prompts
from model.prior.response_distribution import ResponseDistribution
from model.prior.response_space import OtherLanguageModelError, ResponseSpace
from model.prior.tokenization import (
    checked_ids,
    continuations,
    decoded,
    default_end_ids,
    vocabulary_digest,
)


class LanguageModel(CachedDecoder):
    """Any Hugging Face causal language model, whose call on prompts is a `ResponseDistribution`.

        prior = LanguageModel.from_pretrained("model/film_reviews", max_new_tokens=16)
        prompts = prior.encode(["The film was"])
        response = prior(prompts).sample((8,))  # [8, 1, 16], token ids
        prior(prompts).log_prob(response)  # [8, 1], nats
        prior.decode(response, prompts)

    Frozen and without dropout for good: a guide trains its own copy. Of the checkpoint's settings
    of `generate`, the end ids alone are read: its temperature, top_k or penalties are no part of p.

    Args:
        network: a causal language model that takes `position_ids` and keys and values.
        tokenizer: the tokenizer of the network.
        max_new_tokens: T, the most tokens of a response.
        temperature: divides the logits, in sampling and in scoring.
        end_ids: ids that end a response; by default all ids that generation settings, configuration
            and tokenizer name, with a warning where they differ.
        pad_id: fills a response after its end; by default the tokenizer's, else an end id.
        compile_decode: draw responses by a compiled step in buffers of fixed shape: a CUDA graph on
            a GPU, `torch.compile` elsewhere. Compiling takes seconds on a GPU and up to minutes on
            a CPU, for each number of responses. Up to four sets of buffers stay in memory. On a GPU
            the passes that score responses to short prompts are graphs too, with their gradient,
            which pad all responses to one length and keep the memory of their activations and of
            one gradient.

    Raises:
        ValueError: if no end id is known, an id is outside the vocabulary, the context has no room
            for a response, or the network cannot be read with a cache.
        CachedReadingError: if the network reads a few tokens otherwise with a cache than without.
    """

    _end_ids: Tensor

    def __init__(
        self,
        network: "transformers.PreTrainedModel",
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_new_tokens: int,
        temperature: float = 1.0,
        end_ids: Iterable[int] | None = None,
        pad_id: int | None = None,
        compile_decode: bool = False,
    ) -> None:
        super().__init__(network, whole_number("max_new_tokens", max_new_tokens))
        if self.context is not None:
            why = f"a prompt has a token, within the network's context of {self.context}"
            whole_number("max_new_tokens", max_new_tokens, at_most=self.context - 1, why=why)
        self.temperature = positive("temperature", temperature)
        self.tokenizer = instance("tokenizer", tokenizer, PreTrainedTokenizerBase)
        network = self.network
        self.vocab_size = network.get_output_embeddings().weight.shape[0]
        _warn_of_size(network, tokenizer)
        named = default_end_ids(network, tokenizer, self.vocab_size) if end_ids is None else end_ids
        self.end_ids = checked_ids("end_ids", named, self.vocab_size)
        if not self.end_ids:
            fault = "neither the network nor its tokenizer names an end-of-sequence id"
            raise ValueError(f"{fault}: pass `end_ids`")
        candidates = (pad_id, tokenizer.pad_token_id, self.end_ids[0])
        pad_ids = [each for each in candidates if each is not None]
        (self.pad_id,) = checked_ids("pad_id", pad_ids[:1], self.vocab_size)
        self.vocabulary = vocabulary_digest(tokenizer, self.vocab_size)
        ends = torch.tensor(self.end_ids, device=network.device)
        self.register_buffer("_end_ids", ends, persistent=False)
        self.train(False)
        padding = getattr(network.config.get_text_config(), "pad_token_id", None)
        special = {*tokenizer.all_special_ids, *self.end_ids, self.pad_id, padding}
        words = [token_id for token_id in range(self.vocab_size) if token_id not in special]
        self.takes_padding = check_cached_reading(self, network, words or [0], self.max_new_tokens)
        if instance("compile_decode", compile_decode, bool):
            self.check_fixed()
            check_cached_reading(self, network, words or [0], self.max_new_tokens, fixed=True)
        self.compile_decode = compile_decode

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        max_new_tokens: int,
        temperature: float = 1.0,
        end_ids: Iterable[int] | None = None,
        pad_id: int | None = None,
        dtype: torch.dtype | str = torch.float32,
        device: torch.device | str | None = None,
        gguf_file: str | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
        base: str | Path | None = None,
        compile_decode: bool = False,
    ) -> Self:
        """Load a checkpoint in Hugging Face format, or in GGUF, from a folder or from the hub.

        Args:
            name_or_path: folder, or name on the hub.
            gguf_file: name of a GGUF file in the folder, for a model in that format.
            revision: branch, tag or commit on the hub.
            dtype: see `load_pretrained`, as for device, trust_remote_code and base.
            max_new_tokens: see the class, as for temperature, end_ids, pad_id and compile_decode.

        Raises:
            PretrainedError: if network or tokenizer cannot be loaded whole.
        """
        given = {"gguf_file": gguf_file, "revision": revision, "base": base}
        where: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
        where["trust_remote_code"] = trust_remote_code
        causal = transformers.AutoModelForCausalLM
        network, tokenizer = load_pretrained(causal, name_or_path, dtype, device, **where)
        options: dict[str, Any] = {"temperature": temperature, "end_ids": end_ids, "pad_id": pad_id}
        options["compile_decode"] = compile_decode
        return cls(network, tokenizer, max_new_tokens=max_new_tokens, **options)

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode: dropout would score samples by another distribution."""
        return super().train(False)

    @property
    def space(self) -> ResponseSpace:
        """The set of responses."""
        return ResponseSpace(
            self.max_new_tokens, self.vocab_size, self._end_ids, self.pad_id, self.vocabulary
        )

    def check_same_responses(self, name: str, other: "LanguageModel", fix: str) -> None:
        """Refuse another language model, by a name in words, that cannot score these responses."""
        difference = other.space.difference(self.space)
        if difference is None and other.tokenizer.get_vocab() != self.tokenizer.get_vocab():
            difference = "tokenizers of other entries"
        if difference is not None:
            raise ValueError(f"{name} and the prior differ in {difference}. {fix}")

    def save_pretrained(self, folder: str | Path) -> None:
        """Write network and tokenizer in Hugging Face format, which `transformers` alone loads.

        The settings of `generate` are written such that it draws from this distribution. For a
        network with an adapter of `peft` the adapter alone is written.
        """
        with saved_together(folder) as new:
            self.network.save_pretrained(new)
            if (new / transformers.utils.GENERATION_CONFIG_NAME).exists():
                transformers.GenerationConfig(**self.generation_settings).save_pretrained(new)
            forget_base(new)
            self.tokenizer.save_pretrained(new)

    @property
    def generation_settings(self) -> dict[str, Any]:
        """Settings of a new `GenerationConfig` by which `generate` draws from this distribution."""
        neutral = {"do_sample": True, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0}
        ids = {"eos_token_id": list(self.end_ids), "pad_token_id": self.pad_id}
        bos = {"bos_token_id": self.tokenizer.bos_token_id}
        length = {"temperature": self.temperature, "max_new_tokens": self.max_new_tokens}
        return neutral | length | ids | bos

    def encode(
        self,
        prompts: Iterable[str | Sequence[Mapping[str, Any]]],
        columns: Columns | None = None,
        *,
        system: str | None = None,
        places: Sequence[str] = (),
        **template_options: Any,
    ) -> Prompts:
        """Tokenize N prompts, texts or chats.

            prior.encode(["The film was"])
            prior.encode([[{"role": "user", "content": "2 + 2?"}]], columns={"answer": ["4"]})

        A text gets the beginning that the tokenizer adds, and no end. An empty text becomes the
        BOS. Special tokens in a text are tokenized as such. A chat is written by the tokenizer's
        template, which has all special tokens, up to where the assistant's message begins, or goes
        on if the last message is the assistant's. A space at the end that tokens of the next word
        would have in front is warned of.

        Args:
            prompts: N prompts, each a text or a list of messages `{"role": ..., "content": ...}`.
            columns: data by name, one value for each prompt, which rewards may read: texts,
                numbers, truth values, None, and lists and dicts of these. The template of a chat
                reads TRL's columns `tools` and `chat_template_kwargs`.
            system: content of a first message of the role `system`, for all prompts. A prompt that
                is a text becomes the user's message of a chat.
            places: names of the N prompts in errors, such as file and line; default their numbers.
            template_options: further options of `tokenizer.apply_chat_template`, such as
                `tools`, and options of the template's own, such as `enable_thinking`;
                they come before those of a column.

        Raises:
            TypeError: with the index, if a prompt is neither a text nor a list of messages.
            ValueError: if there is no prompt, an empty text and no BOS, a prompt is too long, a
                column has other than N values, or the tokenizer has no chat template.
        """
        columns = {} if columns is None else columns
        reader = self.network, self.tokenizer
        encoded = encoded_prompts(*reader, prompts, system, places, template_options, columns)
        messages, texts, places, rows = encoded
        start = self.tokenizer.bos_token_id
        for place, text, row in zip(places, texts, rows, strict=True):
            if not row and start is None:
                fix = "write a text of at least one token, or set `tokenizer.bos_token`"
                raise ValueError(f"{place} is empty and the tokenizer has no BOS token: {fix}")
            row[:] = row or [start]
            self._check_room(f"{place} has {len(row)} tokens ({text[:40]!r}...)", len(row))
        warn_of_unknown_words(self.tokenizer, texts, places)
        warn_of_open_ends(self.tokenizer, encoded)
        about = {"vocabulary": self.vocabulary, "messages": messages, "columns": columns}
        return Prompts.from_ids(rows, texts, self.device, **about)

    def _check_room(self, prompt: str, num_tokens: int) -> None:
        """Refuse a prompt that leaves too little of the context for a response."""
        if self.context is not None and num_tokens + self.max_new_tokens > self.context:
            raise ValueError(
                f"{prompt}: with max_new_tokens={self.max_new_tokens} that is over the network's "
                f"context of {self.context}. Shorten one of the two"
            )

    def decode(self, response: Tensor, prompts: Prompts | None = None) -> list:
        """Texts of responses, without their end: N strings for `[N, T]`, K lists for `[K, N, T]`.

        With `prompts`, the whole texts: the prompt as written, then the text that the response
        adds. Without, the responses decoded on their own. Special tokens of a response other than
        the end are part of the text.
        """
        self._check_decodable(response, prompts)
        rows = response.reshape(-1, response.shape[-1])
        both = torch.stack([rows, self.space.is_word(rows).to(rows)])
        rows, is_word = both.cpu()  # one wait for the device
        low, high = _range(rows)
        if low < 0 or high >= self.vocab_size:
            fault = f"the responses have token ids from {low} to {high}, and the language model"
            raise OtherLanguageModelError(f"{fault} has {self.vocab_size}: they are another's")
        ids = [row[mask].tolist() for row, mask in zip(rows, is_word.bool(), strict=True)]
        if prompts is None:
            return _nested(decoded(self.tokenizer, ids), response.shape[:-1])
        texts = prompts.texts
        heads = [row if text else [] for row, text in zip(prompts.rows(), texts, strict=True)]
        added = continuations(self.tokenizer, heads, ids)
        whole = [texts[b % len(texts)] + text for b, text in enumerate(added)]
        return _nested(whole, response.shape[:-1])

    def _check_decodable(self, response: Tensor, prompts: Prompts | None) -> None:
        """Refuse anything but token ids of responses, `[..., N, T]`, to N prompts."""
        instance("response", response, Tensor)
        if response.is_floating_point() or response.is_complex() or response.dim() < 2:
            got = f"responses of shape {tuple(response.shape)} and type {response.dtype}"
            raise ValueError(f"got {got}, expected token ids [..., N, T]")
        if prompts is not None:
            self.space.check(prompts, response)
            if response.shape[-2] != len(prompts):
                counts = f"{response.shape[-2]} prompts and {len(prompts)} prompts"
                raise ValueError(f"got responses to {counts}")

    def forward(self, prompts: Prompts) -> ResponseDistribution:
        """p(response | prompts): batch shape `[N]`, event shape `[T]`.

        Raises:
            OtherLanguageModelError: for prompts that another language model encoded.
            ValueError: for prompts that leave too little of the context, or have unknown ids.
        """
        check_prompts(prompts)
        # the number of columns bounds the longest prompt without a look at the mask
        if self.context is not None and prompts.ids.shape[1] + self.max_new_tokens > self.context:
            longest = max(prompts.lengths)
            self._check_room(f"the longest prompt has {longest} tokens", longest)
        if prompts.vocabulary is None:
            low, high = _range(prompts.ids[prompts.mask])
            if low < 0 or high >= self.network.get_input_embeddings().weight.shape[0]:
                raise ValueError(f"the prompts have token ids from {low} to {high}, not all known")
        return ResponseDistribution(self, prompts, self.space, temperature=self.temperature)


def _warn_of_size(
    network: "transformers.PreTrainedModel", tokenizer: PreTrainedTokenizerBase
) -> None:
    """Warn of a tokenizer with more tokens than the network reads."""
    num_read = network.get_input_embeddings().weight.shape[0]
    if tokenizer.vocab_size > num_read:
        warnings.warn(
            f"the tokenizer has {tokenizer.vocab_size} tokens, and {type(network).__name__} reads "
            f"{num_read}: is the tokenizer of another network?",
            stacklevel=3,
        )


def _range(ids: Tensor) -> tuple[int, int]:
    """Smallest and largest token id; 0 and 0 without ids."""
    return (int(ids.min()), int(ids.max())) if ids.numel() else (0, 0)


def _nested(texts: list[str], shape: Sequence[int]) -> list:
    """A flat list as lists of lists of the shape `[..., N]`."""
    for size in reversed(shape[1:]):
        texts = [texts[start : start + size] for start in range(0, len(texts), size)]  # type: ignore[misc]
    return texts
