"""Cost of a gradient step as a Pyro program, in a loop written by hand, and in TRL's trainer.

Question: is the Pyro program slower than the code that it replaces?
Answer, printed: CPU and wall seconds of a step; ours as a fraction of each of the others, claimed
to be at most 0.97 of a loop written by hand and at most 0.65 of TRL's `RLOOTrainer`; and the parts
of a step, ours beside the loop's.

The job is the same for all three. A GPT-2 of 2 layers and width 64 over 128 words, with random
weights, is prior and initial guide. A step draws 64 responses of 16 tokens to a prompt of 4, scores
them under guide and prior, and takes one Adam step on the leave-one-out gradient, its norm at most
1, on one thread. All check for the end of a response. The weights give the end a probability of
e^-100, so every response has all its tokens.

The differences are part of the answer:

- Ours reads the prompt once for all responses, also for the scores, draws a token from one random
  number, and runs Pyro.
- Ours computes the GELU of GPT-2 in one kernel. The loop and TRL run the network as `transformers`
  has it, with eight kernels.
- The loop reads the prompt once for the decode, draws with `torch.multinomial`, and scores prompt
  and response in one pass.
- TRL scores its responses under the guide once more before the step, and keeps metrics.

The start of a process is timed too: `import model` is claimed to take at most 1.3 times, and `steer
--help` 1.6 times, the CPU time of importing torch, Pyro and transformers.

With `--smollm2` a step of SmolLM2-135M with LoRA in bfloat16 is measured beside TRL's, each alone
in a process: CPU seconds and peak memory, claimed to be at most 0.38 of TRL's.

A round is a step of each, so that other load on the machine falls on all alike. Ratios are of means
over rounds, with standard errors. TRL's trainer owns its loop, so the others take their turns in
its `on_step_end`.

    make bench
    python -m experiments.benchmark --rounds 50
    python -m experiments.benchmark --rounds 5 --start-ups 0 --smollm2 16 64
"""

import os
from importlib.util import find_spec

import pyro
import torch

from experiments.benchmark.real_model import report_real_model
from experiments.benchmark.report import BY_HAND, OURS, report, time_parts
from experiments.benchmark.startup import report_startup
from experiments.benchmark.steps import Benchmark, ByHand, Ours
from experiments.benchmark.trl_trainer import take_turns_with_trl
from experiments.shared.command_line import run_script
from experiments.shared.cost import Step, take_turns


def main(args: Benchmark) -> None:
    """Print the report."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    with_trl = find_spec("trl") is not None
    print(run(args, with_trl=with_trl), flush=True)
    if args.start_ups:
        print("", report_startup(args.start_ups), sep="\n", flush=True)
    if args.smollm2:
        print("", report_real_model(args, with_trl=with_trl), sep="\n")


def run(args: Benchmark, *, with_trl: bool) -> str:
    """Measure, and return the report. Pyro's parameter store stays as it was."""
    with pyro.get_param_store().scope(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(args.seed)
        steps: dict[str, Step] = {OURS: Ours.of(args), BY_HAND: ByHand(args)}
        rounds = args.warm_up + args.rounds
        times = take_turns_with_trl(steps, rounds, args) if with_trl else take_turns(steps, rounds)
        times = {name: seconds[args.warm_up :] for name, seconds in times.items()}
        return report(times, time_parts(steps, max(1, args.rounds // 4)), args)


if __name__ == "__main__":
    run_script(main, Benchmark)
