"""The loop of a fit: steps until the budget is spent, each recorded, shown and saved."""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pyro.params.param_store import StateDict
from tqdm import tqdm

from inference import random_state
from inference.svi.budget import Budget
from inference.svi.checkpoint.state import FitState, parameters
from inference.svi.minibatches import Minibatches
from inference.svi.optimizer import checked
from inference.svi.options import FitOptions
from inference.svi.response_metrics import LENGTH, Metrics
from inference.svi.rollback import NonFiniteGuideError, NonFiniteLossError
from inference.svi.step import Stepper
from model.common import ranks

STOPS = (
    NonFiniteLossError,
    NonFiniteGuideError,
    checked.NonFiniteGradientError,
    checked.NonFiniteParametersError,
    checked.ScheduleError,
)
"""Errors of a step after which a fit returns early, with the last good parameters."""


@dataclass
class Fit:
    """Result of `fit`.

    Attributes:
        state: guide, optimiser and step; `state.guide` is the trained guide that was passed in.
        parameters: the fit's scope of Pyro's parameter store. A guide that is a plain function runs
            inside `pyro.get_param_store().scope(parameters)`; a module holds its own parameters.
        metrics: one record for each step of this call: `step`; `num_responses` drawn so far;
            `loss`, summed over prompts; `elbo`, `log_likelihood` and `entropy`, nats, averaged over
            prompts; `grad_norm`; `learning_rate`; `step_size`, nats; and the metrics of the
            responses, see `svi/response_metrics.py`: `kl`, of a guide that is a language model
            `kl_per_token` and `completions/...`, of an `AlignmentModel` with rewards `reward`,
            `reward_std` and `frac_reward_zero_std`. `elbo` and `kl` are NaN for `RenyiELBO` and
            `ReweightedWakeSleep`, whose losses are other bounds.
        warnings: sentences about the health of the fit, each with step and numbers: an ELBO below
            its start, a collapse of the entropy, steps without a possible response, a return to an
            earlier step.
        best_step: number of steps behind the guide's parameters, where the fit returned to an
            earlier step; None for the parameters of the last step.
        at_noise: reason for an end before the budget was spent, a gain below its noise; or None.
        stopped_early: error that ended the fit before its budget was spent; None without one.
    """

    state: FitState
    parameters: StateDict = field(default_factory=lambda: StateDict(params={}, constraints={}))
    metrics: list[Metrics] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    best_step: int | None = None
    at_noise: str | None = None
    stopped_early: str | None = None

    def __repr__(self) -> str:
        """Number of steps, the last ELBO, and whatever is out of the ordinary."""
        numbers = [f"step={self.state.step}"]
        numbers += [f"elbo={self.metrics[-1]['elbo']:.3f}"] if self.metrics else []
        names = ("best_step", "at_noise", "stopped_early", "warnings")
        given = [f"{name}={value!r}" for name in names if (value := getattr(self, name))]
        return f"Fit({', '.join([*numbers, *given])})"


@dataclass
class Loop:
    """The steps of a fit, whose result each step advances, until the budget ends the loop."""

    result: Fit
    stepper: Stepper
    minibatches: Minibatches
    budget: Budget
    options: FitOptions

    def run(self) -> None:
        """Take steps until the end, and choose between the last parameters and the best."""
        result, state, options = self.result, self.result.state, self.options
        folder = options.checkpoint_folder
        result.warnings = list(state.health.warnings.values())
        self.budget.start(state)
        with _saved(result, folder), self.budget.bar(state, shown=options.progress) as bar:
            while not self._is_at_end():
                num_tokens_per_second = self._take_step()
                self._warn(*state.health.check(ascends_elbo=state.objective.ascends_elbo))
                if options.on_step is not None and ranks.is_first():
                    with random_state.preserved(), ranks.alone():
                        options.on_step(result.metrics[-1])
                self._show(bar, num_tokens_per_second)
                if state.step % options.checkpoint_every == 0:
                    state.save_once(folder)
        if state.best and (reason := state.best.restore(state.health.elbo, parameters())):
            result.best_step = state.best.step
            self._warn(reason)

    def _is_at_end(self) -> bool:
        """True if the budget is spent, or if the gain of the ELBO is below its noise."""
        state = self.result.state
        if self.budget.is_spent(state):
            return True
        if self.options.stop_at_noise and state.objective.ascends_elbo:
            self.result.at_noise = state.health.end_of_progress()
        return self.result.at_noise is not None

    def _take_step(self) -> float:
        """Take one step and record its metrics. Returns the number of tokens a second."""
        state, num_particles = self.result.state, self.result.state.objective.num_particles
        state.optimizer.progress = self.budget.progress(state)
        prompts = self.minibatches.after(state.num_responses // num_particles)
        metrics = self.stepper.take(prompts)
        self.result.metrics.append(metrics)
        num_tokens = num_particles * len(prompts) * metrics.get(LENGTH, math.nan)
        return num_tokens / self.budget.tick(state)

    def _warn(self, *sentences: str) -> None:
        """Add warnings to the result, and show them at once on the first rank."""
        self.result.warnings += sentences
        for sentence in sentences if ranks.is_first() else ():
            warnings.warn(sentence, stacklevel=4)  # the caller of `fit`

    def _show(self, bar: tqdm, num_tokens_per_second: float) -> None:
        """Set bar and numbers of the progress bar."""
        numbers = {
            "elbo": f"{self.result.metrics[-1]['elbo']:.3f}",
            "tokens/s": f"{num_tokens_per_second:.0f}",
            "warnings": ", ".join(self.result.state.health.warnings) or "none",
        }
        bar.set_postfix(numbers, refresh=False)
        bar.update(round(self.budget.spent(self.result.state)) - bar.n)


@contextmanager
def _saved(result: Fit, folder: Path | None) -> Iterator[None]:
    """Save the last whole step at the end and after an error. One of `STOPS` is a result."""
    state = result.state
    try:
        yield
        state.save_once(folder)
    except STOPS as error:
        result.metrics = [record for record in result.metrics if record["step"] <= state.step]
        result.stopped_early = f"step {state.step}: {error}"
        if ranks.is_first():
            # the caller of `fit`
            warnings.warn(f"fit stopped early at {result.stopped_early}", stacklevel=5)
        state.save_once(folder)
    except BaseException as error:
        state.save_after(error, folder)
        vars(error)["fit"] = result
        raise
