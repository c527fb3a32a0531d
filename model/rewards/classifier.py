"""A label of any Hugging Face sequence classifier as a reward."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from pathlib import Path
from typing import Literal, Self, get_args

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from transformers import (
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from model.common.checks import one_of, whole_number
from model.networks.adapter import unwrapped
from model.networks.batches import in_batches
from model.networks.checks import check_ids, check_network, check_tokenizer
from model.networks.evaluation import evaluating
from model.networks.loading import load_pretrained, longest_read, padding_right
from model.prior.tokenization import without_beginning

Output = Literal["log-prob", "logit"]


class SequenceClassifier:
    """The logit of a label, or its log-probability, nats.

    A function of texts, for `TextReward`. With the log-probability and beta 1 the posterior is Bayes' rule for the label:
    p*(x) = p0(x) p(label | x) / p(label). A network with one output, as a reward model, has one label, and log sigmoid is
    its log-probability. Of texts longer than the network reads the end is read.

    Args:
        network: a sequence classifier.
        tokenizer: its tokenizer.
        label: by name or by index; not needed where there is one.
        output: `log-prob` or `logit`.
        batch_size: texts at a time.

    Raises:
        TypeError: if the network is none of `transformers`.
        ValueError: if the network is no classifier, the label is not one of its own, or the tokenizer has nothing to pad with.
    """

    def __init__(
        self,
        network: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        label: str | int | None = None,
        *,
        output: Output = "log-prob",
        batch_size: int = 32,
    ) -> None:
        network = unwrapped(network)
        check_network(network)
        check_tokenizer(tokenizer)
        if network.get_output_embeddings() is not None:
            raise ValueError(
                f"{type(network).__name__} writes tokens and has no labels, expected a network as "
                "`AutoModelForSequenceClassification` loads it"
            )
        self.network = network.eval().requires_grad_(False)
        self.tokenizer = padding_right(tokenizer)
        self.index = _index_of(label, network)
        self.output = one_of("output", output, get_args(Output))
        self.batch_size = whole_number("batch_size", batch_size)
        self.upper_bound = 0.0 if output == "log-prob" else None
        network.config.pad_token_id = (
            self.tokenizer.pad_token_id
        )  # a decoder reads the last token that is not padding
        self.max_length = longest_read(network, tokenizer)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        label: str | int | None = None,
        *,
        output: Output = "log-prob",
        batch_size: int = 32,
        dtype: torch.dtype | str = torch.float32,
        device: torch.device | str | None = None,
        trust_remote_code: bool = False,
    ) -> Self:
        """Load a checkpoint in Hugging Face format, from a folder or from the hub; by default on a GPU where there is one."""
        network, tokenizer = load_pretrained(
            AutoModelForSequenceClassification,
            name_or_path,
            dtype,
            device,
            trust_remote_code=trust_remote_code,
        )
        return cls(network, tokenizer, label, output=output, batch_size=batch_size)

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """`[M]` for M texts, float64; nats, if it is the log-probability."""
        return in_batches(self._rewards, texts, self.batch_size).double()

    def _rewards(self, texts: list[str]) -> Tensor:
        several = self.network.config.problem_type == "multi_label_classification"
        return _label(self._logits(texts).double(), self.index, self.output, several=several)

    def _logits(self, texts: list[str]) -> Tensor:
        cut = self.max_length is not None
        once = without_beginning(self.tokenizer, texts)
        batch = self.tokenizer(
            once, padding=True, truncation=cut, max_length=self.max_length, return_tensors="pt"
        )
        check_ids(batch["input_ids"].tolist(), texts, self.network, self.tokenizer)
        empty = [
            text
            for text, length in zip(texts, batch["attention_mask"].sum(1).tolist(), strict=True)
            if not length
        ]
        if empty:
            raise ValueError(
                f"the text {empty[0]!r} has no tokens, so that there is nothing to classify"
            )
        logits = evaluating(self.network)(**batch.to(self.network.device)).logits.float()
        expected = (len(texts), len(self.network.config.id2label))
        if tuple(logits.shape) != expected:
            raise ValueError(
                f"the logits of {type(self.network).__name__} have shape {tuple(logits.shape)}, expected {expected}: one for "
                "each label of a text, as a sequence classifier has them"
            )
        return logits


def _label(logits: Tensor, index: int, output: Output, *, several: bool) -> Tensor:
    """One label of logits `[M, C]`, `[M]`; labels exclude each other unless `several` may hold."""
    if output == "logit":
        return logits[:, index]
    if several or logits.shape[1] == 1:
        return logsigmoid(logits[:, index])
    return logits.log_softmax(1)[:, index]


def _index_of(label: str | int | None, network: PreTrainedModel) -> int:
    if label is not None and not isinstance(label, str | Integral):
        raise TypeError(
            f"label is a {type(label).__name__}, expected the name of a label or its index"
        )
    names = {int(index): name for index, name in network.config.id2label.items()}
    if label is None and len(names) == 1:
        return next(iter(names))
    indices = [
        index
        for index, name in names.items()
        if label in (index, name) and not isinstance(label, bool)
    ]
    if len(indices) != 1:
        several = " (which several have: give its index)" if indices else ""
        raise ValueError(
            f"label is {label!r}{several}, expected one of {type(network).__name__}'s: {list(names.values())}"
        )
    return indices[0]
