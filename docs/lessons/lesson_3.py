import marimo

__generated_with = "0.25.2"
app = marimo.App(app_title="3. The ELBO is the objective of RLHF")

with app.setup:
    import marimo as mo
    import torch
    from classroom import bars, checked, curves, grammar_world, near, number, table

    from guides import FineTuned
    from inference import LeaveOneOut_ELBO, diagnose, fit


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    # 3. The ELBO is the objective of RLHF

    **Claim.** RLHF maximises expected reward minus beta times KL(q || p0), where q is the model
    in training. Variational inference maximises the ELBO, a lower bound on log Z. The first is
    beta times the second, for every q, exactly and not by analogy.

        ELBO(q) = E_q[log p0(x)] + E_q[r(x)] / beta + entropy of q      (1) model and guide
                = E_q[r(x)] / beta - KL(q || p0)                        (2) RLHF, over beta
                = log Z - KL(q || p*)                                   (3) distance to p*

    Line (2) can be estimated from draws of q. Line (3) says what for: the maximum is at q = p\*,
    and the value there is log Z.
    """)
    return


@app.cell
def _():
    beta = 0.3
    world = grammar_world()
    texts = world.texts
    truth = world.truth(beta)
    log_z = truth.log_z[0].item()
    log_prior, log_posterior = truth.log_prior[:, 0], truth.log_posterior[:, 0]
    reward = beta * truth.log_likelihood[:, 0]
    return beta, log_posterior, log_prior, log_z, reward, texts, truth, world


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## Predict, then run: training

    The guide q starts as a copy of the prior. Then the ELBO is E_p0[r] / beta, and log Z minus
    the ELBO is KL(p0 || p\*). Train for 60 steps of 64 draws each, by REINFORCE with a baseline
    (lesson 4). Sketch the ELBO over the steps before you run. Can the curve cross log Z?
    """)
    return


@app.cell
def _(beta, truth, world):
    guide = FineTuned(world.prior)
    log_guides = [truth.log_guide(guide)[:, 0]]  # log q of all responses, after each step

    result = fit(
        world.model(beta),
        guide,
        world.prompts,
        num_steps=60,
        objective=LeaveOneOut_ELBO(64),
        on_step=lambda metrics: log_guides.append(truth.log_guide(guide)[:, 0]),
        progress=False,
    )
    return guide, log_guides, result


@app.cell
def _(log_guides, log_z, result, truth):
    exact = [
        (log_guide.exp() * (truth.log_joint[:, 0] - log_guide)).sum().item()
        for log_guide in log_guides
    ]
    estimates = [metrics["elbo"] for metrics in result.metrics]
    mo.vstack(
        [
            curves(
                range(60),
                {"estimate from 64 draws": estimates, "log Z": [log_z] * 60, "ELBO": exact[:60]},
                xlabel="step",
                ylabel="nats",
                title="The ELBO climbs to log Z; the difference is KL(q || p*)",
            ),
            table(
                ["quantity, nats", "value", "expected output"],
                ["log Z", log_z, 0.8409],
                ["ELBO at the start", exact[0], -0.0384],
                ["ELBO at the end", exact[-1], 0.8169],
            ),
        ]
    )
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    The exact ELBO never crosses log Z. The estimate from 64 draws does, as any estimate with
    noise may: a negative KL in a report is noise, not an error.

    ## Three lines, one number

    Move through the training. The terms change, and the three sums stay equal.
    """)
    return


@app.cell
def _():
    step = mo.ui.slider(0, 60, value=20, label="step of the training", show_value=True)
    mo.hstack([step], justify="start")
    return (step,)


@app.cell
def _(beta, log_guides, log_posterior, log_prior, log_z, reward, step, texts):
    log_guide = log_guides[step.value]
    q = log_guide.exp()
    fit_to_reward = (q * reward).sum() / beta
    kl_prior = (q * (log_guide - log_prior)).sum()
    kl_posterior = (q * (log_guide - log_posterior)).sum()
    first = (q * log_prior).sum() + fit_to_reward - torch.xlogy(q, q).sum()
    mo.vstack(
        [
            table(
                ["line", "terms", "sum, nats"],
                ["(1) model and guide", "log p0 + r / beta + entropy", first],
                [
                    "(2) RLHF, over beta",
                    f"{fit_to_reward:.4f} - {kl_prior:.4f}",
                    fit_to_reward - kl_prior,
                ],
                ["(3) distance", f"{log_z:.4f} - {kl_posterior:.4f}", log_z - kl_posterior],
                ["RLHF: E[r] - beta KL", "beta times (2)", beta * (fit_to_reward - kl_prior)],
            ),
            bars(
                texts,
                {"prior": log_prior.exp(), "guide": q, "posterior": log_posterior.exp()},
                f"Prior, guide and posterior after {step.value} steps",
            ),
        ]
    )
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## Without the truth

    For a large language model no sum over all responses exists. `diagnose` estimates the same
    numbers from draws of prior and guide, with standard errors.
    """)
    return


@app.cell
def _(beta, guide, truth, world):
    estimate = diagnose(world.model(beta), guide, world.prompts, num_samples=512)
    rows = [
        ("ELBO", estimate.elbo, truth.elbo(guide)[0]),
        ("log Z", estimate.log_z, truth.log_z[0]),
        ("KL(q || p*)", estimate.kl_guide_posterior, truth.kl_guide_posterior(guide)[0]),
        ("KL(p* || q)", estimate.kl_posterior_guide, truth.kl_posterior_guide(guide)[0]),
    ]
    table(
        ["quantity, nats", "estimate", "standard error", "exact"],
        *([name, value.value, value.standard_error, exactly] for name, value, exactly in rows),
    )
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## Exercise 1: the objective of RLHF

    Write expected reward minus beta times KL(q || p0), from log q and log p0 of all responses,
    their rewards, and beta. The assert compares the value with beta times the ELBO.
    """)
    return


@app.cell(hide_code=True)
def _(beta, log_guides, log_prior, reward, truth):
    def check_objective(answer):
        for log_guide in (log_guides[0], log_guides[20], truth.log_posterior[:, 0]):
            elbo = (log_guide.exp() * (truth.log_joint[:, 0] - log_guide)).sum()
            value = number(answer(log_guide, log_prior, reward, beta))
            assert near(value, beta * elbo), f"{value:.4f}, expected {beta * elbo:.4f}"

    return (check_objective,)


@app.cell
def _(check_objective):
    rlhf_objective = None  # write: def rlhf_objective(log_guide, log_prior, reward, beta): ...
    checked(rlhf_objective, check_objective)
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## Exercise 2: the best value

    Which value has the objective of RLHF at its maximum over all q? Write the value as a function
    of log p0, the rewards and beta, without training anything.
    """)
    return


@app.cell(hide_code=True)
def _(log_prior, reward):
    def check_maximum(answer):
        for some_beta in (0.1, 0.3, 3.0):
            log_p = (log_prior + reward / some_beta).log_softmax(0)
            best = (log_p.exp() * (reward - some_beta * (log_p - log_prior))).sum()
            value = number(answer(log_prior, reward, some_beta))
            hint = "put q = p* into line (3)"
            assert near(value, best), f"{value:.4f}, expected {best:.4f}: {hint}"

    return (check_maximum,)


@app.cell
def _(check_maximum):
    best_value = None  # write: def best_value(log_prior, reward, beta): ...
    checked(best_value, check_maximum)
    return


if __name__ == "__main__":
    app.run()
