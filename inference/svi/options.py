"""The options of one fit: its numbers and switches, for all parts of the fit."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from inference.svi.response_metrics import Metrics
from model.common import checks
from model.prior.division import AXES, Axis

AMOUNTS = ("num_steps", "num_responses", "max_seconds")
"""Options of `fit`, of which one is the budget."""
COUNTS = ("num_steps", "num_responses", "prompts_per_step", "micro_batch")
"""Options that are whole numbers or None."""
FLAGS = ("stop_at_noise", "keep_best", "checkpoint_activations", "resume", "progress")


@dataclass(kw_only=True)
class FitOptions:
    """The arguments of `fit` besides programs, prompts, objective and optimiser; see `fit`.

    The optimiser checks `step_kl`, `learning_rate` and `clip_norm`.
    """

    num_steps: int | None
    num_responses: int | None
    max_seconds: float | None
    stop_at_noise: bool | None
    keep_best: bool
    step_kl: float | None
    learning_rate: float | None
    clip_norm: float | None
    prompts_per_step: int | None
    micro_batch: int | None
    checkpoint_activations: bool
    divide: Axis
    seed: int
    checkpoint_folder: Path | None
    checkpoint_every: int
    resume: bool
    on_step: Callable[[Metrics], None] | None
    progress: bool

    def __post_init__(self) -> None:
        given = [name for name in AMOUNTS if getattr(self, name) is not None]
        if len(given) != 1:
            fault = f"{' and '.join(given)} are given" if given else "num_steps is None"
            raise ValueError(
                f"{fault}, expected exactly one of {', '.join(AMOUNTS)}: a fit ends after so many "
                "steps, fresh responses, or seconds"
            )
        for name in COUNTS:
            if (count := getattr(self, name)) is not None:
                setattr(self, name, checks.whole_number(name, count))
        self.checkpoint_every = checks.whole_number("checkpoint_every", self.checkpoint_every)
        if self.max_seconds is not None:
            self.max_seconds = checks.positive("max_seconds", self.max_seconds, why="seconds")
        if self.stop_at_noise is None:
            self.stop_at_noise = self.num_steps is None
        self.seed = checks.seed("seed", self.seed)
        for name in FLAGS:
            checks.boolean(name, getattr(self, name))
        checks.one_of("divide", self.divide, AXES)
        if self.on_step is not None:
            checks.function("on_step", self.on_step, takes=1, why="the metrics of a step")
        if self.checkpoint_folder is not None:
            self.checkpoint_folder = checks.folder_path("checkpoint_folder", self.checkpoint_folder)
        if self.resume and self.checkpoint_folder is None:
            raise ValueError(
                "resume is True without a checkpoint_folder, expected the folder of the checkpoint"
            )
