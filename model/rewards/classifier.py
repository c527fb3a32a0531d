"""Label of any Hugging Face sequence classifier as a reward."""

import itertools
from collections.abc import Sequence
from numbers import Integral
from typing import Any, Literal, get_args

import transformers
from torch import Tensor
from torch.nn.functional import logsigmoid
from transformers import BatchEncoding, PreTrainedTokenizerBase

from model.common.checks import one_of, whole_number
from model.networks.text_network import Text, TextNetwork, in_batches, padding_right

Output = Literal["log-prob", "logit"]
NAMES = ("input_ids", "attention_mask")


class SequenceClassifier(TextNetwork):
    """The logit of a label, or the log-probability of the label in nats; for `TextReward`.

        positive = SequenceClassifier.from_pretrained("sentiment/", "positive")
        model = AlignmentModel(prior, TextReward(positive, prior), beta=1.0)

    With the log-probability and beta 1 the posterior is Bayes' rule for the label:
    p*(x) = p0(x) p(label | x) / p(label). A network with one output, such as a reward model, has
    one label, of log-probability log sigmoid(logit). The end of a long text is read. A reward model
    with a chat template reads chats by that template, the response as the assistant's message. A
    text has the number that the network gives to the text alone, also if a decoder reads the last
    token, and a text ends with the token that fills a batch.

    Args:
        network, tokenizer: a sequence classifier and its tokenizer.
        label: name or index of the label; not needed if there is one label.
        output: `log-prob` or `logit`.
        batch_size: number of texts read at a time; 1 if the network's numbers change with padding.
    """

    auto = "AutoModelForSequenceClassification"

    def __init__(
        self,
        network: "transformers.PreTrainedModel",
        tokenizer: PreTrainedTokenizerBase,
        label: str | int | None = None,
        *,
        output: Output = "log-prob",
        batch_size: int = 32,
    ) -> None:
        super().__init__(network, tokenizer)
        if self.network.get_output_embeddings() is not None:
            kind = type(self.network).__name__
            raise ValueError(f"{kind} writes tokens and has no labels, expected a classifier")
        self.tokenizer = padding_right(tokenizer)
        self.index = _index_of(label, self.network)
        self.output = one_of("output", output, get_args(Output))
        config = self.network.config
        if config.problem_type == "regression" and len(config.id2label) > 1 and output != "logit":
            fault = "predicts numbers, whose softmax is no probability of a label"
            raise ValueError(f"{type(self.network).__name__} {fault}: pass output='logit'")
        # some token is the last of no text of a batch, see `_read`
        fewer = self.network.get_input_embeddings().weight.shape[0] - 1
        most = min(whole_number("batch_size", batch_size), fewer)
        self.batch_size = self.most_at_a_time(most, lambda batch: self._read(batch).logits)
        self.upper_bound = 0.0 if output == "log-prob" else None

    def __call__(self, texts: Sequence[Text]) -> Tensor:
        """Logit or log-probability of the label for M texts or chats, `[M]`, float64."""
        return in_batches(self._rewards, texts, self.batch_size).double()

    def _rewards(self, texts: list[Text]) -> Tensor:
        logits = self._logits(texts)
        if self.output == "logit":
            return logits[:, self.index]
        several = self.network.config.problem_type == "multi_label_classification"
        if several or logits.shape[1] == 1:  # labels that do not exclude each other
            return logsigmoid(logits[:, self.index])
        return logits.log_softmax(1)[:, self.index]

    def _logits(self, texts: list[Text]) -> Tensor:
        """Logits of all labels for B texts, or for B chats, `[B, C]`, float64."""
        batch = self.tokens(texts)
        for text, length in zip(texts, batch["attention_mask"].sum(1).tolist(), strict=True):
            if not length:
                raise ValueError(f"the text {text!r} has no tokens: there is nothing to classify")
        logits = self._read(batch).logits.double()
        shape, expected = tuple(logits.shape), (len(texts), len(self.network.config.id2label))
        if shape != expected:
            kind = type(self.network).__name__
            raise ValueError(f"the logits of {kind} have shape {shape}, expected {expected}")
        return logits

    def _read(self, batch: BatchEncoding) -> Any:
        """Output of the network, of which a decoder reads the last token that is not padding.

        Without a padding of its own the network reads the last token of a text, whichever it is:
        then the padding of the batch is a token that no text ends with.
        """
        config, ids, mask = self.network.config.get_text_config(), *map(batch.get, NAMES)
        own, size = config.pad_token_id, self.network.get_input_embeddings().weight.shape[0]
        last = {int(row[is_token.bool()][-1]) for row, is_token in zip(ids, mask, strict=True)}
        has_own = own is not None and 0 <= own < size
        padding = own if has_own else next(i for i in itertools.count() if i not in last)
        batch["input_ids"] = ids.masked_fill(mask == 0, padding)
        config.pad_token_id = padding
        try:
            return self.read(**batch)
        finally:
            config.pad_token_id = own


def _index_of(label: str | int | None, network: "transformers.PreTrainedModel") -> int:
    if label is not None and not isinstance(label, str | Integral):
        raise TypeError(f"label is a {type(label).__name__}, expected a label's name or index")
    names = {int(index): name for index, name in network.config.id2label.items()}
    if label is None and len(names) == 1:
        return next(iter(names))
    is_name = not isinstance(label, bool)
    indices = [index for index, name in names.items() if is_name and label in (index, name)]
    if len(indices) != 1:
        several = " (which several have: give its index)" if indices else ""
        listed = list(names.values())
        raise ValueError(f"label is {label!r}{several}, expected one of the network's: {listed}")
    return indices[0]
