"""Checkpoints: the whole state of a fit in one folder, written so that a kill at any moment leaves a whole one behind.

    FOLDER/step-00000100/{guide,optimizer,objective,random}.safetensors, state.json

A checkpoint is written under another name and renamed when it is complete; the one before is deleted after that. Nothing is
pickled, so nothing is executed on loading.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyro
import torch
from pyro.infer import ELBO
from safetensors.torch import load_file, save_file
from torch import Tensor

from guides.guide import OtherGuideError, load_into
from inference import random_state
from inference.density import Program
from inference.objectives import ResponseObjective
from inference.optimizer import FusedOptimizer
from model import Prompts

PREFIX = "step-"


class CheckpointError(ValueError):
    """A checkpoint does not fit what it is restored into, or none is there."""


@dataclass
class FitState:
    """Everything a fit needs to go on as if it had never stopped. Its parameters are those in Pyro's store while it runs.

    Attributes:
        guide: a Pyro program over prompts; running it puts its parameters into Pyro's store.
        optimizer: with its moments and its place in the schedule.
        objective: with what it remembers from step to step, if it is a `ResponseObjective`.
        step: steps done.
    """

    guide: Program
    optimizer: FusedOptimizer
    objective: ELBO
    step: int = 0

    def save(self, folder: Path) -> Path:
        """Write a checkpoint into `folder`, then delete the older ones there. Returns its path."""
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / f"{PREFIX}{self.step:08d}"
        partial = folder / f".{target.name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        optimizer = self.optimizer.get_state()
        generators, plain = random_state.capture()
        save_file({name: p.detach().contiguous() for name, p in _parameters().items()}, partial / "guide.safetensors")
        save_file(_flatten(optimizer["parameters"]), partial / "optimizer.safetensors")
        save_file(generators, partial / "random.safetensors")
        remembered = self.objective.get_state() if isinstance(self.objective, ResponseObjective) else {}
        save_file({name: tensor.contiguous() for name, tensor in remembered.items()}, partial / "objective.safetensors")
        objective = type(self.objective).__name__
        state = {"step": self.step, "optimizer_step": optimizer["step_count"], "objective": objective, "random": plain}
        (partial / "state.json").write_text(json.dumps(state))
        for path in (*partial.iterdir(), partial):
            _flush(path)
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
        _flush(folder)
        for old in _complete(folder):
            if old != target:
                shutil.rmtree(old)
        return target

    def restore(self, folder: Path, prompts: Prompts) -> None:
        """Take up the newest checkpoint in `folder`, generators included.

        Runs the guide once on `prompts`, to meet its parameters.

        Raises:
            CheckpointError: if there is none, or it belongs to another guide or objective.
        """
        found = _complete(folder)
        if not found:
            raise CheckpointError(f"no checkpoint in {folder}: expected a folder named {PREFIX}NUMBER there")
        path = found[-1]
        state = json.loads((path / "state.json").read_text())
        if state["objective"] != type(self.objective).__name__:
            raise CheckpointError(
                f"{path} is of a fit with {state['objective']}, got {type(self.objective).__name__}: what they remember "
                "differs. Go on with the objective of the run that wrote it."
            )
        self.guide(prompts)
        if isinstance(self.objective, ResponseObjective):
            self.objective.set_state(load_file(path / "objective.safetensors", device=_device()))
        try:
            load_into(_parameters(), load_file(path / "guide.safetensors"), str(path))
        except OtherGuideError as error:
            raise CheckpointError(str(error)) from error
        moments = _unflatten(load_file(path / "optimizer.safetensors"))
        self.optimizer.set_state({"step_count": state["optimizer_step"], "parameters": moments})
        self.step = state["step"]
        random_state.restore(load_file(path / "random.safetensors"), state["random"])


def has_checkpoint(folder: Path) -> bool:
    """Whether `FitState.restore` would find a checkpoint in `folder`."""
    return bool(_complete(folder))


def _parameters() -> dict[str, Tensor]:
    """All of Pyro's parameters, unconstrained, by name."""
    return dict(pyro.get_param_store().named_parameters())


def _device() -> str:
    """Where Pyro's parameters are; the CPU if there are none."""
    return str(next(iter(_parameters().values())).device) if _parameters() else "cpu"


def _complete(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, oldest first."""
    return sorted(folder.glob(f"{PREFIX}[0-9]*"))


def _flatten(nested: dict[str, dict[str, Any]]) -> dict[str, Tensor]:
    """`{parameter: {key: tensor}}` as `{"parameter/key": tensor}`."""
    return {
        f"{name}/{key}": torch.as_tensor(value).contiguous() for name, kept in nested.items() for key, value in kept.items()
    }


def _unflatten(flat: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    nested: dict[str, dict[str, Tensor]] = {}
    for path, tensor in flat.items():
        name, key = path.rsplit("/", 1)
        nested.setdefault(name, {})[key] = tensor
    return nested


def _flush(path: Path) -> None:
    """Make what was written to a file or a folder survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
