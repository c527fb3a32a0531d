"""Resume of a fit from the newest whole checkpoint, which must be of the same fit."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from guides.guide import OtherGuideError, check_like, load_into
from inference import random_state
from inference.svi.checkpoint.folder import CheckpointError, newest_whole
from inference.svi.checkpoint.state import FitState, parameters
from inference.svi.fit_objective import elbo_of
from model import Prompts
from model.common import ranks
from model.common.sharded_tensors import sharded_like

COUNTS = {"step", "num_responses", "seconds"}
STATE = {*COUNTS, "warnings", "optimizer", "random", "fingerprint"}  # parts of `state.json`
FINGERPRINT = {"texts", "changed"}  # parts of the fingerprint in `state.json`


def resume(state: FitState, folder: str | Path, prompts: Prompts) -> None:
    """Restore a fit's state from the newest whole checkpoint in `folder`, with the generators.

    Runs the guide once on `prompts` to create its parameters. A `CheckpointError` leaves the guide
    unchanged.
    """
    path = newest_whole(Path(folder))
    plain = _read_state(path)
    names = ("guide", "optimizer", "objective", "random", "health", "reward")
    saved = {name: load_file(path / f"{name}.safetensors") for name in names}
    state.guide(prompts)
    _check_fingerprint(state, plain["fingerprint"], path, guide=False)
    _restore_objective(state, saved["objective"], path)
    moments: dict[str, dict[str, Tensor]] = {}
    for place, tensor in saved["optimizer"].items():
        name, _, key = place.rpartition("/")
        moments.setdefault(name, {})[key] = tensor
    try:
        check_like(parameters(), saved["guide"], str(path))
    except OtherGuideError as error:
        raise CheckpointError(str(error)) from error
    _check_fingerprint(state, plain["fingerprint"], path, guide=True)
    _check_moments(moments, path)
    _check_random(saved["random"], path)
    load_into(parameters(), saved["guide"], str(path))
    state.optimizer.set_state(plain["optimizer"] | {"parameters": moments})
    for name in COUNTS:
        setattr(state, name, plain[name])
    state.saved_step = state.step
    device = _device()
    state.health.set_state(saved["health"])
    state.health.warnings = plain["warnings"]
    if "reward" in saved["reward"]:
        state.reward = saved["reward"]["reward"].to(device)
    if state.best is not None:
        known = {f"best/{name}": parameter for name, parameter in parameters().items()}
        health = {name: tensor.to(device) for name, tensor in saved["health"].items()}
        state.best.set_state(
            {name: sharded_like(tensor, known.get(name, tensor)) for name, tensor in health.items()}
        )
    random_state.restore(saved["random"], plain["random"])


def _device() -> str:
    """Device of the parameters in Pyro's store."""
    return next((str(parameter.device) for parameter in parameters().values()), "cpu")


def _read_state(path: Path) -> dict[str, Any]:
    """The content of `state.json`."""
    try:
        state = json.loads((path / "state.json").read_text())
        parts, fingerprint = state.keys(), state["fingerprint"].keys()
    except (ValueError, KeyError, TypeError, AttributeError):
        parts, fingerprint = set(), set()
    if parts != STATE or fingerprint not in (set(), FINGERPRINT):
        raise CheckpointError(
            f"{path / 'state.json'} has other parts than {', '.join(sorted(STATE))}, of the "
            f"fingerprint {', '.join(sorted(FINGERPRINT))}: another version of the project wrote "
            "it. Start again in another folder"
        )
    return state


def _check_fingerprint(state: FitState, saved: dict[str, Any], path: Path, *, guide: bool) -> None:
    """Refuse the checkpoint of another fit, by the names of the differences.

    The first rank compares, as its fingerprint is saved: a reward of another rank has, for example,
    another device.
    """
    if state.fingerprint is None or not saved:
        return
    with ranks.failing_together():
        if ranks.is_first() and (new := state.fingerprint.differences(saved, guide=guide)):
            fix = "Resume with the arguments and the version of that fit, or name another folder"
            raise CheckpointError(f"{path} is of a fit with {new}. {fix}")
    state.fingerprint.changed |= set(saved["changed"])


def _restore_objective(state: FitState, saved: dict[str, Tensor], path: Path) -> None:
    """Restore the objective's state, if the objective returns the same state afterwards."""
    objective = state.objective
    try:
        objective.set_state({name: tensor.to(_device()) for name, tensor in saved.items()})
        check_like(objective.get_state(), saved, str(path))
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
        name = type(elbo_of(objective)).__name__
        raise CheckpointError(
            f"{path / 'objective.safetensors'} is no state of {name}: {error}"
        ) from error


def _check_moments(moments: dict[str, dict[str, Tensor]], path: Path) -> None:
    """Refuse moments of unknown parameters, or of a shape that does not broadcast to theirs."""
    known = parameters()
    for name, tensors in moments.items():
        shape = tuple(known[name].shape) if name in known else "no such parameter"
        for key, tensor in tensors.items():
            try:
                tensor.expand(known[name].shape)
            except (KeyError, RuntimeError) as error:
                raise CheckpointError(
                    f"{path / 'optimizer.safetensors'} has {key} of {name} with shape "
                    f"{tuple(tensor.shape)}, expected {shape}"
                ) from error


def _check_random(tensors: dict[str, Tensor], path: Path) -> None:
    """Refuse a state that is none of the CPU's generator. Other devices may differ."""
    expected = torch.get_rng_state()
    state: Any = tensors.get("cpu")
    if state is None or state.shape != expected.shape or state.dtype != expected.dtype:
        missing = "no state of the CPU's generator of this version of torch"
        raise CheckpointError(f"{path / 'random.safetensors'} has {missing}")
