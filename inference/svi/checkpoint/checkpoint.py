"""Checkpoints: the whole state of a fit in one folder, written so that a kill at any moment leaves a whole one behind.

    FOLDER/step-00000100/{guide,optimizer,objective,random}.safetensors, state.json, digests.json

Nothing is pickled, so nothing is executed on loading. The fingerprint of the fit is saved too, so that a checkpoint of another
fit is refused.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyro
import torch
from pyro.infer import ELBO
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from guides.guide import OtherGuideError, check_like, load_into
from inference import random_state
from inference.objectives import ResponseObjective
from inference.programs import Program
from inference.svi.checkpoint.fingerprint import Fingerprint
from inference.svi.checkpoint.folder import (
    CheckpointError,
    checkpoints,
    new_checkpoint,
    newest_whole,
)
from inference.svi.optimizer.checked import CheckedOptimizer
from model import Prompts

__all__ = ["CheckpointError", "FitState", "has_checkpoint"]

STATE = {"step", "optimizer", "random", "fingerprint"}
FINGERPRINT = {"leaves", "living", "schedule"}
"""Parts of `state.json`, and of the fingerprint in it."""


@dataclass
class FitState:
    """Everything a fit needs to go on as if it had never stopped. Its parameters are those in Pyro's store while it runs.

    Attributes:
        guide: a Pyro program over prompts; running it puts its parameters into Pyro's store.
        optimizer: with its moments and its place in the schedule.
        objective: with what it remembers from step to step, if it is a `ResponseObjective`.
        step: steps done.
        fingerprint: of all that the fit depends on; without one, every checkpoint is taken for the fit's own.
    """

    guide: Program
    optimizer: CheckedOptimizer
    objective: ELBO
    step: int = 0
    fingerprint: Fingerprint | None = None

    def save(self, folder: str | Path) -> Path:
        """Write a checkpoint into `folder`, and delete those there that are older than the one before. Returns its path.

        Raises:
            CheckpointError: if it cannot be written.
        """
        folder = Path(folder)
        optimizer = self.optimizer.get_state()
        generators, plain = random_state.capture()
        tensors = {
            "guide": _parameters(),
            "optimizer": _flatten(optimizer["parameters"]),
            "objective": self._remembered(),
            "random": generators,
        }
        state = {
            "step": self.step,
            "optimizer": {"step_count": optimizer["step_count"], "plain": optimizer["plain"]},
            "random": plain,
            "fingerprint": {} if self.fingerprint is None else self.fingerprint.to_json(),
        }
        with new_checkpoint(folder, self.step) as new:
            for name, part in tensors.items():
                _write(part, new / f"{name}.safetensors")
            (new / "state.json").write_text(json.dumps(state))
        return folder / f"step-{self.step:08d}"

    def restore(self, folder: str | Path, prompts: Prompts) -> None:
        """Take up the newest whole checkpoint in `folder`, generators included.

        Runs the guide once on `prompts`, to meet its parameters.

        Raises:
            CheckpointError: if there is none, or it belongs to another fit; nothing of the guide was changed then.
        """
        path = newest_whole(Path(folder))
        state = _read_state(path)
        saved = {
            name: load_file(path / f"{name}.safetensors")
            for name in ("guide", "optimizer", "objective", "random")
        }
        self.guide(prompts)
        self._check_fingerprint(state["fingerprint"], path, guide=False)
        self._remember(saved["objective"], path)
        moments = _unflatten(saved["optimizer"])
        try:
            check_like(_parameters(), saved["guide"], str(path))
        except OtherGuideError as error:
            raise CheckpointError(str(error)) from error
        self._check_fingerprint(state["fingerprint"], path, guide=True)
        _check_moments(moments, path)
        _check_random(saved["random"], path)
        load_into(_parameters(), saved["guide"], str(path))
        self.optimizer.set_state(state["optimizer"] | {"parameters": moments})
        self.step = state["step"]
        random_state.restore(saved["random"], state["random"])

    def _check_fingerprint(self, saved: dict[str, Any], path: Path, *, guide: bool) -> None:
        """Refuse another fit by the names of what differs, in the guide or elsewhere."""
        if self.fingerprint is None or not saved:
            return
        if differences := self.fingerprint.differences(saved, guide=guide):
            raise CheckpointError(
                f"{path} is of a fit with {differences}. Go on with what that fit was made with, or name another folder"
            )
        self.fingerprint.living |= set(saved["living"])

    def _remembered(self) -> dict[str, Tensor]:
        return self.objective.get_state() if isinstance(self.objective, ResponseObjective) else {}

    def _remember(self, saved: dict[str, Tensor], path: Path) -> None:
        """Hand the objective its state, if the objective gives the same back."""
        try:
            if isinstance(self.objective, ResponseObjective):
                device = _device()
                self.objective.set_state(
                    {name: tensor.to(device) for name, tensor in saved.items()}
                )
            check_like(self._remembered(), saved, str(path))
        except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"{path / 'objective.safetensors'} is no state of {type(self.objective).__name__}: {error}"
            ) from error


def has_checkpoint(folder: str | Path) -> bool:
    """Whether `FitState.restore` would find a checkpoint in `folder`, whole or damaged."""
    return bool(checkpoints(Path(folder)))


def _read_state(path: Path) -> dict[str, Any]:
    """The state that `FitState.save` wrote as JSON into a checkpoint."""
    try:
        state = json.loads((path / "state.json").read_text())
        parts = state.keys(), state["fingerprint"].keys()
    except (ValueError, KeyError, TypeError, AttributeError):
        parts = set(), set()
    if parts[0] != STATE or parts[1] not in (set(), FINGERPRINT):
        raise CheckpointError(
            f"{path / 'state.json'} has other parts than {', '.join(sorted(STATE))}, of the fingerprint "
            f"{', '.join(sorted(FINGERPRINT))}: another version of the project wrote it. Start again in another folder"
        )
    return state


def _parameters() -> dict[str, Tensor]:
    """All of Pyro's parameters, unconstrained, by name."""
    return dict(pyro.get_param_store().named_parameters())


def _device() -> str:
    """Where Pyro's parameters are; the CPU if there are none."""
    return str(next(iter(_parameters().values())).device) if _parameters() else "cpu"


def _write(tensors: dict[str, Tensor], path: Path) -> None:
    try:
        save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, path)
    except SafetensorError as error:
        raise OSError(f"{path.name}: {error}") from error  # its only word for a full disk


def _check_moments(moments: dict[str, dict[str, Tensor]], path: Path) -> None:
    """Refuse moments of other parameters, or of a shape that does not broadcast to theirs."""
    parameters = _parameters()
    for name, tensors in moments.items():
        shape = tuple(parameters[name].shape) if name in parameters else None
        odd = [
            key
            for key, tensor in tensors.items()
            if shape is None or not _broadcasts(tensor.shape, shape)
        ]
        if odd:
            raise CheckpointError(
                f"{path / 'optimizer.safetensors'} has {odd[0]} of {name} with shape {tuple(tensors[odd[0]].shape)}, expected "
                f"{'no such parameter' if shape is None else shape}"
            )


def _broadcasts(shape: Sequence[int], to: Sequence[int]) -> bool:
    try:
        return tuple(torch.broadcast_shapes(shape, to)) == tuple(to)
    except RuntimeError:
        return False


def _check_random(tensors: dict[str, Tensor], path: Path) -> None:
    """Refuse what is no state of the generator of the CPU; other devices may be others here."""
    expected = torch.get_rng_state()
    state: Any = tensors.get("cpu")
    if state is None or state.shape != expected.shape or state.dtype != expected.dtype:
        raise CheckpointError(
            f"{path / 'random.safetensors'} has no state of the CPU's generator of this version of torch"
        )


def _flatten(nested: dict[str, dict[str, Any]]) -> dict[str, Tensor]:
    """`{parameter: {key: tensor}}` as `{"parameter/key": tensor}`."""
    return {
        f"{name}/{key}": torch.as_tensor(value)
        for name, tensors in nested.items()
        for key, value in tensors.items()
    }


def _unflatten(flat: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    nested: dict[str, dict[str, Tensor]] = {}
    for path, tensor in flat.items():
        name, key = path.rsplit("/", 1)
        nested.setdefault(name, {})[key] = tensor
    return nested
