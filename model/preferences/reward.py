"""A reward that is known as well as the preferences tell it: S draws from the posterior of its weights."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import save_file
from torch import Tensor

from model.common.checks import function, instance
from model.common.digests import MANIFEST, check_digests, saved_together
from model.networks.source import read_tensors
from model.preferences.features import EncoderFeatures, Features, PriorFeatures
from model.preferences.heads import HEADS, Head, check_head
from model.preferences.standardised_features import StandardisedFeatures
from model.prior.language_model import LanguageModel

TENSORS, SETTINGS = "reward.safetensors", "reward.json"
PROBE = "The quick brown fox jumps over the lazy dog."
"""A text whose features are saved too: they tell whether a reward is loaded onto the network it was trained on."""


class OtherRewardError(ValueError):
    """What is in a folder is no reward, or one of other features than those it is loaded onto."""


@dataclass(frozen=True)
class RewardPosterior:
    """r_s(x) = head(phi(x), w_s) for S draws of the weights. A point estimate has S = 1.

    Attributes:
        head: the head.
        features: phi, with its centre and scale.
        samples: `[S, P]`, weights.
    """

    head: Head
    features: StandardisedFeatures
    samples: Tensor

    def __post_init__(self) -> None:
        check_head(self.head)
        instance(
            "features",
            self.features,
            StandardisedFeatures,
            why="`StandardisedFeatures.fit` makes it of features and texts",
        )
        instance("samples", self.samples, Tensor)
        expected = (self.head.num_weights,)
        if self.samples.dim() != 2 or self.samples.shape[1:] != expected or not len(self.samples):
            raise ValueError(
                f"samples have shape {tuple(self.samples.shape)}, expected [S, {expected[0]}]: weights of "
                f"{type(self.head).__name__} in rows"
            )
        if not bool(self.samples.isfinite().all()):
            raise ValueError(
                "samples have weights that are NaN or infinite: look at the inference that drew them"
            )

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> Tensor:
        """The reward of M texts under each draw, `[S, M]`, in the type of the features, whatever that of the draws is."""
        features = self.features(texts)
        return self.head(features, self.samples.to(features))

    def save(self, folder: str | Path) -> None:
        """Write `reward.safetensors` and `reward.json`; the network behind the features is not copied, but named."""
        kind = next((name for name, make in HEADS.items() if make is type(self.head)), None)
        if kind is None:
            raise TypeError(
                f"{type(self.head).__name__} is not in HEADS, so it could not be loaded again: register it there"
            )
        features = self.features
        tensors = {
            "samples": self.samples,
            "center": features.center,
            "projection": features.projection,
            "probe": features.features([PROBE])[0],
        }
        settings: Any = self.head
        named = _named(features.features, Path(folder))
        record = {"head": kind, "settings": asdict(settings), "features": named}
        with saved_together(folder) as new:
            save_file(
                {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
                new / TENSORS,
            )
            (new / SETTINGS).write_text(json.dumps(record, indent=2) + "\n")

    @classmethod
    def load(cls, folder: str | Path, features: Features) -> Self:
        """Take up what `save` wrote.

        Args:
            folder: where it was written.
            features: the same network's features as then, without centre and scale, which were saved; `saved_features` makes
                them.

        Raises:
            OtherRewardError: if the folder has no reward, or the features are others.
        """
        function("features", features, why="`saved_features` makes them")
        folder = Path(folder)
        record, tensors = _read_settings(folder), _tensors(folder)
        if record["head"] not in HEADS:
            raise OtherRewardError(
                f"{folder} has a head {record['head']!r}, expected one of: {', '.join(HEADS)}"
            )
        probe, saved = features([PROBE])[0], tensors["probe"]
        if probe.shape != saved.shape or not torch.allclose(
            probe, saved, rtol=0.05, atol=0.05 * saved.std(correction=0).item()
        ):
            raise OtherRewardError(
                f"{folder} is of other features: {record['features']['kind']} of {len(saved)} dimensions there, "
                f"{type(features).__name__} of {len(probe)} here, which differ on a text read by both. Pass the network that "
                "the reward was trained on."
            )
        head: Any = HEADS[record["head"]]
        return cls(
            head(**record["settings"]),
            StandardisedFeatures(features, tensors["center"], tensors["projection"]),
            tensors["samples"],
        )


def saved_features(
    folder: str | Path, prior: LanguageModel, *, trust_remote_code: bool = False
) -> Features:
    """The features that the reward in a folder is a function of, to load it onto: the prior's own, or its encoder's.

    Args:
        folder: that `RewardPosterior.save` wrote.
        prior: the language model whose states they are, if they are no encoder's; an encoder goes onto its device.
        trust_remote_code: run code that comes with the encoder; without it such an encoder is refused.

    Raises:
        OtherRewardError: if the folder has no reward, its encoder cannot be loaded, or its features are of one's own making.
    """
    named = _read_settings(Path(folder))["features"]
    if named["kind"] == PriorFeatures.__name__:
        return PriorFeatures(prior)
    network = named_encoder(folder)
    if not network:
        raise OtherRewardError(
            f"{folder} does not say how to make its features, {named['kind']}: make them, for `RewardPosterior.load`"
        )
    try:
        return EncoderFeatures.from_pretrained(
            network,
            device=prior.device,
            max_length=named.get("max_length"),
            trust_remote_code=trust_remote_code,
        )
    except (OSError, ValueError) as error:
        raise OtherRewardError(
            f"{folder} is of the encoder {network}, which cannot be loaded: put it back there; or write where it is now under "
            f'"network" in {Path(folder) / SETTINGS} in place of "folder", and delete {MANIFEST}. {error}'
        ) from error


def _named(features: Features, folder: Path) -> dict[str, Any]:
    """The record that `saved_features` makes the same features from; its paths are relative to the reward's folder."""
    kind = {"kind": type(features).__name__}
    if not isinstance(features, EncoderFeatures):
        return kind
    network = features.network.name_or_path
    if network and Path(network).is_dir():
        return kind | {
            "folder": os.path.relpath(Path(network).resolve(), folder.resolve()),
            "max_length": features.max_length,
        }
    return kind | {"network": network, "max_length": features.max_length}


def named_encoder(folder: str | Path) -> str | None:
    """The encoder that `saved_features` loads for the reward in a folder, by its own folder or its name on the hub, or None.

    Raises:
        OtherRewardError: if the folder has no reward.
    """
    named = _read_settings(Path(folder))["features"]
    if named["kind"] != EncoderFeatures.__name__:
        return None
    return (
        os.path.normpath(Path(folder) / named["folder"])
        if named.get("folder")
        else named.get("network")
    )


def _tensors(folder: Path) -> dict[str, Tensor]:
    tensors = read_tensors(folder / TENSORS)
    if missing := {"samples", "center", "projection", "probe"} - tensors.keys():
        raise OtherRewardError(
            f"{folder / TENSORS} lacks {', '.join(sorted(missing))}: expected what a reward is saved as"
        )
    return tensors


def _read_settings(folder: Path) -> dict[str, Any]:
    missing = [name for name in (TENSORS, SETTINGS) if not (folder / name).is_file()]
    if missing:
        raise OtherRewardError(
            f"{folder} has no {missing[0]}, expected a folder that `RewardPosterior.save` wrote"
        )
    check_digests(folder)
    try:
        record = json.loads((folder / SETTINGS).read_bytes())
        kinds = {"head": str, "settings": dict, "features": dict}
        whole = (
            all(isinstance(record[name], kind) for name, kind in kinds.items())
            and "kind" in record["features"]
        )
    except (ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        raise OtherRewardError(
            f"{folder / SETTINGS} is damaged: expected the settings of a reward as JSON"
        )
    return record
