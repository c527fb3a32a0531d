"""`fit`: train a guide by `pyro.infer.SVI`, with metrics, checkpoints, resume and ranks.

The arguments are checked (`options.py`, `fit_checks.py`), and a loop (`loop.py`) takes steps
(`step.py`).
"""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pyro
from pyro.infer import ELBO
from pyro.optim import PyroOptim

from inference import random_state
from inference.programs import Program
from inference.svi.budget import new_budget
from inference.svi.checkpoint.fingerprint import Fingerprint
from inference.svi.checkpoint.resume import resume as resume_from
from inference.svi.fit_checks import agree, check_programs, locked_by_first, new_state, resumes
from inference.svi.fit_objective import elbo_of
from inference.svi.loop import Fit, Loop
from inference.svi.minibatches import Minibatches
from inference.svi.options import FitOptions
from inference.svi.response_metrics import Metrics
from inference.svi.step import Stepper
from model import Prompts
from model.common import ranks
from model.common.thread_lock import THREAD_LOCK
from model.prior.division import Axis


def fit(
    model: Program,
    guide: Program,
    prompts: Prompts,
    *,
    num_steps: int | None = None,
    num_responses: int | None = None,
    max_seconds: float | None = None,
    stop_at_noise: bool | None = None,
    keep_best: bool = True,
    objective: ELBO | None = None,
    optimizer: PyroOptim | None = None,
    step_kl: float | None = None,
    learning_rate: float | None = None,
    clip_norm: float | None = None,
    prompts_per_step: int | None = None,
    micro_batch: int | None = None,
    checkpoint_activations: bool = False,
    divide: Axis = "particles",
    seed: int = 0,
    checkpoint_folder: str | Path | None = None,
    checkpoint_every: int = 50,
    resume: bool = False,
    on_step: Callable[[Metrics], None] | None = None,
    progress: bool = True,
) -> Fit:
    """Train a guide towards the posterior of a model by stochastic variational inference.

        result = fit(model, guide, prompts, num_steps=100)
        print(result.metrics[-1]["elbo"], *result.warnings)

    A fit has its own scope of Pyro's parameter store and its own random state, and restores both.
    On a CPU the result depends on the arguments and torch's number of threads alone, also after a
    kill and a resume, unless the budget is `max_seconds`. A fit in a second thread waits for the
    end of the first.

    If the ELBO of the last steps is below the ELBO of earlier steps by four standard errors, the
    guide returns to the parameters of the best of these. The copy takes the memory of the
    parameters once more. Objectives that do not ascend the ELBO, such as `forward-kl`, leave the
    guide as in the last step. The parameters after the last step are measured by no draws.

    In a process group of `torch.distributed`, all ranks call `fit` alike and divide the responses
    of each step. Draws, gradient and metrics are those of one process, up to rounding, and so is
    the checkpoint, which one rank writes and any number of ranks resumes.

    A step that leaves a NaN or an infinity is undone, and the fit stops early with the last good
    parameters. The undo takes the memory of parameters and moments once more.

    Args:
        model: a Pyro program over prompts, such as `AlignmentModel`.
        guide: a Pyro program over prompts, such as a class of `guides`; modules train in place.
        prompts: N prompts.
        num_steps: number of steps, those before a resume included. Exactly one of `num_steps`,
            `num_responses` and `max_seconds` is passed.
        num_responses: number of fresh responses over all prompts, in place of steps.
        max_seconds: time in place of steps. A resume goes on with the time left.
        stop_at_noise: True to end when the gain of the ELBO is below its noise: when the last
            quarter of the steps is not above the quarter before, each of at least 40 steps.
            Default: True without `num_steps`.
        keep_best: True to return to the best step if the ELBO fell.
        objective: any `pyro.infer` ELBO; default `LeaveOneOut_ELBO()`.
        optimizer: a `TrustRegion`, a `FusedOptimizer`, or an optimiser of `pyro.optim` that is no
            scheduler. Default: a `TrustRegion`; `WholeSteps` for an objective that proposes them.
        step_kl: KL(q_old || q_new) that the first step may have, nats, of the default optimiser;
            see `TrustRegion`.
        learning_rate: peak rate of Adam, in place of a size in nats: a warm-up over a twentieth of
            the steps, then a cosine to 0.
        clip_norm: upper limit of the gradient's norm beside a learning rate; default no limit.
        prompts_per_step: largest number of prompts in a step; default all. Each epoch has each
            prompt once, in an order by the seed, and prompts of similar length in one step.
        micro_batch: largest number of responses that are scored and differentiated at a time.
            The gradient is that of the whole step, the memory that of these responses, at the cost
            of one more pass of the guide. A resume may change it. Default: all responses.
        checkpoint_activations: True to compute the activations inside each layer of `transformers`
            again in the backward pass, for long responses. A resume may change it.
        divide: axis that the ranks divide, `particles` of all prompts or `prompts`; the other axis
            where that is shorter than the number of ranks. A resume may change it.
        seed: random seed.
        checkpoint_folder: folder for checkpoints, which keeps the newest two; default none. All
            ranks see the folder.
        checkpoint_every: number of steps between checkpoints, besides the last or failed step.
        resume: True to continue from the newest whole checkpoint, if there is one.
        on_step: function of the metrics of each step, called on the first rank, which then works
            alone. Its random draws do not affect the fit.
        progress: True to show a progress bar, on the first rank.

    Raises:
        ValueError: if a number is out of its range, if the optimiser or the objective has been
            used, if `step_kl`, `learning_rate` or `clip_norm` is passed next to an optimiser, or
            `step_kl` next to one of the others; or if the ranks call `fit` with other arguments.
        CheckpointError: if the folder has a checkpoint and `resume` is False, or if the checkpoint
            is of another fit (see `svi/checkpoint/fingerprint.py`) or of more steps or responses.
        FolderInUseError: if another fit works in the folder.
        NonFiniteStartError: if a parameter is NaN or infinite at the start.
        RuntimeError: if gradients are off.
        NothingToTrainError: if the first gradient reaches no parameter.
        ImpossibleResponseError: if the guide draws a response with log likelihood -inf.
        RankError: if another rank fails or ends.

    Any error of a step, also a `KeyboardInterrupt`, is raised after a checkpoint of the last whole
    step. The error has a note about the checkpoint, and the `Fit` so far as attribute `fit`.
    """
    given = locals()
    options = FitOptions(**{each.name: given[each.name] for each in fields(FitOptions)})
    check_programs(model, guide, prompts)
    state = new_state(guide, objective, optimizer, options)
    budget = new_budget(options, state.objective.num_particles, len(prompts))
    agree(state, prompts, options)
    folder = options.checkpoint_folder
    if folder is not None:
        state.fingerprint = Fingerprint(
            num_steps=options.num_steps,
            prompts=prompts,
            objective=elbo_of(state.objective),
            optimizer=state.optimizer,
            model=model,
            guide=guide,
            prompts_per_step=options.prompts_per_step,
            seed=options.seed,
        )
    minibatches = Minibatches(prompts, options.prompts_per_step, options.seed)
    stepper = Stepper(model, state, len(prompts), options)
    loop = Loop(Fit(state), stepper, minibatches, budget, options)
    scope = pyro.get_param_store().scope(loop.result.parameters)
    isolated = random_state.isolated(options.seed, prompts.ids.device)
    with THREAD_LOCK, locked_by_first(folder), scope, isolated:
        with ranks.failing_together():
            if folder is not None and resumes(folder, options.resume):
                resume_from(state, folder, minibatches.after(0))
        loop.run()
    return loop.result
