"""Features phi(x) of a text, which a reward r(x) = head(z(x), w) reads, and their standardisation.

    z = (phi - centre) @ projection

Networks are read without gradient, in batches, and each text once. Features are float64 on the CPU
whatever the network is: a head is tiny, and its posterior needs the precision.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence, Sized
from typing import ClassVar, Protocol, Self

import torch
import transformers
from torch import Tensor
from transformers import BatchEncoding, PreTrainedTokenizerBase

from model.common.checks import MOST, boolean, function, instance, whole_number
from model.common.texts import listed_texts, quoted
from model.networks.checks import check_ids, evaluating, without_head
from model.networks.text_network import TextNetwork, in_batches, padded, padding_right
from model.prior.language_model import LanguageModel
from model.prior.tokenization import token_rows


class Features(Protocol):
    """Features phi: any callable with this signature."""

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """phi of M texts, `[M, D]`, float64."""


class NetworkFeatures(ABC):
    """Features that a network computes. Derived classes implement `encode`.

    Args:
        batch_size: number of texts read at a time.
    """

    max_cached = 100_000
    """Number of texts whose features are kept; the oldest are dropped first."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size = whole_number("batch_size", batch_size)
        self._cache: dict[str, Tensor] = {}

    @abstractmethod
    def encode(self, texts: list[str]) -> Tensor:
        """phi of one batch, `[B, D]`, in any type and on any device."""

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """phi of M texts, `[M, D]`, float64; refuses features that are not finite."""
        texts = listed_texts("features", texts)
        known = {text: self._cache[text] for text in texts if text in self._cache}
        new = list(dict.fromkeys(text for text in texts if text not in known))
        encoded = in_batches(lambda batch: self.encode(batch).double(), new, self.batch_size)
        for text, phi in zip(new, encoded, strict=True):
            if not bool(phi.isfinite().all()):
                raise ValueError(f"features of the text {quoted(text)} are not finite: use float32")
            known[text] = self._cache[text] = phi
        for text in list(self._cache)[: max(0, len(self._cache) - self.max_cached)]:
            del self._cache[text]
        return torch.stack([known[text] for text in texts])


class PriorFeatures(NetworkFeatures):
    """Mean over tokens of the prior's last hidden states of the whole text.

    Needs no second network. A text is tokenized as a prompt is. The end of a long text is read.
    """

    def __init__(self, language_model: LanguageModel, batch_size: int = 128) -> None:
        super().__init__(batch_size)
        self.language_model = instance("language_model", language_model, LanguageModel)

    def encode(self, texts: list[str]) -> Tensor:
        prior = self.language_model
        rows = token_rows(prior.tokenizer, texts)
        check_ids(rows, texts, prior.network, prior.tokenizer)
        longest = prior.context or max(map(len, rows))
        rows = [row[-longest:] or [prior.end_ids[0]] for row in rows]
        ids, mask = (tensor.to(prior.device) for tensor in padded(rows, prior.pad_id))
        body = without_head(evaluating(prior.network))
        states = body(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        return mean_over_tokens(states, mask)


class EncoderFeatures(NetworkFeatures, TextNetwork):
    """Mean over tokens of the last hidden states of any Hugging Face encoder.

    A text without tokens is read as one padding token. The end of a long text is read.

    Args:
        network, tokenizer: an encoder, such as `AutoModel` loads, and its tokenizer.
        batch_size: number of texts read at a time; 1 if the network's numbers change with padding.
        max_length: number of tokens read of a text; by default as many as possible.
    """

    auto = "AutoModel"
    unread: ClassVar = ("pooler.",)

    def __init__(
        self,
        network: "transformers.PreTrainedModel",
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_size: int = 32,
        max_length: int | None = None,
    ) -> None:
        NetworkFeatures.__init__(self, batch_size)
        TextNetwork.__init__(self, network, tokenizer)
        if self.network.config.is_encoder_decoder:
            kind = type(self.network).__name__
            raise ValueError(f"{kind} has an encoder and a decoder: use `network.get_encoder()`")
        self.network = without_head(self.network)
        self.tokenizer = padding_right(tokenizer)
        self.batch_size = self.most_at_a_time(self.batch_size, self._states)
        if max_length is not None:
            most, why = self.max_length or MOST, "as many as network and tokenizer allow"
            self.max_length = whole_number("max_length", max_length, at_most=most, why=why)

    def encode(self, texts: list[str]) -> Tensor:
        batch = self.tokens(texts)
        lengths = batch["attention_mask"].sum(1).tolist()
        if 0 in lengths:
            pad, pairs = str(self.tokenizer.pad_token), zip(texts, lengths, strict=True)
            batch = self.tokens([text if length else pad for text, length in pairs])
        states = self._states(batch)
        return mean_over_tokens(states, batch["attention_mask"].to(states.device))

    def _states(self, batch: BatchEncoding) -> Tensor:
        return self.read(**batch).last_hidden_state


def mean_over_tokens(states: Tensor, mask: Tensor) -> Tensor:
    """Mean of `[B, L, H]` over the mask `[B, L]`, none of it empty, `[B, H]`, float64."""
    weight = mask.to(torch.float64)[..., None]
    return (states.double() * weight).sum(1) / weight.sum(1)


class StandardisedFeatures:
    """Features with a centre, a scale and optionally fewer dimensions.

    The centre is the reference point of the rewards: with a linear head a text at the centre has
    the reward 0 with certainty. Another centre adds a constant for each weight vector, and so
    changes the spread of r_w(x) and every aggregation that depends on the spread. The mean of |z|^2
    over the fitted texts is 1: a linear head's prior scale is the prior standard deviation of the
    reward of a typical response.

    Args:
        features: phi.
        center: `[D]`, usually the mean of the training responses, so that typical responses are
            most certain.
        projection: `[D, D']`.
    """

    def __init__(self, features: Features, center: Tensor, projection: Tensor) -> None:
        function("features", features, why="it takes a list of texts to [M, D]")
        instance("center", center, Tensor)
        instance("projection", projection, Tensor)
        dimensions = tuple(center.shape)
        if len(dimensions) != 1 or projection.dim() != 2 or projection.shape[:1] != dimensions:
            shapes = f"shape {dimensions} and projection {tuple(projection.shape)}"
            raise ValueError(f"center has {shapes}, expected [D] and [D, D']")
        if not bool(center.isfinite().all() & projection.isfinite().all()):
            raise ValueError("center or projection is NaN or infinite: look at the features")
        self.features, self.center, self.projection = features, center, projection

    @classmethod
    def fit(
        cls,
        features: Features,
        texts: Sequence[str],
        *,
        num_components: int | None = None,
        whiten: bool = False,
    ) -> Self:
        """Centre and scale by M texts, at least two, usually the training responses.

        Args:
            features: phi.
            texts: M texts.
            num_components: D', at most M - 1 and D; by default there is no projection, D' = D.
            whiten: give every component the same variance; needs `num_components`.
        """
        function("features", features, why="it takes a list of texts to [M, D]")
        boolean("whiten", whiten)
        if isinstance(texts, str) or not isinstance(texts, Sized) or len(texts) < 2:
            expected = "expected at least two texts: one has no spread"
            raise ValueError(f"texts is {quoted(texts)}, {expected}")
        if num_components is not None:
            num_components = whole_number("num_components", num_components)
        phi = instance("what features returned", features(texts), Tensor).double()  # [M, D]
        if phi.dim() != 2 or len(phi) != len(texts) or not bool(phi.isfinite().all()):
            got = f"shape {tuple(phi.shape)}, {int((~phi.isfinite()).sum())} of them not finite"
            raise ValueError(f"features returned {got}, expected finite [{len(texts)}, D]")
        center = phi.mean(0)
        _, size, directions = torch.linalg.svd(phi - center, full_matrices=False)
        size = size / len(phi) ** 0.5  # standard deviations along the principal directions
        if not size[0] > 1e-9 * (1 + center.norm()):
            raise ValueError(f"all {len(phi)} texts have the same features")
        if num_components is None:
            if whiten:
                raise ValueError("whiten=True needs num_components: a direction may not vary")
            return cls(features, center, torch.eye(phi.shape[1], dtype=phi.dtype) / size.norm())
        rank = min(num_components, int((size > 1e-9 * size[0]).sum()))
        scale = size[:rank] * rank**0.5 if whiten else size[:rank].norm().expand(rank)
        return cls(features, center, directions[:rank].T / scale)

    @property
    def num_features(self) -> int:
        """D', number of features of a text."""
        return self.projection.shape[1]

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """z of M texts, `[M, D']`."""
        return (self.features(texts) - self.center) @ self.projection
