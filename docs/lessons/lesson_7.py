import marimo

__generated_with = "0.25.2"
app = marimo.App(app_title="7. Samplers, and bounds on log Z from both sides")

with app.setup:
    import math

    import marimo as mo
    import pyro
    import torch
    from classroom import About, checked, curves, grammar_world, near, number, table

    from guides import FineTuned
    from inference import OBJECTIVES, SAMPLERS, fit, importance_sampling
    from inference.samplers.log_z_bounds import log_z_bounds


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    # 7. Samplers, and bounds on log Z

    **Claim.** The posterior can be sampled without training. Weights measure a sampler, but they
    are blind to responses that were not drawn. Two bounds that meet hold log Z between them:

        E[log Z_hat] <= log Z <= E[log Z_hat, given that one of the draws is an exact sample]

    With one draw the lower bound is the ELBO. All samplers here draw from a proposal, the prior or
    a guide, and weight the draws by w(x) = p0(x) exp(r(x) / beta) / q(x).
    """)
    return


@app.cell
def _():
    beta = 0.1  # a loud reward: KL(p* to p0) is 0.77 nats
    world = grammar_world()
    truth = world.truth(beta)
    log_z = truth.log_z[0].item()
    reward_all = world.reward(world.prompts, world.support)
    expected_reward = (truth.log_posterior.exp() * reward_all).sum().item()
    return beta, expected_reward, log_z, truth, world


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## Predict, then run: one table for all samplers

    The reward is at most 1, and that is all that rejection sampling knows. Which samplers are
    good with 512 draws? Which of them has another target? Which wastes nearly all draws?
    """)
    return


@app.cell
def _():
    num_samples = mo.ui.dropdown([32, 512, 4096], value=512, label="number of draws")
    mo.hstack([num_samples], justify="start")
    return (num_samples,)


@app.cell
def _(beta, expected_reward, log_z, num_samples, world):
    rows, seen = [], {"importance": 0.4566, "best-of-n": 0.4883}
    for name, sampler in SAMPLERS.items():
        pyro.set_rng_seed(0)
        try:
            sample = sampler(world.model(beta), world.prompts, num_samples=num_samples.value)
        except ValueError:  # nothing accepted
            rows.append([name, sampler.target, "", "nothing accepted", "", ""])
            continue
        mean = sample.mean(world.reward(world.prompts, sample.response))[0]
        estimate = "" if sample.log_z is None else sample.log_z[0]
        size = sample.effective_sample_size[0]
        expected = seen.get(name, "") if num_samples.value == 512 else ""
        rows.append([name, sampler.target, estimate, size, mean, expected])
    header = ["sampler", "target", "log Z", "effective sample size", "E[r]"]
    table(
        [*header, "expected output at 512 draws"],
        ["exact", "posterior", log_z, "", expected_reward, 0.4591],
        *rows,
    )
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    Importance sampling misses log Z by 0.09 nats with 512 draws. Best-of-n has another target.
    Rejection accepts 1 of 512: the bound on the reward is 1, and no common sentence has more than
    0.49. A loose bound costs draws, not correctness. `quasi-rejection` guesses a bound from draws.

    ## Predict, then run: two bounds

    With K draws of the prior, from 1 to 64. At K = 1, how far is the lower bound from log Z?
    """)
    return


@app.cell
def _(beta, log_z, truth, world):
    exact_sample = SAMPLERS["enumeration"](world.model(beta), world.prompts)
    num_draws = [1, 4, 16, 64]
    lower, upper = [], []
    for k in num_draws:
        pyro.set_rng_seed(0)
        retained = exact_sample.resample(20)
        both = log_z_bounds(
            world.model(beta), world.prompts, retained, num_samples=k, ess_threshold=0
        )
        lower.append(both.lower.value)
        upper.append(both.upper.value)
    kl_prior_posterior = (truth.log_prior.exp() * (truth.log_prior - truth.log_posterior)).sum()
    kl_posterior_prior = (truth.log_posterior.exp() * (truth.log_posterior - truth.log_prior)).sum()
    mo.vstack(
        [
            curves(
                num_draws,
                {"log Z": [log_z] * len(num_draws), "lower": lower, "upper": upper},
                xlabel="number of draws K",
                ylabel="nats",
                xscale="log",
                title="The bounds close around log Z",
            ),
            table(
                ["quantity, nats", "value", "expected output"],
                ["exact lower bound at K = 1", log_z - kl_prior_posterior, -0.1153],
                ["exact upper bound at K = 1", log_z + kl_posterior_prior, 4.5912],
                ["lower at K = 64, from 20 runs", lower[-1], 3.7504],
                ["upper at K = 64, from 20 runs", upper[-1], 3.8439],
            ),
        ]
    )
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    The gap of the two bounds at K = 1 is KL(p0 to p\*) + KL(p\* to p0). A small gap proves that the
    sampler is near the posterior, without the truth. (The upper bound needs one exact sample, by
    rejection or from a simulation.) The curves are means of 20 runs, so that they may cross log Z.

    ## Predict, then run: a guide as the proposal

    A guide is a proposal too. Take 64 draws of the prior, of a guide trained by KL(q to p\*), and
    of a guide trained by KL(p\* to q) (lesson 6), 60 steps each. The effective sample size is
    computed from the draws, and exactly: 64 / sum of p\*(x)^2 / q(x). Which of the three would
    you trust, by the draws alone? And by the exact number?
    """)
    return


@app.cell
def _(beta, log_z, truth, world):
    proposals = {"prior": FineTuned(world.prior)}
    for objective_name in ("leave-one-out", "forward-kl"):
        guide = proposals[objective_name] = FineTuned(world.prior)
        objective = OBJECTIVES[objective_name](num_particles=64)
        model = world.model(beta)
        fit(model, guide, world.prompts, num_steps=60, objective=objective, progress=False)
    sizes, exact_sizes, estimates, lost = {}, {}, {}, {}
    for proposal, guide in proposals.items():
        pyro.set_rng_seed(0)
        weighted = importance_sampling(
            world.model(beta), world.prompts, guide=guide, num_samples=64
        )
        sizes[proposal] = weighted.effective_sample_size[0]
        estimates[proposal] = weighted.log_z[0]
        log_guide = truth.log_guide(guide)
        exact_sizes[proposal] = 64 / (2 * truth.log_posterior - log_guide).exp().sum()
        missed = log_guide < truth.log_posterior - math.log(10)  # q below a tenth of p*
        lost[proposal] = truth.log_posterior.exp()[missed].sum()
    table(
        [
            "proposal",
            "log Z from 64 draws",
            "log Z",
            "effective size by the draws",
            "exact",
            "lost",
            "expected output",
        ],
        *(
            [
                proposal,
                estimates[proposal],
                log_z,
                sizes[proposal],
                exact_sizes[proposal],
                lost[proposal],
                About(share),
            ]
            for proposal, share in zip(proposals, (0.003, 0.18, 0.002), strict=True)
        ),
    )
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    By their draws both trained guides look good. The log Z of the first is 0.2 nats too low: it has
    lost 18% of the posterior (the column "lost": mass where q is below a tenth of p\*), and
    log(1 - 0.18) = -0.2. No draw can show what is never drawn. KL(p\* to q) kept that mass here.
    That is why `diagnose` draws from the prior and from the guide together, and why the upper bound
    needs an exact sample.
    """)
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## Exercise 1: the estimate of log Z

    Z is the mean of w under q. Write the estimate of log Z from the log weights of K draws.
    """)
    return


@app.function(hide_code=True)
def check_log_z(answer):
    log_weight = torch.tensor([0.0, 1.0, 2.0, 5.0]).double()
    expected = log_weight.exp().mean().log()
    value = number(answer(log_weight))
    assert value > log_weight.mean(), "the mean of log w is the ELBO, a lower bound"
    assert near(value, expected), f"{value:.4f}, expected {expected:.4f}"
    large = number(answer(log_weight + 2000))
    assert near(large, expected + 2000), "no overflow: use logsumexp"


@app.cell
def _():
    log_z_hat = None  # write: def log_z_hat(log_weight): ...
    checked(log_z_hat, check_log_z)
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## Exercise 2: the price of a loose bound

    Rejection sampling draws x from the prior and accepts with probability exp((r(x) - M) / beta),
    where M bounds the reward. Write the share of accepted draws, from log Z, M and beta.
    """)
    return


@app.cell(hide_code=True)
def _(beta, log_z, truth):
    def check_acceptance(answer):
        for bound in (0.6, 1.0):
            log_acceptance = truth.log_likelihood[:, 0] - bound / beta
            share = (truth.log_prior[:, 0] + log_acceptance).exp().sum()
            value = number(answer(log_z, bound, beta))
            assert near(value, share), f"at M = {bound}: {value:.4f}, not {share:.4f}"

    return (check_acceptance,)


@app.cell
def _(check_acceptance):
    acceptance = None  # write: def acceptance(log_z, bound, beta): ...
    checked(acceptance, check_acceptance)
    return


if __name__ == "__main__":
    app.run()
