"""Networks that read texts or chats: loaded whole, frozen, and given a batch at a time."""

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
import transformers
from torch import Tensor
from transformers import BatchEncoding, PreTrainedTokenizerBase

from model.common.checks import instance
from model.common.texts import listed_texts
from model.networks.checks import check_ids, checked_network, evaluating
from model.networks.loading import load_pretrained
from model.networks.positions import longest_context

Chat = list[dict[str, Any]]
Text = str | Chat
"""A text, or the messages of a chat, each with a `role` and a `content`."""

NO_LIMIT = 1_000_000  # smallest `model_max_length` of a tokenizer that means no limit


class TextNetwork:
    """A frozen network with its tokenizer. Base of classifiers, likelihoods and features of texts.

    A chat is a list of messages, which the chat template of the tokenizer writes as a text with all
    special tokens.

    Args:
        network, tokenizer: a network of `transformers` and its tokenizer.

    Attributes:
        auto: name of the class of `transformers` that loads the network.
        unread: beginnings of the names of weights that nothing is computed from.
        max_length: most tokens that are read of a text; None without a limit.
    """

    auto: ClassVar[str]
    unread: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self, network: "transformers.PreTrainedModel", tokenizer: PreTrainedTokenizerBase
    ) -> None:
        network = checked_network(network)
        self.network = network.eval().requires_grad_(False)
        self.tokenizer = instance("tokenizer", tokenizer, PreTrainedTokenizerBase)
        limit = tokenizer.model_max_length if tokenizer.model_max_length < NO_LIMIT else None
        limits = [limit, longest_context(network)]
        self.max_length = min((limit for limit in limits if limit is not None), default=None)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *args: Any,
        dtype: torch.dtype | str = torch.float32,
        device: torch.device | str | None = None,
        trust_remote_code: bool = False,
        **options: Any,
    ) -> Self:
        """Load a checkpoint in Hugging Face format whole, or raise a `PretrainedError`.

        Args:
            name_or_path: folder, or name on the hub.
            args: arguments of the class after network and tokenizer.
            dtype: see `load_pretrained`, as for device and trust_remote_code.
            options: keyword arguments of the class.
        """
        flags: dict[str, Any] = {"trust_remote_code": trust_remote_code, "unread": cls.unread}
        loader = getattr(transformers, cls.auto)
        network, tokenizer = load_pretrained(loader, name_or_path, dtype, device, **flags)
        return cls(network, tokenizer, *args, **options)

    @property
    def reads_chats(self) -> bool:
        """True if the tokenizer has a chat template."""
        return self.tokenizer.chat_template is not None

    def tokens(self, texts: Sequence[Text]) -> BatchEncoding:
        """Token ids and mask of B texts, or of B chats.

        Padded on the right, cut to `max_length` on the left.
        """
        longest = self.max_length
        settings: dict[str, Any] = {"padding": True, "return_tensors": "pt"}
        settings |= {"truncation": longest is not None, "max_length": longest}
        if any(map(_is_chat, texts)):
            batch = self.tokenizer.apply_chat_template(list(texts), return_dict=True, **settings)
        else:
            written = [text for text in texts if isinstance(text, str)]
            batch = self.tokenizer(without_beginning(self.tokenizer, written), **settings)
        check_ids(batch["input_ids"].tolist(), texts, self.network, self.tokenizer)
        return batch

    def read(self, **batch: Tensor) -> Any:
        """Output of the network, in evaluation mode, on its own device."""
        on_device = {name: tensor.to(self.network.device) for name, tensor in batch.items()}
        return evaluating(self.network)(**on_device)

    @torch.no_grad()
    def most_at_a_time(self, batch_size: int, numbers: Callable[[BatchEncoding], Tensor]) -> int:
        """Number of texts to read at a time: 1 if padding behind a text changes its numbers.

        Layers other than attention, such as the convolutions of ConvBERT, read the padding.

        Args:
            batch_size: number of texts where padding changes nothing.
            numbers: numbers of B rows of token ids and a mask, `[B, ...]`.

        Raises:
            ValueError: if the network cannot read two texts of different lengths.
        """
        num_ids, end = (
            self.network.get_input_embeddings().weight.shape[0],
            self.tokenizer.eos_token_id,
        )
        words = [token_id for token_id in range(min(10, num_ids)) if token_id != end]
        ends = [] if end is None else [end]  # BART reads one, of every text
        lengths = [min(length, self.max_length or length) - len(ends) for length in (4, 10)]
        rows = [[*words[:length], *ends] for length in lengths]

        def first(rows: list[list[int]]) -> Tensor:
            ids, mask = padded(rows, pad_id=self.tokenizer.pad_token_id)
            read = numbers(BatchEncoding({"input_ids": ids, "attention_mask": mask}))[0].float()
            return read[: len(rows[0])] if read.dim() > 1 else read

        try:
            alone, beside = first(rows[:1]), first(rows)
        except Exception as error:  # any error of the network's own code
            fault = f"cannot read two texts of different lengths: {type(error).__name__}: {error}"
            raise ValueError(f"{type(self.network).__name__} {fault}") from error
        is_wide = self.network.dtype in (torch.float32, torch.float64)
        rounding = (1e-3 if is_wide else 0.1) * alone.abs().max()
        return batch_size if bool((alone - beside).abs().max() <= rounding) else 1


@torch.no_grad()
def in_batches(
    function: Callable[[list[Any]], Tensor], texts: Sequence[Text], batch_size: int
) -> Tensor:
    """function(texts) of M texts or chats, `[M, ...]` on the CPU, at most `batch_size` at a time.

    The function takes B texts or B chats, of similar length, and returns `[B, ...]`.
    """
    if isinstance(texts, list) and any(map(_is_chat, texts)):
        chats = [i for i, text in enumerate(texts) if _is_chat(text)]
        others = [i for i, text in enumerate(texts) if not _is_chat(text)]
        parts = [in_batches(function, [texts[i] for i in others], batch_size)] if others else []
        parts.append(_in_batches(function, [texts[i] for i in chats], batch_size))
        return torch.cat(parts)[torch.tensor([*others, *chats]).argsort()]
    listed = listed_texts("a network that reads texts", texts, at_least=0)
    return _in_batches(function, listed, batch_size) if listed else torch.empty(0)


def _in_batches(
    function: Callable[[list[Any]], Tensor], texts: Sequence[Text], batch_size: int
) -> Tensor:
    """function(texts) of M texts, or of M chats."""
    order = sorted(range(len(texts)), key=lambda i: len(str(texts[i])))
    parts = [
        function([texts[i] for i in order[start : start + batch_size]]).cpu()
        for start in range(0, len(order), batch_size)
    ]
    return torch.cat(parts)[torch.tensor(order).argsort()]


def _is_chat(text: object) -> bool:
    return isinstance(text, list) and all(isinstance(message, Mapping) for message in text)


def padded(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Token ids padded on the right, and their mask of 1 and 0, `[B, L]` each, L at least 1."""
    longest = max(1, *map(len, rows))
    ids = [[*row, *[pad_id] * (longest - len(row))] for row in rows]
    mask = [[1] * len(row) + [0] * (longest - len(row)) for row in rows]
    return torch.tensor(ids), torch.tensor(mask)


def padding_right(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """A copy that pads on the right, where positions are the text's own, and cuts on the left.

    The end of a long text is read, since the response is at the end.
    """
    tokenizer = copy.deepcopy(tokenizer)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if tokenizer.pad_token is None:
        raise ValueError("the tokenizer has neither a padding token nor an end: set `pad_token`")
    tokenizer.padding_side, tokenizer.truncation_side = "right", "left"
    return tokenizer


def without_beginning(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[str]:
    """M texts without a written BOS, or [CLS], if the tokenizer adds the same token."""
    begins = [token for token in (tokenizer.bos_token, tokenizer.cls_token) if token is not None]
    if not any(text.startswith(tuple(begins)) for text in texts):
        return list(texts)
    first = tokenizer("a")["input_ids"][:1]
    added = [token for token in begins if [tokenizer.convert_tokens_to_ids(token)] == first]
    return [text.removeprefix(added[0]) if added else text for text in texts]
