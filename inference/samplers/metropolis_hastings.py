"""Metropolis-Hastings: chains of responses whose law converges to the posterior, for any evidence and without a bound.

    x' ~ q(. | x_<s),   accepted with probability min(1, w(x') |x| / (w(x) |x'|)),   w(x) = p0(x) exp(r(x)/beta) / q(x)

The move, which redraws the end of a response or the whole of it, is `suffix_move`. `ResponseKernel` makes a Pyro kernel of
it, for `pyro.infer.MCMC`, with many chains side by side in one state: they cost one batch a step, not one process each.
"""

from __future__ import annotations

import torch
from pyro.infer import MCMC
from pyro.infer.mcmc.mcmc_kernel import MCMCKernel
from pyro.ops.stats import effective_sample_size, split_gelman_rubin
from torch import Tensor

from inference.estimate import check_numbers
from inference.programs import Program, autoregressive, log_likelihood_at, response_distribution
from inference.samplers.posterior import Posterior, check_support
from inference.samplers.proposal import weigh
from inference.samplers.suffix_move import suffix_move
from model import Prompts
from model.common.checks import boolean, finite, function, whole_number
from model.common.thread_lock import one_thread

NUM_STARTS = 10  # times that an impossible start is drawn again


class ResponseKernel(MCMCKernel):
    """C Metropolis-Hastings chains for each of N prompts, one state of a Pyro kernel.

        mcmc = MCMC(ResponseKernel(model, num_chains=64), num_samples=200, warmup_steps=100)
        mcmc.run(prompts)
        mcmc.get_samples()["response"]  # [200, 64, N, T]

    The state is `response` `[C, N, T]`, which is saved, and `log_weight` `[C, N]`, log p0 + r/beta - log q, which is not.
    Chains start from draws of the proposal, or from `MCMC(initial_params={"response": ...})`. `kernel.diagnostics()` has
    `acceptance` `[N]`, the share of moves accepted after the warm-up, identical redraws included. Pyro's own
    `mcmc.diagnostics()` and `mcmc.summary()` fail, as they take moments of the state, which token ids do not have: see
    `mixing` for R-hat.

    Args:
        model: a Pyro program with a site `response` and factors.
        guide: a Pyro program that samples the same site, the proposal q. None: the prior.
        num_chains: C. Leave Pyro's own `num_chains` at 1.
        whole: redraw whole responses, in place of a random suffix: better only where the proposal is near the posterior.

    Raises:
        TypeError: if the proposal is not a `ResponseDistribution`.
        NoSupportError: if no start is possible for a prompt.
    """

    transforms: dict = {}  # noqa: RUF012 - tells Pyro that the state is what it seems, with no unconstrained space behind it
    save_params = ("response",)

    def __init__(
        self,
        model: Program,
        guide: Program | None = None,
        num_chains: int = 64,
        whole: bool = False,
    ) -> None:
        self.model = function("the model", model, why="a Pyro program over prompts")
        self.guide = (
            guide
            if guide is None
            else function("the guide", guide, why="a Pyro program over prompts")
        )
        self.num_chains = whole_number("num_chains", num_chains)
        self.whole = boolean("whole", whole)
        self._start: dict[str, Tensor] | None = None

    @torch.no_grad()
    def setup(self, warmup_steps: int, prompts: Prompts) -> None:
        self._prompts = prompts
        proposal, role = (self.model, "model") if self.guide is None else (self.guide, "guide")
        self._distribution = autoregressive(response_distribution(proposal, prompts, role=role))
        start = self._draw_start() if self._start is None else self._start["response"]
        self._start = {"response": start, "log_weight": self._score(start)}
        self._steps_to_warm_up = warmup_steps
        self._num_steps, self._num_accepted = (
            0,
            torch.zeros(len(prompts), dtype=torch.double, device=start.device),
        )

    @torch.no_grad()
    def sample(self, params: dict[str, Tensor]) -> dict[str, Tensor]:
        """One move of every chain."""
        response, log_weight, accepted = suffix_move(
            self._distribution,
            params["response"],
            params["log_weight"],
            self._score,
            whole=self.whole,
        )
        if self._steps_to_warm_up > 0:
            self._steps_to_warm_up -= 1
        else:
            self._num_steps += 1
            self._num_accepted += accepted.double().mean(0)
        return {"response": response, "log_weight": log_weight}

    def cleanup(self) -> None:
        self._start = None  # another run starts afresh

    @property
    def initial_params(self) -> dict[str, Tensor] | None:
        return self._start

    @initial_params.setter
    def initial_params(self, params: dict[str, Tensor]) -> None:
        self._start = params

    def logging(self) -> dict[str, str]:
        return {"acceptance": f"{self.diagnostics()['acceptance'].mean().item():.3f}"}

    def diagnostics(self) -> dict[str, Tensor]:
        return {"acceptance": self._num_accepted / max(1, self._num_steps)}

    def _score(self, response: Tensor) -> Tensor:
        return weigh(self.model, self.guide, self._prompts, response).log_weight

    def _draw_start(self) -> Tensor:
        """A possible response for each chain, `[C, N, T]`: drawn again a few times, then taken from another chain."""
        shape = torch.Size([self.num_chains])
        response = self._distribution.sample(shape)
        for _ in range(NUM_STARTS):
            impossible = self._score(response).isneginf()  # [C, N]
            if not bool(impossible.any()):
                return response
            response = torch.where(
                impossible[..., None], self._distribution.sample(shape), response
            )
        log_weight = self._score(response)
        fix = f"and so were {NUM_STARTS} redraws of each. Use more chains, a guide that knows the evidence, or softer evidence"
        check_support(log_weight, self._prompts.texts, fix)
        # any possible start is a valid one; chains that share it drift apart during the warm-up
        other = torch.multinomial(
            log_weight.isfinite().double().T, self.num_chains, replacement=True
        ).T  # [C, N]
        donor = response.gather(0, other[..., None].expand_as(response))
        return torch.where(log_weight.isneginf()[..., None], donor, response)


@torch.no_grad()
@one_thread
def metropolis_hastings(
    model: Program,
    prompts: Prompts,
    *,
    guide: Program | None = None,
    num_samples: int = 1024,
    num_chains: int = 32,
    warmup: float = 0.5,
    whole: bool = False,
    chunk: int = 256,
) -> Posterior:
    """Run `num_chains` chains for each prompt through `pyro.infer.MCMC`.

    Args:
        model: a Pyro program with a site `response` and factors.
        prompts: N prompts.
        guide: a Pyro program that samples the same site, the proposal q. None: the prior.
        num_samples: the budget, responses drawn for each prompt: chains times steps, of which the first is the start and a
            share `warmup` is thrown away. Impossible starts are drawn again beyond it.
        num_chains: C, for each prompt. Few long chains forget their start, many short ones are fast.
        warmup: share of the steps thrown away.
        whole: redraw whole responses, in place of a random suffix.
        chunk: kept responses whose evidence is scored again at a time, for the diagnostics, for each prompt.

    Returns:
        `response` `[S C, N, T]`, S kept steps of each chain, not independent; `log_weight` 0; `log_z` None. Expectations are
        consistent as the steps grow, and biased towards the start while they are few. Diagnostics, `[N]` each:
        `acceptance`, and `r_hat` and `effective_sample_size` of r/beta (see `mixing`).

    Raises:
        ValueError: if a number is out of its range, or the budget leaves no step to keep.
        TypeError: if the proposal is not a `ResponseDistribution`.
        NoSupportError: if no start is possible for a prompt.
    """
    kernel = ResponseKernel(model, guide, num_chains, whole)
    num_samples, chunk = whole_number("num_samples", num_samples), whole_number("chunk", chunk)
    warmup = finite("warmup", warmup, at_least=0, below=1, why="a share of the steps")
    num_steps = num_samples // kernel.num_chains
    num_discarded = max(1, round(warmup * num_steps))  # the start among them
    if num_discarded >= num_steps:
        raise ValueError(
            f"num_samples = {num_samples}, num_chains = {num_chains} and warmup = {warmup} make {num_steps} steps of each "
            f"chain, of which {num_discarded} are discarded: no step is left to keep. Expected 0 <= warmup < 1 and "
            "num_samples of at least 2 num_chains / (1 - warmup)"
        )
    mcmc = MCMC(
        kernel,
        num_samples=num_steps - num_discarded,
        warmup_steps=num_discarded - 1,
        disable_progbar=True,
    )
    mcmc.run(prompts)
    chains = mcmc.get_samples()["response"]  # [S, C, N, T]
    response = chains.flatten(0, 1)
    log_likelihood = torch.cat(
        [log_likelihood_at(model, prompts, part) for part in response.split(chunk)]
    )
    return Posterior(
        response,
        torch.zeros_like(log_likelihood),
        None,
        {**kernel.diagnostics(), **mixing(log_likelihood.view(chains.shape[:-1]))},
    )


def mixing(values: Tensor) -> dict[str, Tensor]:
    """Split R-hat and effective sample size of chains, by prompt (Gelman et al. 2013, "Bayesian data analysis", 11.4-11.5).

    Args:
        values: `[S, C, N]`, what is watched, at S steps of C chains.

    Returns:
        `r_hat` `[N]`, 1 if the chains agree with each other and with themselves, above 1.1 if they do not; and
        `effective_sample_size` `[N]`, out of S C. Both NaN where nothing can be told: fewer than 4 steps, or values that never
        vary, as under evidence that is 0 or -inf.
    """
    if check_numbers("values", values).dim() != 3:
        raise ValueError(
            f"values has shape {tuple(values.shape)}, expected [S, C, N]: S steps of C chains for each of N prompts"
        )
    r_hat, size = values.new_full((2, values.shape[-1]), torch.nan)
    for prompt in range(
        values.shape[-1]
    ):  # one at a time: the NaN of a constant would reach the others
        of_one = values[..., prompt].T  # [C, S]
        if of_one.shape[1] >= 4:
            r_hat[prompt] = split_gelman_rubin(of_one)
            size[prompt] = effective_sample_size(of_one)
    return {"r_hat": r_hat, "effective_sample_size": size}
