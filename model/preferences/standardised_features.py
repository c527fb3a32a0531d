"""Features with a centre and a scale: z = (phi - centre) @ projection."""

from collections.abc import Sequence, Sized
from typing import Self

import torch
from torch import Tensor

from model.common.checks import boolean, function, instance, whole_number
from model.preferences.features import Features


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
            raise ValueError(f"texts is {texts!r}, expected at least two texts: one has no spread")
        if num_components is not None:
            num_components = whole_number("num_components", num_components)
        phi = features(texts).double()  # [M, D]
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
