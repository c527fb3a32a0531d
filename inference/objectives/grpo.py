"""GRPO and its relatives: advantages within the group of responses to a prompt, and a KL penalty.

    A_k    = (s_k - mean s) / std s          std scaling; without, s_k - mean s
    loss   = -1/K sum_k sum_t  min(rho_t A_k, clip(rho_t) A_k) - c k(log q_t/p0_t)     KL as a loss
    s_k    = log likelihood,   or   log likelihood - c sum_t k(log a_t/p0_t)           KL in reward
    rho_t  = q_t/a_t,   a the guide as it drew the batch

GRPO (Shao et al. 2024, arXiv 2402.03300) has std scaling and the estimator k3 as a loss; Dr. GRPO
(Liu et al. 2025, arXiv 2503.20783) has neither std scaling nor a division by length; DAPO (Yu et
al. 2025, arXiv 2503.14476) clips further above than below, averages over all tokens, and as
published has c = 0; REINFORCE++ (Hu et al. 2025, arXiv 2501.03262) has mean and std of all prompts
together, and the KL in the reward. GDPO (Liu et al. 2026, arXiv 2601.05242) scales each reward by
its own std, and their sum by that of all prompts. GSPO, CISPO, SAPO, GMPO, DPPO and TOPR have other
terms than the minimum, by name in `parts/surrogates.py`. The baselines `length` and `greedy` are
those of OPO (Hao et al. 2025, arXiv 2505.23585) and of ReMax (Li et al. 2023, arXiv 2310.10505).
DAPO's dynamic sampling, which draws again where all rewards of a group are equal, changes which
prompts a step has: such a group has no advantage.

The posterior is the target if k1 is in the reward, with any scale: all log-weights of a prompt are
one number there. The other targets are in `inference.targets.fixed_points`, by `TARGETS`, with
rewards in nats and c for beta:

| choice | target |
|---|---|
| `kl="reward"`, `estimator="k1"` | `posterior`, the model's own if c = 1 |
| `scale="std"`, k3 as a loss (GRPO) | `grpo-token-k3`; with `average="response"`, `grpo-mean-k3` |
| `scale="each"`, k3 as a loss (GDPO) | `gdpo` |
| `scale="none"`, k3 as a loss (Dr. GRPO) | `token-forward-kl` |
| k2 or k3+ as a loss, with and without scaling | `grpo-token-kl`, `token-reverse-kl` |
| c = 0 (DAPO) | none: the limit is the best response |
| k1 as a loss | none: k1 has the mean gradient 0, and the guide collapses |

`top_entropy_quantile` holds the conditionals of the other prefixes as they are, but for a KL in the
loss, which draws them to the prior. With k1 in the reward the posterior stays a fixed point, with
gradient 0 on every sample, and is not the only one: a wrong token of low entropy is not mended. The
targets of a KL in the loss are no fixed points then.

The targets are for large groups. Groups of K have the targets with `group_size=K`: the response is
one of few rewards in the deviation, and its own share in the mean multiplies c by K/(K - 1).
"""

from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor

from inference.kl_estimators import KL_ESTIMATORS
from inference.objectives.leave_one_out import BASELINE, leave_one_out
from inference.objectives.parts.engine import Engine
from inference.objectives.parts.repeated_batch import RepeatedBatchObjective
from inference.objectives.parts.response_objective import Losses
from inference.objectives.parts.states import part_of, with_prefix
from inference.objectives.parts.surrogates import SURROGATES, Gain, Surrogate, Tokens, surrogate_of
from inference.programs import Joint, Program, autoregressive
from model import Prompts, ResponseDistribution
from model.common.checks import as_given, finite, function, instance, one_of, positive
from model.common.texts import quoted

Scale = Literal["std", "batch", "none", "each"]
Baseline = Literal["mean", "leave-one-out", "length", "greedy", "batch"]
Place = Literal["loss", "reward"]
Average = Literal["none", "response", "batch"]

EPSILON = 1e-4  # added to the standard deviation of a group's rewards, nats, as trainers do
GREEDY = 1e-6
"""Temperature of the greedy response. Equal logits, common in half precision, draw at random."""
FACTOR = "factor/"  # prefix of rewards and factors among the tensors of a batch
CLIP = 0.2  # PPO's limit of the ratio of a token


class GRPO(RepeatedBatchObjective):
    """Group-relative policy optimisation, its choices as data. Refuses hard constraints.

        objective = GRPO(num_particles=16, kl_weight=0.04)
        fit(model, guide, prompts, num_steps=100, objective=objective)

    Args:
        num_particles: K, number of responses in the group of a prompt, at least 2.
        scale: `std` to divide advantages by the standard deviation of their group, `batch` by that
            of all prompts; or `none`. `each` divides the advantages by each reward and factor of
            the model by their own deviation in the group, then the sum by that of all prompts:
            neither beta nor the size of a reward then matters.
        weights: weights of the scaled rewards and factors by name with `each`; None for 1.
        baseline: mean of the group, with or without the response itself, or weighed by `length`;
            the signal of the guide's `greedy` response, one more draw; or mean of the `batch`, of
            all prompts. Where prompts differ in log Z, the latter is noise at the posterior.
            Both are refused with `std` and `each`: a group of equal signals has the deviation 0
            and, less `greedy` or the mean of the `batch`, advantages up to 10,000 times the nats.
        kl: place of the KL penalty: `loss`, differentiated, or `reward`.
        estimator: estimator of the KL of a token, by its name in `KL_ESTIMATORS`.
        kl_weight: c. The trainer's own beta next to scaled advantages, which have no unit; 1 next
            to advantages in nats, which the model has divided by beta. 0 for no penalty.
        average: `none` to add the losses of tokens; `response` to divide the sum by the length of
            the response; or `batch`, by the mean length over all responses of the step.
        ratio: weight q/a of a token in several steps on a batch, by its name in `SURROGATES`; or a
            function of tokens and limits, such as `partial(soft, temperatures=(1.0, 1.2))`, of
            which `clip` and `dual_clip` are refused as for its name.
        clip: limit, or two, below and above, of a number by the name of `ratio`, in the column
            "limits of" of `surrogates.py`; None for no clip. Without limits of `ratio`, the default
            has no effect, and another clip is refused.
        dual_clip: ratio, of the response for `response` and `geometric`, from which an advantage
            below 0 has no gradient, since the clip does not bound its weight (Ye et al. 2019,
            arXiv 1912.09729); None for no limit. Refused if the gain is not a ratio times A.
        off_policy_mask: mean of log a/q over the tokens of a response, nats, from which an
            advantage below 0 has no gradient (DeepSeek-V3.2, arXiv 2512.02556); None for no limit.
        top_entropy_quantile: share of the tokens of a step, those before which q has the highest
            entropy, whose advantage has a gradient (Wang et al. 2025, arXiv 2506.01939, 0.2); 1 for
            all tokens. The KL in the loss is of all tokens. One more pass without gradient.
        epochs: number of steps on each batch.
        engine: other program that draws the batches, see `engine.py`; None for the guide. A token
            of an engine that the guide cannot draw has no penalty.
    """

    min_particles, why_particles = 2, BASELINE

    def __init__(
        self,
        num_particles: int = 64,
        *,
        scale: Scale = "std",
        weights: Mapping[str, float] | None = None,
        baseline: Baseline = "mean",
        kl: Place = "loss",
        estimator: str = "k3",
        kl_weight: float = 0.04,
        average: Average = "none",
        ratio: str | Gain = "token",
        clip: float | tuple[float, float] | None = CLIP,
        dual_clip: float | None = None,
        off_policy_mask: float | None = None,
        top_entropy_quantile: float = 1.0,
        epochs: int = 1,
        engine: Engine | None = None,
    ) -> None:
        super().__init__(num_particles, epochs, engine)
        self.scale = one_of("scale", scale, get_args(Scale))
        self.baseline = one_of("baseline", baseline, get_args(Baseline))
        if self.scale in ("std", "each") and self.baseline in ("batch", "greedy"):
            fix = "scale='batch' or 'none', or baseline='mean' or 'leave-one-out'"
            raise ValueError(
                f"scale={scale!r} divides what baseline={baseline!r} leaves of a group of equal "
                f"signals by their deviation, which is 0: expected {fix}"
            )
        self.kl = one_of("kl", kl, get_args(Place))
        if self.scale == "each" and self.kl == "reward":
            why = "the KL is no part of any one reward that is scaled by itself"
            raise ValueError(f"kl is 'reward' with scale='each', expected 'loss': {why}")
        if weights is not None and self.scale != "each":
            why = "elsewhere a weight is a factor of the reward itself"
            raise ValueError(f"weights are {weights}, expected scale='each': {why}")
        weights = {} if weights is None else weights
        each = instance("weights", weights, Mapping).items()  # type: ignore[type-abstract]
        self.weights = {name: finite(f"the weight of {name!r}", weight) for name, weight in each}
        self.estimator = one_of("estimator", estimator, KL_ESTIMATORS)
        self.kl_weight = finite("kl_weight", kl_weight, at_least=0)
        self.average = one_of("average", average, get_args(Average))
        self.ratio = ratio
        self.surrogate = _surrogate(ratio, clip, dual_clip)
        self.clip = None if clip is None else _limits(clip)
        self.dual_clip = None if dual_clip is None else finite("dual_clip", dual_clip, above=1)
        self.off_policy_mask = (
            None if off_policy_mask is None else finite("off_policy_mask", off_policy_mask, above=0)
        )
        share = finite("top_entropy_quantile", top_entropy_quantile, above=0, at_most=1)
        self.top_entropy_quantile = share

    def losses(self, model: Program, guide: Program, prompts: Prompts) -> Losses:
        batch, distribution = self.next_batch(model, guide, prompts)
        q = autoregressive(distribution)
        log_guide = q.log_prob_per_token(batch.response)  # [K, N, T], 0 at padding
        log_prior = batch.per_token["prior"]
        log_proposal = batch.per_token.setdefault("proposal", log_guide.detach().double())
        log_ratio = log_guide - log_proposal
        is_token = q.space.is_token(batch.response)
        signal = self._signal(batch.log_likelihood, log_proposal - log_prior)
        if self.baseline == "greedy" and "greedy" not in batch.per_token:
            batch.per_token["greedy"] = self._greedy_signal(model, batch.prompts, q)
        advantage = self._advantage(signal, is_token.sum(-1), batch.per_token)
        tokens = Tokens(log_ratio, log_proposal, advantage[..., None], is_token)
        gain = self.surrogate.gain(tokens, self.clip)
        objective = as_given("the gain of `ratio`", gain, log_ratio)
        if self.dual_clip is not None:
            least = self.dual_clip * tokens.advantage
            objective = torch.where(tokens.advantage < 0, objective.maximum(least), objective)
        if self.off_policy_mask is not None:
            is_stale = tokens.mean(-log_ratio.detach()) > self.off_policy_mask
            objective = objective.masked_fill(is_stale & (tokens.advantage < 0), 0.0)
        if self.top_entropy_quantile < 1:
            is_high = _is_high(q, batch.response, self.top_entropy_quantile)
            objective = objective.masked_fill(~is_high, 0.0)
        if self.kl == "loss" and self.kl_weight > 0:  # 0 times infinite is NaN
            change = (log_guide - log_prior).masked_fill(log_guide == -torch.inf, 0.0)
            objective = objective - self.kl_weight * self._penalty(change)
        total = objective.masked_fill(~is_token, 0.0).sum(-1)  # [K, N]
        if self.average != "none":
            length = is_token.sum(-1)
            total = total / (length if self.average == "response" else length.double().mean())
        loss = -total.mean(0).sum()
        log_guide = log_guide.sum(-1)
        log_weight = batch.log_joint - log_guide.detach()
        share = batch.log_ratio(log_guide.detach()).exp() / len(total)
        draws = (batch.response, log_guide, log_weight, batch.log_likelihood)
        return Losses(loss.detach(), loss, *draws, share)

    def score_batch(
        self, model: Program, prompts: Prompts, response: Tensor
    ) -> tuple[Joint, dict[str, Tensor]]:
        prior, log_likelihood, factors = self.read_factors(model, prompts, response)
        with torch.no_grad():
            log_prior = autoregressive(prior).log_prob_per_token(response).double()
        if unknown := sorted(self.weights.keys() - factors.keys()):
            names = f"names of rewards and factors, {sorted(factors)}"
            raise ValueError(f"weights has {unknown}, expected {names}")
        of_each = with_prefix(FACTOR, factors) if self.scale == "each" else {}
        return Joint(log_prior.sum(-1), log_likelihood), {"prior": log_prior} | of_each

    def _signal(self, log_likelihood: Tensor, log_ratio: Tensor) -> Tensor:
        """s, `[K, N]`, for log a/p0 of each token, `[K, N, T]`."""
        if self.kl == "loss":
            return log_likelihood
        return log_likelihood - self.kl_weight * self._penalty(log_ratio).sum(-1)

    @torch.no_grad()
    def _greedy_signal(self, model: Program, prompts: Prompts, q: ResponseDistribution) -> Tensor:
        """s of one response, the most likely token after each token, `[1, N]`."""
        response = q.at_temperature(GREEDY).sample(torch.Size([1]))
        joint, tokens = self.score_batch(model, prompts, response)
        log_guide = q.log_prob_per_token(response).double()
        return self._signal(joint.log_likelihood, log_guide - tokens["prior"])

    def _advantage(self, signal: Tensor, length: Tensor, parts: dict[str, Tensor]) -> Tensor:
        """Advantages, `[K, N]`, for lengths `[K, N]` and tensors of the batch by name."""
        if self.scale != "each":
            advantage = self._centred(signal, length, parts.get("greedy"))
        else:
            advantage = torch.zeros_like(signal)
            for name, factor in part_of(parts, FACTOR).items():
                scaled = self._centred(factor, length, None) / (factor.std(0) + EPSILON)
                advantage = advantage + self.weights.get(name, 1.0) * scaled
        if self.scale == "none":
            return advantage
        num = advantage.numel() - 1  # around 0: not all baselines leave the mean 0
        pooled = (advantage.square().sum() / num).sqrt()
        deviation = signal.std(0) if self.scale == "std" else pooled
        return advantage / (deviation + EPSILON)

    def _centred(self, signal: Tensor, length: Tensor, greedy: Tensor | None) -> Tensor:
        """The signal less the baseline, `[K, N]`."""
        if self.baseline == "leave-one-out":
            return leave_one_out(signal)
        if self.baseline == "length":
            return signal - (length * signal).sum(0) / length.sum(0)
        if greedy is not None:
            return signal - greedy
        return signal - (signal.mean(0) if self.baseline == "mean" else signal.mean())

    def _penalty(self, log_ratio: Tensor) -> Tensor:
        """Estimate of the KL of each token, `[K, N, T]`, nats, from log q/p0."""
        return KL_ESTIMATORS[self.estimator](log_ratio)


@torch.no_grad()
def _is_high(q: ResponseDistribution, response: Tensor, share: float) -> Tensor:
    """Mask of the share of all tokens, `[K, N, T]`, at which q has the highest entropy."""
    (entropy,) = q.in_chunks(_entropy, response)
    is_token = q.space.is_token(response)
    ordered = entropy.masked_fill(~is_token, -torch.inf).flatten().sort(descending=True).values
    last = (share * (is_token.sum().double() - 1)).long()  # as torch.quantile
    return is_token & (entropy >= ordered.gather(0, last[None]))


def _entropy(q: ResponseDistribution, response: Tensor) -> tuple[Tensor]:
    """Entropy of q given the tokens before each token of B responses, `[B, T]`, nats."""
    prob = q.next_token_logits(response).softmax(-1)
    return (torch.special.entr(prob).sum(-1),)


def _surrogate(ratio: str | Gain, clip: object, dual_clip: object) -> Surrogate:
    """Surrogate of a ratio, refused beside limits that would have no effect."""
    if isinstance(ratio, str):
        surrogate = SURROGATES[one_of("ratio", ratio, SURROGATES)]
    else:
        surrogate = surrogate_of(function("ratio", ratio, takes=2))
    if not surrogate.has_limits and clip not in (None, CLIP):
        why = f"ratio={quoted(ratio)} has no limits"
        raise ValueError(f"clip is {quoted(clip)}, expected None: {why}")
    if not surrogate.is_ratio and dual_clip is not None:
        ratios = ", ".join(name for name, each in SURROGATES.items() if each.is_ratio)
        why = f"ratio={quoted(ratio)} has no ratio to limit, and one of {ratios} has"
        raise ValueError(f"dual_clip is {dual_clip}, expected None: {why}")
    return surrogate


def _limits(clip: float | tuple[float, float]) -> tuple[float, float]:
    """Distances of the ratio from 1, below and above."""
    below, above = clip if isinstance(clip, tuple) else (clip, clip)
    why = "or two numbers, below and above 1; None for no clip"
    return positive("clip", below, why=why), positive("clip", above, why=why)
