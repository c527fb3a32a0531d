"""Decoder of guides that read every token with their prior, and change its input or its logits."""

from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor

from model import LanguageModel
from model.prior.cached_state import CachedState
from model.prior.decoder import Decoder


class PriorDecoder(Decoder):
    """Parts of a decoder that are the prior's own. Base of a guide with an attribute `prior`."""

    prior: LanguageModel

    @property
    def room(self) -> int:
        return self.prior.room

    def decoding(self, num_tokens: int = 0) -> AbstractContextManager[Any]:
        return self.prior.decoding(num_tokens)

    def drawing(self) -> AbstractContextManager[Any]:
        return self.prior.drawing()

    @property
    def compile_decode(self) -> bool:
        return self.prior.compile_decode

    @property
    def in_step(self) -> bool:
        return self.prior.in_step

    @property
    def splits_head(self) -> bool:
        return self.prior.splits_head

    def extend_states(self, state: CachedState, ids: Tensor) -> CachedState:
        return self.prior.extend_states(state, ids)
