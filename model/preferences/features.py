"""Features phi(x) of a text, what a reward r(x) = head(phi(x), w) is a function of.

The networks are read without gradient, in batches, and a text that comes up again is not read again. Features are float64 on
the CPU whatever the network is: a head is tiny, and its posterior wants the precision.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence, Sized
from pathlib import Path
from typing import Protocol, Self

import torch
from torch import Tensor
from transformers import AutoModel, BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase

from model.common.checks import MOST, boolean, function, instance, whole_number
from model.common.texts import listed_texts, quoted
from model.networks.adapter import unwrapped
from model.networks.batches import in_batches
from model.networks.checks import check_ids, check_network, check_tokenizer, without_head
from model.networks.evaluation import evaluating
from model.networks.loading import load_pretrained, longest_read, padding_right
from model.prior.language_model import LanguageModel
from model.prior.tokenization import token_rows, without_beginning


class Features(Protocol):
    """What a callable must do to be features."""

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """phi of M texts, `[M, D]`, float64."""


class NetworkFeatures(ABC):
    """Features that a network makes of a text. Derived classes implement `encode`.

    Args:
        batch_size: texts read at a time.
        max_cached: texts whose features are kept; the oldest go first.
    """

    def __init__(self, batch_size: int, max_cached: int = 100_000) -> None:
        self.batch_size = whole_number("batch_size", batch_size)
        self.max_cached = whole_number("max_cached", max_cached, at_least=0)
        self._cache: dict[str, Tensor] = {}

    @abstractmethod
    def encode(self, texts: list[str]) -> Tensor:
        """phi of one batch, `[B, D]`, in any type and on any device."""

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """phi of M texts, `[M, D]`, float64.

        Raises:
            TypeError: for what are no texts, with the index of what is none.
            ValueError: for no texts, or with the text whose features are not finite.
        """
        texts = listed_texts("features", texts)
        known = {text: self._cache[text] for text in texts if text in self._cache}
        new = list(dict.fromkeys(text for text in texts if text not in known))
        encoded = in_batches(lambda batch: self.encode(batch).double(), new, self.batch_size)
        odd = ~encoded.isfinite().all(-1)
        if bool(odd.any()):
            raise ValueError(
                f"features of the text {quoted(new[int(odd.nonzero()[0])])} are not finite: has it no tokens, or is the "
                "network's type too narrow? Try float32"
            )
        known |= zip(new, encoded, strict=True)
        self._cache |= {text: known[text] for text in new}
        for text in list(self._cache)[: max(0, len(self._cache) - self.max_cached)]:
            del self._cache[text]
        return torch.stack([known[text] for text in texts])


class PriorFeatures(NetworkFeatures):
    """The mean over tokens of the prior's own last hidden states, of the whole text: no second network is needed.

    A text is tokenized as a prompt is, so that prompt and response are read as the tokens that they were.
    A text longer than the network's context is read from its end.

    Args:
        language_model: the prior.
        batch_size: texts read at a time.
    """

    def __init__(self, language_model: LanguageModel, batch_size: int = 128) -> None:
        super().__init__(batch_size)
        self.language_model = instance(
            "language_model", language_model, LanguageModel, why="the prior"
        )

    def encode(self, texts: list[str]) -> Tensor:
        prior = self.language_model
        rows = token_rows(prior.tokenizer, texts)
        check_ids(rows, texts, prior.network, prior.tokenizer)
        longest = prior.context or max(map(len, rows))
        rows = [row[-longest:] or [prior.end_ids[0]] for row in rows]
        ids, mask = padded(rows, prior.pad_id, prior.device)
        read = without_head(evaluating(prior.network))(
            input_ids=ids, attention_mask=mask, use_cache=False
        )
        return mean_over_tokens(read.last_hidden_state, mask)


class EncoderFeatures(NetworkFeatures):
    """The mean over tokens of the last hidden states of any Hugging Face encoder, weighted by its attention mask.

    A text without tokens, where the tokenizer adds none of its own, is read as one padding token.

    Args:
        network: what `AutoModel` loads.
        tokenizer: its tokenizer.
        batch_size: texts read at a time.
        max_length: tokens read of a text, of a longer one the last; default as many as network and tokenizer allow.

    Raises:
        TypeError: if the network is none of `transformers`.
        ValueError: if the network has a decoder beside its encoder, or reads fewer tokens than `max_length`.
    """

    def __init__(
        self,
        network: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_size: int = 32,
        max_length: int | None = None,
    ) -> None:
        super().__init__(batch_size)
        network = unwrapped(network)
        check_network(network)
        check_tokenizer(tokenizer)
        if network.config.is_encoder_decoder:
            raise ValueError(
                f"{type(network).__name__} has an encoder and a decoder: hand over its encoder, `network.get_encoder()`"
            )
        self.network = without_head(network).requires_grad_(False).eval()
        self.tokenizer = padding_right(tokenizer)
        longest = longest_read(network, tokenizer)
        if max_length is not None:
            most, why = (
                MOST if longest is None else longest,
                "as many as network and tokenizer allow",
            )
            whole_number("max_length", max_length, at_most=most, why=why)
        self.max_length = longest if max_length is None else max_length

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | str = torch.float32,
        batch_size: int = 32,
        max_length: int | None = None,
        trust_remote_code: bool = False,
    ) -> Self:
        """Load an encoder from a folder in Hugging Face format or from the hub.

        Args:
            name_or_path: a folder, or a name on the hub.
            device: default: a GPU where there is one.
            dtype: of the weights.
            batch_size: see the class.
            max_length: see the class.
            trust_remote_code: run modelling code that comes with the checkpoint; without it such a checkpoint is refused.
        """
        network, tokenizer = load_pretrained(
            AutoModel,
            name_or_path,
            dtype,
            device,
            trust_remote_code=trust_remote_code,
            unread=("pooler.",),
        )
        return cls(network, tokenizer, batch_size=batch_size, max_length=max_length)

    def encode(self, texts: list[str]) -> Tensor:
        batch = self._tokens(texts)
        if not bool((length := batch["attention_mask"].sum(1)).all()):
            pad = str(self.tokenizer.pad_token)
            batch = self._tokens(
                [text if count else pad for text, count in zip(texts, length.tolist(), strict=True)]
            )
        check_ids(batch["input_ids"].tolist(), texts, self.network, self.tokenizer)
        states = evaluating(self.network)(**batch.to(self.network.device)).last_hidden_state
        return mean_over_tokens(states, batch["attention_mask"])

    def _tokens(self, texts: list[str]) -> BatchEncoding:
        cut = self.max_length is not None
        once = without_beginning(self.tokenizer, texts)
        return self.tokenizer(
            once, padding=True, truncation=cut, max_length=self.max_length, return_tensors="pt"
        )


class Standardised:
    """Features with a centre, a scale and, if wanted, few dimensions: z = (phi - centre) @ projection.

    The centre is the reference point. Comparisons identify rewards only up to a constant for each prompt, and with a linear
    head a text at the centre has the reward 0 with certainty: what is uncertain is how far the others are from it. Another
    centre adds the same constant to all rewards of one weight vector, but another constant for another vector. That changes
    nothing about the mean but a constant, and it does change the spread of r_w(x), and with it every aggregation that looks at
    the spread: the marginal likelihood's bonus, the minimum, the lower bound. With the mean of the training responses as the
    centre, a typical response is as certain as can be, and one unlike them is not.

    After it, the mean of |z|^2 over the texts it was fitted to is 1, so that a linear head's prior scale is the prior standard
    deviation of the reward of a typical response.

    Args:
        features: phi.
        center: `[D]`.
        projection: `[D, D']`.
    """

    def __init__(self, features: Features, center: Tensor, projection: Tensor) -> None:
        function("features", features, why="it takes a list of texts to [M, D]")
        for name, tensor in {"center": center, "projection": projection}.items():
            instance(name, tensor, Tensor)
        dimensions = tuple(center.shape)
        if len(dimensions) != 1 or projection.dim() != 2 or projection.shape[:1] != dimensions:
            raise ValueError(
                f"center has shape {dimensions} and projection {tuple(projection.shape)}, expected [D] and [D, D']"
            )
        if not bool(center.isfinite().all() & projection.isfinite().all()):
            raise ValueError(
                "center or projection is NaN or infinite: look at the features that they were made of"
            )
        self.features = features
        self.center = center
        self.projection = projection

    @classmethod
    def fit(
        cls,
        features: Features,
        texts: Sequence[str],
        *,
        num_components: int | None = None,
        whiten: bool = False,
    ) -> Self:
        """Centre and scale by `texts`, usually the training responses.

        Args:
            features: phi.
            texts: M texts, M at least 2.
            num_components: D', principal components to keep; no more than M - 1 or D. Default: no projection, D' = D.
            whiten: give every component the same variance; needs `num_components`.

        Raises:
            ValueError: if the texts all have the same features, or `whiten` comes without `num_components`.
        """
        function("features", features, why="it takes a list of texts to [M, D]")
        boolean("whiten", whiten)
        if isinstance(texts, str) or not isinstance(texts, Sized) or len(texts) < 2:
            raise ValueError(f"texts is {texts!r}, expected at least two texts: one has no spread")
        if num_components is not None:
            num_components = whole_number("num_components", num_components)
        phi = features(texts).double()  # [M, D]
        center = phi.mean(0)
        _, size, directions = torch.linalg.svd(phi - center, full_matrices=False)
        size = size / len(phi) ** 0.5  # standard deviations along the principal directions
        if not size[0] > 1e-9 * (1 + center.norm()):
            raise ValueError(
                f"all {len(phi)} texts have the same features: there is nothing to tell a reward by"
            )
        if num_components is None:
            if whiten:
                raise ValueError(
                    "whiten=True needs num_components: directions without variance cannot be whitened"
                )
            return cls(features, center, torch.eye(phi.shape[1], dtype=phi.dtype) / size.norm())
        kept = min(num_components, int((size > 1e-9 * size[0]).sum()))
        scale = size[:kept] * kept**0.5 if whiten else size[:kept].norm().expand(kept)
        return cls(features, center, directions[:kept].T / scale)

    @property
    def num_features(self) -> int:
        """D', how many numbers it makes of a text."""
        return self.projection.shape[1]

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """z of M texts, `[M, D']`."""
        return (self.features(texts) - self.center) @ self.projection


def padded(
    rows: Sequence[Sequence[int]], pad_id: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Token ids padded on the right, and their mask, `[B, L]` each."""
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[pad_id] * (longest - len(row))] for row in rows], device=device)
    return ids, torch.tensor(
        [[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=device
    )


def mean_over_tokens(states: Tensor, mask: Tensor) -> Tensor:
    """The mean of `[B, L, H]` over the positions that the mask `[B, L]` keeps, at least one in a row, in float64."""
    kept = mask.to(torch.float64)[..., None]
    return (states.double() * kept).sum(1) / kept.sum(1)
