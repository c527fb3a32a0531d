"""Likelihood of a text under any causal language model: fluency, or an expert of other tokens."""

from collections.abc import Sequence

import torch
import transformers
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerBase

from model.common.checks import boolean, whole_number
from model.networks.checks import check_causal, check_ids
from model.networks.text_network import Text, TextNetwork, in_batches, padded


class TextLikelihood(TextNetwork):
    """log p(text) in nats, the mean over tokens or the sum; a function of texts for `TextReward`.

    The first token is scored after the tokenizer's BOS if there is one, and not at all otherwise.
    The end of the text is not scored. The end of a long text is read.

    Args:
        network, tokenizer: a causal language model and its tokenizer.
        per_token: take the mean over tokens, minus the log of the perplexity, which measures
            fluency; else the sum, as of an expert in a product of experts.
        batch_size: number of texts read at a time.
    """

    auto = "AutoModelForCausalLM"
    upper_bound = 0.0

    def __init__(
        self,
        network: "transformers.PreTrainedModel",
        tokenizer: PreTrainedTokenizerBase,
        *,
        per_token: bool = True,
        batch_size: int = 32,
    ) -> None:
        super().__init__(network, tokenizer)
        check_causal(self.network)
        self.per_token = boolean("per_token", per_token)
        self.batch_size = whole_number("batch_size", batch_size)

    def __call__(self, texts: Sequence[Text]) -> Tensor:
        """Log-likelihood of M texts or chats, `[M]`, nats, float64; 0 without a token to score."""
        return in_batches(self._score, texts, self.batch_size).double()

    def _score(self, texts: list[Text]) -> Tensor:
        rows = [self._ids(text) for text in texts]
        check_ids(rows, texts, self.network, self.tokenizer)
        ids, mask = padded(rows, pad_id=0)
        ids, mask = ids.to(self.network.device), mask.to(self.network.device)
        logits = self.read(input_ids=ids, attention_mask=mask).logits[:, :-1]
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        nats = -cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
        scored = mask[:, 1:].bool()
        total = nats.where(scored, 0.0).sum(1)
        return total / scored.sum(1).clamp(min=1) if self.per_token else total

    def _ids(self, text: Text) -> list[int]:
        """Token ids of a text with a BOS, or of a chat, cut on the left to the context."""
        if isinstance(text, str):
            ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        else:
            ids = self.tokenizer.apply_chat_template(text, return_dict=True)["input_ids"]
        bos = self.tokenizer.bos_token_id
        has_begun = bos is None or ids[:1] == [bos] or not isinstance(text, str)
        begin = [] if has_begun else [bos]
        longest = len(ids) if self.max_length is None else self.max_length - len(begin)
        return begin + ids[max(0, len(ids) - longest) :]
