"""Steer a language model towards a reward, and measure how far it is from its posterior.

Question: how close does variational inference bring a language model q to its posterior,
p*(x) = p0(x) exp(r(x)/beta) / Z?
Claim (Korbak, Perez and Buckley 2022): KL-regularised RL maximises the ELBO, whose gap to log Z is
KL(q || p*).
Printed: samples and rewards before and after the fit; log Z, ELBO, KL(q || p*), KL(p* || q), reward
and KL to the prior, each with its standard error; the remaining share of the gap. Written: a run
folder with arguments, metrics, guide, figures and `report.html`.

    python -m experiments.steer
    python -m experiments.steer --guide lora --lora.rank 4
    python -m experiments.steer --beta 0.3 --prompts "The plot" "The music" --objective trace
    python -m experiments.steer --reward vader "0.05*length" --kl-budget 3
    python -m experiments.steer --constraint words:music,song --objective forward-kl
    python -m experiments.steer --reward --moment words:film=0.5 --objective forward-kl
    python -m experiments.steer --reward --factor marginal-likelihood:RUN/reward
    python -m experiments.steer --prior smollm2 --time 10m
    python -m experiments.steer --prior smollm2 --dataset questions.jsonl --system "Be brief."
    python -m experiments.steer --prior smollm2 --dataset questions.jsonl --reward accuracy
    python -m experiments.steer --sample smc --budget 4096
    python -m experiments.steer --sample importance --proposal runs/steer-20250101-120000/guide
    python -m experiments.steer --config runs/steer-20250101-120000/arguments.json --seed 1
    python -m experiments.steer --resume runs/steer-20250101-120000
    torchrun --nproc-per-node 2 -m experiments.steer
"""

from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

from experiments.shared.command_line import run_script
from experiments.shared.refusals import FAULTS, blamed, resume_hint
from experiments.shared.run_folder import RunFolder, new_folder
from experiments.steer.arguments import Steer
from experiments.steer.checks import check
from experiments.steer.decoding import sample_posterior
from experiments.steer.guide import print_size
from experiments.steer.inputs import Input, digests_of, inputs_of
from experiments.steer.posterior import build_model
from experiments.steer.processes import Launch, ended_at_once, first_speaks, joined
from experiments.steer.prompts import RunPrompts, load_prompts
from experiments.steer.resuming import check_inputs, old_folder, own_arguments, resume_command
from experiments.steer.training import train
from experiments.steer.wording import in_options
from model import AlignmentModel, LanguageModel
from model.prior.named_priors import load_prior


def main(args: Steer) -> RunFolder:
    """Fit a guide to the posterior, and report the gap between them before and after the fit."""
    with in_options(), joined(args.device) as launch:
        if launch.earlier is not None and args.resume is None:
            args = replace(args, resume=launch.earlier, complete=False)
        return run(args, launch)


def run(args: Steer, launch: Launch) -> RunFolder:
    """Run the script, together with the other processes if there are any."""
    args, inputs = prepare(args)
    prior, prompts = load(args)
    model = build_posterior(args, prior, prompts)
    args = replace(args, beta=model.beta)
    folders, is_resumed = launch.folder(lambda: open_folder(args, inputs)), args.resume is not None
    with folders as folder, resume_hint(lambda: resume_command(folder, args), is_resumed):
        print(f"run folder {folder.path}")
        if args.sample is None:
            train(args, model, prompts, folder)
        else:
            print(*prompts.notes, sep="\n")
            sample_posterior(args, model, prompts.measured, folder)
    return folder


def prepare(args: Steer) -> tuple[Steer, list[Input]]:
    """Check the arguments, those of the run to resume if there is one, and the input files."""
    if args.resume is not None and not args.complete:
        args = own_arguments(args)
    check(args)
    inputs = inputs_of(args)
    if args.resume is not None:
        check_inputs(RunFolder(args.resume), inputs)
    return args, inputs


def load(args: Steer) -> tuple[LanguageModel, RunPrompts]:
    """Load the prior, and read and encode the prompts."""
    with blamed(f"--prior {args.prior}", FAULTS):
        prior = load_prior(args.prior, **args.loading)
    print_size(f"prior {args.prior} at temperature {args.temperature:g}", prior)
    return prior, load_prompts(args, prior)


def build_posterior(args: Steer, prior: LanguageModel, prompts: RunPrompts) -> AlignmentModel:
    """Build the model. A resumed run has the beta that meets its budget."""
    budget = args.beta_budget if args.resume is None else {}
    draws: dict[str, Any] = {"num_draws": args.prior_draws, "seed": args.seed}
    about = args.choices, prior, prompts.measured, args.beta, budget
    return build_model(*about, **draws, every=prompts.every)


def open_folder(args: Steer, inputs: list[Input]) -> AbstractContextManager[RunFolder]:
    """Make a run folder, or open the folder of the run to resume."""
    if args.resume is None:
        return new_folder(args, "steer", digests_of(inputs))
    return old_folder(args, inputs)


if __name__ == "__main__":
    with ended_at_once(), first_speaks():
        run_script(main, Steer)
