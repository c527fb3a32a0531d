"""The likelihood of a text under any causal language model: fluency, or an expert with tokens of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from model.common.checks import boolean, whole_number
from model.networks.adapter import unwrapped
from model.networks.batches import in_batches
from model.networks.checks import check_causal, check_ids, check_network, check_tokenizer
from model.networks.evaluation import evaluating
from model.networks.loading import load_pretrained
from model.networks.positions import longest_context


class TextLikelihood:
    """log p(text) in nats, by the token on average, or of the whole text.

    A function of texts, for `TextReward`. The first token is scored after the tokenizer's BOS if it has one, and not at all
    otherwise; the end of the text is not scored. Of a text longer than the network's context, its end alone is.

    Args:
        network: a causal language model.
        tokenizer: its tokenizer.
        per_token: the mean over tokens, which is fluency (minus the log of the perplexity); else the sum, which is that of an
            expert in a product of experts.
        batch_size: texts at a time.

    Raises:
        TypeError: if the network is none of `transformers`.
        ValueError: if the network is no causal language model, or the batch size no number.
    """

    upper_bound = 0.0

    def __init__(
        self,
        network: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        per_token: bool = True,
        batch_size: int = 32,
    ) -> None:
        network = unwrapped(network)
        check_network(network)
        check_tokenizer(tokenizer)
        self.network = network.eval().requires_grad_(False)
        check_causal(self.network)
        self.tokenizer = tokenizer
        self.per_token = boolean("per_token", per_token)
        self.batch_size = whole_number("batch_size", batch_size)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        per_token: bool = True,
        batch_size: int = 32,
        dtype: torch.dtype | str = torch.float32,
        device: torch.device | str | None = None,
        trust_remote_code: bool = False,
    ) -> Self:
        """Load a checkpoint in Hugging Face format, from a folder or from the hub; by default on a GPU where there is one."""
        network, tokenizer = load_pretrained(
            AutoModelForCausalLM, name_or_path, dtype, device, trust_remote_code=trust_remote_code
        )
        return cls(network, tokenizer, per_token=per_token, batch_size=batch_size)

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """`[M]`, nats, for M texts; 0 for a text with no token to score."""
        return in_batches(self._score, texts, self.batch_size).double()

    def _score(self, texts: list[str]) -> Tensor:
        rows = [self._ids(text) for text in texts]
        check_ids(rows, texts, self.network, self.tokenizer)
        longest = max(1, *(len(row) for row in rows))
        device = self.network.device
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=device)
        is_token = (
            torch.arange(longest, device=device)
            < torch.tensor([len(row) for row in rows], device=device)[:, None]
        )
        logits = evaluating(self.network)(ids, attention_mask=is_token.long()).logits[:, :-1]
        nats = -torch.nn.functional.cross_entropy(
            logits.float().transpose(1, 2), ids[:, 1:], reduction="none"
        )
        scored = is_token[:, 1:]
        total = nats.where(scored, 0.0).sum(1)
        return total / scored.sum(1).clamp(min=1) if self.per_token else total

    def _ids(self, text: str) -> list[int]:
        ids, bos = (
            self.tokenizer(text, add_special_tokens=False)["input_ids"],
            self.tokenizer.bos_token_id,
        )
        context = longest_context(self.network)
        begin = [] if bos is None or ids[:1] == [bos] else [bos]
        return begin + (ids if context is None else ids[max(0, len(ids) + len(begin) - context) :])
