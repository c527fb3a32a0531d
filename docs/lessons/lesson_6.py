import marimo

__generated_with = "0.25.2"
app = marimo.App(app_title="6. The other direction: GDC and wake-sleep")

with app.setup:
    import marimo as mo
    import torch
    from classroom import About, bars, checked, grammar_world, near, number, numbers, table, two_kls

    from guides import FineTuned
    from inference import OBJECTIVES, Enumeration, FDivergence, fit, log_guide_at, match_moments
    from model import AlignmentModel, Pattern, TextReward


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    # 6. The other direction

    **Claim.** The two directions of the KL have one optimum in a rich family, q = p\*, and two in a
    poor one. KL(q || p\*), of RLHF, prefers a mode. KL(p\* || q), of GDC and of wake-sleep, covers
    the posterior, and costs mass where the posterior has none.

        KL(q || p*) = E_q[log q - log p*]     mean under the guide: draws of q are enough
        KL(p* || q) = E_p*[log p* - log q]    mean under the posterior: draws of q are weighted

    The second is maximum likelihood, with the posterior in the place of the data.
    """)
    return


@app.cell
def _():
    beta = 0.3
    world = grammar_world()
    truth = world.truth(beta)
    posterior = truth.log_posterior.exp()
    return beta, posterior, truth, world


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## Predict, then run: the best mean field, twice

    The guide of independent words cannot be p\*. Fitted by KL(q || p\*) it said "good" and little
    else (lesson 5). Fitted by the other direction, on which responses does it put mass?
    """)
    return


@app.cell
def _(beta, posterior, truth, world):
    def cover(guide, num_steps=300):
        """Minimise KL(p* || q) by the exact gradient."""
        optimiser = torch.optim.Adam(guide.parameters(), lr=0.3)
        for _ in range(num_steps):
            log_guide = log_guide_at(guide, truth.prompts, truth.support)
            optimiser.zero_grad()
            (-(posterior * log_guide).sum()).backward()
            optimiser.step()
        return guide

    by_mode = world.best_guide("mean-field", beta)
    by_cover = cover(world.new_guide("mean-field"))
    mo.vstack(
        [
            table(
                ["best mean field by", "has", "nats", "expected output"],
                ["KL(q || p*)", "KL(q || p*)", two_kls(truth, by_mode)[0], 0.7149],
                ["KL(q || p*)", "KL(p* || q)", two_kls(truth, by_mode)[1], About(11.8)],
                ["KL(p* || q)", "KL(q || p*)", two_kls(truth, by_cover)[0], 4.8347],
                ["KL(p* || q)", "KL(p* || q)", two_kls(truth, by_cover)[1], 1.2159],
            ),
            bars(
                world.texts,
                {
                    "posterior": posterior,
                    "best by KL(q || p*)": truth.log_guide(by_mode).exp(),
                    "best by KL(p* || q)": truth.log_guide(by_cover).exp(),
                },
                "One direction takes a mode, the other covers and spills",
            ),
        ]
    )
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    The bar "all others" shows the price: the covering guide says "good good" and other responses
    that nobody says.

    ## Distributional control: half of the responses say "not"

    GDC (generation with distributional control) asks for a mean, not for a reward: the nearest
    distribution to the prior under which half of the responses have the word "not". It is an
    exponential tilt, p0(x) exp(lambda not(x)) / Z, so again a posterior. `match_moments` finds
    lambda. Predict lambda: the prior share is 0.25 (exercise 2 of lesson 2 has the formula).
    """)
    return


@app.cell
def _():
    share = mo.ui.slider(
        0.1, 0.9, step=0.1, value=0.5, label="share of responses with 'not'", show_value=True
    )
    mo.hstack([share], justify="start")
    return (share,)


@app.cell
def _(share, world):
    says_not = TextReward(Pattern(r"\bnot\b"), world.prior)
    base = AlignmentModel(world.prior, {}, 1.0)
    match = match_moments(base, world.prompts, {"not": says_not}, {"not": share.value})
    control = AlignmentModel(world.prior, {}, 1.0, factors={"not": match.factor})
    controlled = Enumeration(control, world.prompts)
    tuned = FineTuned(world.prior)
    fit(
        control,
        tuned,
        world.prompts,
        num_steps=60,
        objective=FDivergence("forward-kl", 64),
        progress=False,
    )
    has_not = says_not(world.prompts, world.support)
    table(
        ["quantity", "value", "expected output"],
        ["lambda, nats", match.multipliers["not"], 1.0979 if share.value == 0.5 else ""],
        ["exact share", (controlled.log_posterior.exp() * has_not).sum(), share.value],
        ["share of the guide", (controlled.log_guide(tuned).exp() * has_not).sum(), share.value],
        ["KL(p* || q), nats", controlled.kl_posterior_guide(tuned)[0], ""],
    )
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## Predict, then run: wake-sleep

    Pyro's `ReweightedWakeSleep` weights draws of the guide by p0 exp(r / beta) / q: its wake-phi
    phase is a step on KL(p\* || q). The library's `forward-kl` is that with a moving average of
    log Z. The sleep phase fits the guide to draws of the model that come with the observation: here
    rejection sampling (lesson 7), then maximum likelihood on the accepted texts.
    With a rich guide, a copy of the prior, does the direction matter?
    """)
    return


@app.cell
def _(beta, truth, world):
    rows, seen = [], {"leave-one-out": 0.039, "forward-kl": 0.024, "reweighted-wake-sleep": 0.029}
    for name in seen:
        guide = FineTuned(world.prior)
        objective = OBJECTIVES[name](num_particles=64)
        fit(
            world.model(beta),
            guide,
            world.prompts,
            num_steps=60,
            objective=objective,
            progress=False,
        )
        hard = "supports" if OBJECTIVES[name].supports_hard_constraints else "refuses"
        forward, reverse = reversed(two_kls(truth, guide))
        rows.append([name, hard, forward, reverse, About(seen[name])])
    header = ["objective", "hard constraints", "KL(p* || q)", "KL(q || p*)", "expected output"]
    table(header, *rows)
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    With a rich guide both directions approach p\*. Which is nearer after 60 steps depends on the
    draws: another seed gives another order.

    The second column is the other reason to know both. Where a response is forbidden, KL(q || p\*)
    is infinite as long as the guide can say it, and KL(p\* || q) is finite. Of the three
    objectives here, `forward-kl` is implemented for that case.

    ## Exercise 1: the best independent guide

    Two words a and b have the joint table `p[a, b]`. Among all q(a) q(b), which minimises
    KL(p || q)? Write the function that returns the table q, without any optimiser.
    """)
    return


@app.function(hide_code=True)
def check_product(answer):
    p = torch.tensor([[0.40, 0.05, 0.05], [0.0, 0.20, 0.30]]).double()
    q = numbers(answer(p))
    assert near(q.sum(1), p.sum(1)), "q(a) is the marginal of p"
    assert near(q.sum(0), p.sum(0)), "q(b) is the marginal of p"
    assert torch.linalg.matrix_rank(q) == 1, "q is a product"


@app.cell
def _():
    best_product = None  # write: def best_product(p): ...
    checked(best_product, check_product)
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## Exercise 2: a mean under the posterior from draws of the guide

    Estimate E_p\*[f] from draws of q: you have log w = log p0 + r / beta - log q and f of each
    draw, and no log Z. Write the self-normalised estimate.
    """)
    return


@app.function(hide_code=True)
def check_mean(answer):
    log_weight, values = torch.tensor([0.0, 0.0, 2.0]), torch.tensor([1.0, 2.0, 6.0])
    value = number(answer(log_weight, values))
    assert near(number(answer(log_weight + 100, values)), value), (
        "log Z is unknown: a constant added to all log weights cancels"
    )
    expected = (3 + 6 * torch.e**2) / (2 + torch.e**2)
    assert near(value, expected), f"{value:.4f}, not {expected:.4f}"


@app.cell
def _():
    posterior_mean = None  # write: def posterior_mean(log_weight, values): ...
    checked(posterior_mean, check_mean)
    return


if __name__ == "__main__":
    app.run()
