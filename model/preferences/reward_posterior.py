"""Posterior of a reward given preferences: S draws of its weights, on disk and in memory."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import save_file
from torch import Tensor

from model.common.checks import folder_path, function, instance
from model.common.files import MANIFEST, check_digests, read_record, saved_together
from model.common.paths import ELSEWHERE, RUN, portable
from model.networks.source import read_tensors
from model.preferences.features import (
    EncoderFeatures,
    Features,
    PriorFeatures,
    StandardisedFeatures,
)
from model.preferences.heads import HEADS, Head, check_head
from model.prior.language_model import LanguageModel

TENSORS, SETTINGS = "reward.safetensors", "reward.json"
PROBE = "The quick brown fox jumps over the lazy dog."
"""Text whose features are saved too, to recognise the network that the reward was trained on."""


class OtherRewardError(ValueError):
    """A folder has no reward, or a reward of other features."""


@dataclass(frozen=True)
class RewardPosterior:
    """r_s(x) = head(phi(x), w_s) for S draws of the weights. A point estimate has S = 1.

    Attributes:
        head: r as a function of features and weights.
        features: phi, with its centre and scale.
        samples: `[S, P]`, weights.
    """

    head: Head
    features: StandardisedFeatures
    samples: Tensor

    def __post_init__(self) -> None:
        check_head(self.head)
        why = "`StandardisedFeatures.fit` makes it of features and texts"
        instance("features", self.features, StandardisedFeatures, why=why)
        instance("samples", self.samples, Tensor)
        shape, num_weights = tuple(self.samples.shape), self.head.num_weights
        if len(shape) != 2 or shape[1] != num_weights or not shape[0]:
            raise ValueError(f"samples have shape {shape}, expected [S, {num_weights}]")
        if not bool(self.samples.isfinite().all()):
            raise ValueError("samples have weights that are NaN or infinite: look at the inference")

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> Tensor:
        """The reward of M texts under each draw, `[S, M]`, in the type of the features."""
        features = self.features(texts)
        return self.head(features, self.samples.to(features))

    def save(self, folder: str | Path) -> None:
        """Write `reward.safetensors` and `reward.json`. A network behind the features is named."""
        kind = next((name for name, make in HEADS.items() if make is type(self.head)), None)
        if kind is None:
            raise TypeError(f"{type(self.head).__name__} is not in HEADS, register it there")
        features = self.features
        tensors = {
            "samples": self.samples,
            "center": features.center,
            "projection": features.projection,
            "probe": features.features([PROBE])[0],
        }
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        head: Any = self.head
        named = _named(features.features, Path(folder))
        record = {"head": kind, "settings": asdict(head), "features": named}
        with saved_together(folder) as new:
            save_file(tensors, new / TENSORS)
            (new / SETTINGS).write_text(json.dumps(record, indent=2) + "\n")

    @classmethod
    def load(cls, folder: str | Path, features: Features) -> Self:
        """Load the files that `save` wrote, with the same features; see `saved_features`.

        An `OtherRewardError` if the folder has no reward, or the features differ.
        """
        function("features", features, why="`saved_features` makes them")
        folder = folder_path("folder", folder)
        record, tensors = _read_settings(folder), read_tensors(folder / TENSORS)
        if missing := {"samples", "center", "projection", "probe"} - tensors.keys():
            names = ", ".join(sorted(missing))
            raise OtherRewardError(f"{folder / TENSORS} lacks {names}: expected a reward")
        if (kind := record["head"]) not in HEADS:
            listed = ", ".join(HEADS)
            raise OtherRewardError(f"{folder} has a head {kind!r}, expected one of: {listed}")
        probe, saved = features([PROBE])[0], tensors["probe"]
        atol = 0.05 * saved.std(correction=0).item()
        if probe.shape != saved.shape or not torch.allclose(probe, saved, rtol=0.05, atol=atol):
            raise OtherRewardError(
                f"{folder} is of other features: {record['features']['kind']} of {len(saved)} "
                f"dimensions there, {type(features).__name__} of {len(probe)} here, which "
                "differ on a text read by both. Pass the network that the reward was trained on"
            )
        head: Any = HEADS[kind]
        standardised = StandardisedFeatures(features, tensors["center"], tensors["projection"])
        return cls(head(**record["settings"]), standardised, tensors["samples"])


def saved_features(
    folder: str | Path, prior: LanguageModel, *, trust_remote_code: bool = False
) -> Features:
    """The features of the reward in a folder: states of the prior, or of an encoder.

    An encoder goes onto the device of the prior. An `OtherRewardError` if there is no reward, the
    encoder cannot be loaded, or the features are of the user's own class.
    """
    named = _read_settings(Path(folder))["features"]
    if named["kind"] == PriorFeatures.__name__:
        return PriorFeatures(prior)
    network = named_encoder(folder)
    if not network:
        fault = f"has features of the user, {named['kind']}"
        raise OtherRewardError(f"{folder} {fault}: use `RewardPosterior.load`")
    options = {"max_length": named.get("max_length"), "trust_remote_code": trust_remote_code}
    try:
        return EncoderFeatures.from_pretrained(network, device=prior.device, **options)
    except (OSError, ValueError) as error:
        raise OtherRewardError(
            f"{folder} is of the encoder {network}, which cannot be loaded: put it back there; or "
            f'write where it is now under "network" in {Path(folder) / SETTINGS} in place of '
            f'"folder", and delete {MANIFEST}. {error}'
        ) from error


def _named(features: Features, folder: Path) -> dict[str, Any]:
    """The record from which `saved_features` makes the same features.

    The path of an encoder is relative to the folder. If the two have only the root in common, the
    path is left out but for its last part.
    """
    record: dict[str, Any] = {"kind": type(features).__name__}
    if not isinstance(features, EncoderFeatures):
        return record
    network = features.network.name_or_path
    if network and Path(network).is_dir():
        place = portable(str(Path(network).resolve()), folder.resolve())
        record["folder"] = place.removeprefix(f"{RUN}/").removeprefix(f"{ELSEWHERE}/")
    else:
        record["network"] = network
    return record | {"max_length": features.max_length}


def named_encoder(folder: str | Path) -> str | None:
    """The encoder of the reward in a folder, by folder or name on the hub; None without one."""
    named = _read_settings(Path(folder))["features"]
    if named["kind"] != EncoderFeatures.__name__:
        return None
    if named.get("folder"):
        return os.path.normpath(Path(folder) / named["folder"])
    return named.get("network")


def _read_settings(folder: Path) -> dict[str, Any]:
    for name in (TENSORS, SETTINGS):
        if not (folder / name).is_file():
            raise OtherRewardError(f"{folder} has no {name}, expected files of a reward")
    check_digests(folder)
    kinds = {"head": str, "settings": dict, "features": dict}
    record = read_record(folder / SETTINGS, kinds)
    if record is None or "kind" not in record["features"]:
        raise OtherRewardError(f"{folder / SETTINGS} is damaged, expected settings as JSON")
    return record
