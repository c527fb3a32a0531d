"""State of a fit, and its checkpoint: the whole state in one folder.

    FOLDER/step-00000100/{guide,optimizer,objective,random,health,reward}.safetensors
    FOLDER/step-00000100/{state,digests}.json

No pickle: loading executes nothing. A kill at any moment leaves a whole checkpoint.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import pyro
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from inference import random_state
from inference.programs import Program
from inference.svi.best_iterate import BestIterate
from inference.svi.checkpoint.fingerprint import Fingerprint
from inference.svi.checkpoint.folder import CheckpointError, new_checkpoint
from inference.svi.fit_objective import FitObjective
from inference.svi.health import Health
from inference.svi.optimizer.checked import CheckedOptimizer
from model.common import ranks
from model.common.sharded_tensors import is_sharded, whole


@dataclass
class FitState:
    """The state of a fit between two steps. The parameters are in Pyro's store during the fit.

    Attributes:
        guide: a Pyro program over prompts, which puts its parameters into Pyro's store.
        optimizer: the optimiser, with its moments and its step count.
        objective: the objective as the fit sees it, which may have a state.
        step: number of steps done.
        num_responses: number of fresh responses drawn, over all prompts.
        seconds: time taken, those of earlier processes included.
        health: numbers of the steps, and warnings.
        reward: r of the last fresh draws, `[K, N]`, empty if unknown; None without rewards.
        best: copy of the parameters of the best step; None if the fit keeps none.
        fingerprint: description of the fit's arguments. None accepts every checkpoint.
        saved_step: step of the last checkpoint; 0 without a checkpoint.
    """

    guide: Program
    optimizer: CheckedOptimizer
    objective: FitObjective
    step: int = 0
    num_responses: int = 0
    seconds: float = 0.0
    health: Health = field(default_factory=Health)
    reward: Tensor | None = None
    best: BestIterate | None = None
    fingerprint: Fingerprint | None = None
    saved_step: int = 0

    def save(self, folder: str | Path) -> Path:
        """Write a checkpoint into `folder`, keep the one before, and return the path.

        The first rank writes. All ranks call `save` if parameters are sharded.
        """
        folder = Path(folder)
        optimizer = self.optimizer.get_state()
        generators, plain = random_state.capture()
        tensors = {
            "guide": parameters(),
            "optimizer": {
                f"{name}/{key}": moment
                for name, moments in optimizer["parameters"].items()
                for key, moment in moments.items()
            },
            "objective": self.objective.get_state(),
            "random": generators,
            "health": self.health.get_state() | (self.best.get_state() if self.best else {}),
            "reward": {} if self.reward is None else {"reward": self.reward},
        }
        state = {
            "step": self.step,
            "num_responses": self.num_responses,
            "seconds": self.seconds,
            "warnings": self.health.warnings,
            "optimizer": {"step_count": optimizer["step_count"], "plain": optimizer["plain"]},
            "random": plain,
            "fingerprint": {} if self.fingerprint is None else self.fingerprint.to_json(),
        }
        # sorted: ranks exchange the tensors in one order, and dicts may differ from rank to rank
        gathered = {
            name: {key: _gathered(part[key]) for key in sorted(part)}
            for name, part in tensors.items()
        }
        if ranks.is_first():
            with new_checkpoint(folder, self.step) as path:
                for name, part in gathered.items():
                    _write(part, path / f"{name}.safetensors")
                (path / "state.json").write_text(json.dumps(state))
        self.saved_step = self.step
        return folder / f"step-{self.step:08d}"

    def save_once(self, folder: Path | None) -> None:
        """Write a checkpoint on the first rank, unless the folder is None or has this step's."""
        if folder is not None and self.step != self.saved_step:
            if ranks.is_first() or any(map(is_sharded, parameters().values())):
                self.save(folder)
            self.saved_step = self.step

    def save_after(self, error: BaseException, folder: Path | None) -> None:
        """Save the last whole step, and add the place of the checkpoint to the error as a note."""
        done = f"The fit had done {self.step} steps"
        if any(map(is_sharded, parameters().values())):
            # the ranks may be at different places, and cannot gather the parameters
            last = f"; the last checkpoint, in {folder}, is of step {self.saved_step}"
            error.add_note(f"{done}{last if self.saved_step else ''}.")
            return
        try:
            self.save_once(folder)
        except (OSError, CheckpointError, RuntimeError) as other:
            # a full disk is often the error itself, and need not be told twice
            reason = "" if str(other) == str(error) else f": {other}"
            error.add_note(f"{done}; the last could not be saved{reason}")
            return
        if folder is not None and self.saved_step:
            done += f"; the last is in {folder}: go on with resume=True"
        error.add_note(f"{done}.")


def parameters() -> dict[str, Tensor]:
    """All unconstrained parameters in Pyro's store, by name."""
    return dict(pyro.get_param_store().named_parameters())


def _gathered(tensor: Tensor) -> Tensor:
    """A tensor, whole and on the CPU of the first rank if it is sharded; empty on the others."""
    if not is_sharded(tensor):
        return tensor
    numbers = whole(tensor.detach())
    return numbers.cpu() if ranks.is_first() else numbers.new_empty(0)


def _write(tensors: dict[str, Tensor], path: Path) -> None:
    try:
        save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, path)
    except SafetensorError as error:  # the library's only error for a full disk
        raise OSError(f"{path.name}: {error}") from error
