"""The checkpoints of a fit as it goes: each whole step at most once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from inference.svi.checkpoint.checkpoint import CheckpointError, FitState


@dataclass
class CheckpointWriter:
    """Writes checkpoints, and remembers of which step the last is.

    Attributes:
        state: of the fit.
        folder: where checkpoints go; None for nowhere.
        step: step of the last checkpoint in the folder, 0 for none.
    """

    state: FitState
    folder: Path | None
    step: int

    def save(self) -> None:
        """Save the state, unless its step is in the folder already."""
        if self.folder is not None and self.state.step != self.step:
            self.state.save(self.folder)
            self.step = self.state.step

    def save_after(self, error: BaseException) -> None:
        """Save the last whole step, and add to `error` where it is."""
        try:
            self.save()
        except (OSError, CheckpointError) as other:
            error.add_note(
                f"The fit had done {self.state.step} steps; the last could not be saved: {other}"
            )
            return
        where = (
            f"; the last is in {self.folder}: go on with resume=True"
            if self.folder is not None and self.step
            else ""
        )
        error.add_note(f"The fit had done {self.state.step} steps{where}.")
