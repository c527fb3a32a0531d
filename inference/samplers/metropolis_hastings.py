"""Metropolis-Hastings: chains of responses that converge to the posterior, without any bound.

The move is `suffix_move`, which redraws the end of a response or all of the response.
`ResponseKernel` is a kernel for `pyro.infer.MCMC` with many chains in one state, which cost one
batch a step and no processes.
"""

import torch
from pyro.infer import MCMC
from pyro.infer.mcmc.mcmc_kernel import MCMCKernel
from pyro.ops.stats import effective_sample_size, split_gelman_rubin
from torch import Tensor

from inference.estimate import check_numbers
from inference.programs import Program, autoregressive, log_likelihood_at
from inference.samplers.posterior import FEWEST_STEPS, Posterior, check_support
from inference.samplers.proposal import proposal_distribution, weigh
from inference.samplers.suffix_move import suffix_move
from model import Prompts
from model.common.checks import boolean, finite, function, whole_number
from model.prior.division import by_all_ranks

NUM_STARTS = 10  # number of times that an impossible start is drawn again


class ResponseKernel(MCMCKernel):
    """C Metropolis-Hastings chains for each of N prompts, in one state of a Pyro kernel.

        mcmc = MCMC(ResponseKernel(model, num_chains=64), num_samples=200, warmup_steps=100)
        mcmc.run(prompts)
        mcmc.get_samples()["response"]  # [200, 64, N, T]

    The state is `response` `[C, N, T]`, which is saved, and `log_weight` `[C, N]`, log w, which is
    not. Chains start from draws of the proposal, or from `MCMC(initial_params={"response": ...})`.
    `kernel.diagnostics()` has `acceptance` `[N]`, the share of moves accepted after the warm-up,
    equal redraws included. Pyro's `mcmc.diagnostics()` and `mcmc.summary()` fail, as token ids have
    no moments: use `mixing` for R-hat.

    Args:
        model, guide: See `sequential_monte_carlo`.
        num_chains: C. Leave Pyro's own `num_chains` at 1.
        whole: True to redraw whole responses, better only if the proposal is near the posterior.
    """

    transforms: dict = {}  # noqa: RUF012 - tells Pyro that there is no unconstrained space
    save_params = ("response",)

    def __init__(
        self,
        model: Program,
        guide: Program | None = None,
        num_chains: int = 64,
        whole: bool = False,
    ) -> None:
        why = "a Pyro program over prompts"
        self.model = function("the model", model, why=why)
        self.guide = None if guide is None else function("the guide", guide, why=why)
        self.num_chains = whole_number("num_chains", num_chains)
        self.whole = boolean("whole", whole)
        self._start: dict[str, Tensor] | None = None

    @torch.no_grad()
    def setup(self, warmup_steps: int, prompts: Prompts) -> None:
        self._prompts = prompts
        proposal = proposal_distribution(self.model, self.guide, prompts)
        self._distribution = autoregressive(proposal)
        start = self._draw_start() if self._start is None else self._start["response"]
        self._start = {"response": start, "log_weight": self._score(start)}
        self._num_warmup, self._num_steps = warmup_steps, 0
        self._num_accepted = torch.zeros(len(prompts), dtype=torch.double, device=start.device)

    @torch.no_grad()
    def sample(self, params: dict[str, Tensor]) -> dict[str, Tensor]:
        """Move every chain once."""
        state = params["response"], params["log_weight"]
        response, log_weight, accepted = suffix_move(
            self._distribution, *state, self._score, whole=self.whole
        )
        if self._num_warmup > 0:
            self._num_warmup -= 1
        else:
            self._num_steps += 1
            self._num_accepted += accepted.double().mean(0)
        return {"response": response, "log_weight": log_weight}

    def cleanup(self) -> None:
        self._start = None  # the next run starts afresh

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
        return weigh(self.model, self.guide, self._prompts, response)

    def _draw_start(self) -> Tensor:
        """Draw a possible response for each chain, `[C, N, T]`: redrawn, or another chain's."""
        shape = torch.Size([self.num_chains])
        response = self._distribution.sample(shape)
        for _ in range(NUM_STARTS):
            impossible = self._score(response).isneginf()[..., None]  # [C, N, 1]
            if not bool(impossible.any()):
                return response
            response = torch.where(impossible, self._distribution.sample(shape), response)
        log_weight = self._score(response)
        fix = (
            f"and so were {NUM_STARTS} redraws of each. Use more chains, a guide nearer to the "
            "posterior, or a looser constraint"
        )
        check_support(log_weight, self._prompts.texts, fix)
        # any possible start is valid; chains with one start drift apart during the warm-up
        possible = log_weight.isfinite().double().T
        other = torch.multinomial(possible, self.num_chains, replacement=True).T  # [C, N]
        donor = response.gather(0, other[..., None].expand_as(response))
        return torch.where(log_weight.isneginf()[..., None], donor, response)


@by_all_ranks
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
        model, prompts, guide: See `sequential_monte_carlo`.
        num_samples: Number of responses drawn for each prompt: chains times steps, of which the
            first is the start. Redraws of impossible starts come on top.
        num_chains, whole: See `ResponseKernel`. Few long chains forget their start; many short ones
            are fast.
        warmup: Share of the steps that is discarded.
        chunk: Largest number of responses scored at a time for the diagnostics, for each prompt.

    Returns:
        S steps of C chains as `[S C, N, T]`, not independent, of equal weight, without an estimate
        of Z. Means are consistent in the number of steps, and biased towards the start.
        Diagnostics: `acceptance`; `r_hat` and `effective_sample_size` of the log likelihood (see
        `mixing`).
    """
    kernel = ResponseKernel(model, guide, num_chains, whole)
    num_samples, chunk = whole_number("num_samples", num_samples), whole_number("chunk", chunk)
    warmup = finite("warmup", warmup, at_least=0, below=1, why="a share of the steps")
    num_steps = num_samples // kernel.num_chains
    num_discarded = max(1, round(warmup * num_steps))  # the start included
    num_kept = num_steps - num_discarded
    if num_kept < 1:
        raise ValueError(
            f"num_samples = {num_samples}, num_chains = {num_chains} and warmup = {warmup} make "
            f"{num_steps} steps of each chain, of which {num_discarded} are discarded: no step is "
            "left to keep, expected num_samples of at least 2 num_chains / (1 - warmup)"
        )
    warmup_steps = num_discarded - 1
    mcmc = MCMC(kernel, num_samples=num_kept, warmup_steps=warmup_steps, disable_progbar=True)
    mcmc.run(prompts)
    chains = mcmc.get_samples()["response"]  # [S, C, N, T]
    response = chains.flatten(0, 1)
    parts = [log_likelihood_at(model, prompts, part) for part in response.split(chunk)]
    log_likelihood = torch.cat(parts)
    diagnostics = {**kernel.diagnostics(), **mixing(log_likelihood.view(chains.shape[:-1]))}
    chain = torch.arange(len(response), device=response.device) % kernel.num_chains
    chain = chain[:, None].expand(response.shape[:-1])
    return Posterior(response, torch.zeros_like(log_likelihood), None, diagnostics, chain)


def mixing(values: Tensor) -> dict[str, Tensor]:
    """Split R-hat and effective sample size of `values` `[S, C, N]` at S steps of C chains.

    Gelman et al. 2013, "Bayesian data analysis", 11.4-11.5.

    Returns:
        `r_hat` `[N]`, 1 if the chains agree, above 1.1 if they disagree; `effective_sample_size`
        `[N]`, out of S C. Both are NaN for fewer than `FEWEST_STEPS`, or for values that never
        vary, such as the log likelihood of a hard constraint alone.
    """
    if check_numbers("values", values).dim() != 3:
        expected = "[S, C, N]: S steps of C chains for each of N prompts"
        raise ValueError(f"values has shape {tuple(values.shape)}, expected {expected}")
    r_hat, size = values.new_full((2, values.shape[-1]), torch.nan)
    # one prompt at a time: the NaN of a constant would reach the others
    for prompt, chains in enumerate(values.permute(2, 1, 0)):  # [C, S]
        if chains.shape[1] >= FEWEST_STEPS:
            r_hat[prompt] = split_gelman_rubin(chains)
            size[prompt] = effective_sample_size(chains)
    return {"r_hat": r_hat, "effective_sample_size": size}
