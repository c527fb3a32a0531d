import marimo

__generated_with = "0.25.2"
app = marimo.App(app_title="4. Gradients: REINFORCE, baselines, and no noise at the posterior")

with app.setup:
    import marimo as mo
    import pyro
    import pyro.distributions as dist
    import torch
    from classroom import About, checked, curves, grammar_world, near, number, numbers, table
    from pyro.infer import Trace_ELBO, TraceEnum_ELBO, config_enumerate

    from inference import LeaveOneOut_ELBO


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    # 4. Gradients

    **Claim.** REINFORCE and RLOO are two estimators of one gradient. A baseline changes the noise
    and leaves the mean. With the leave-one-out baseline the noise vanishes at the posterior, on
    every single batch; without a baseline it does not.

        w(x)      = p0(x) exp(r(x) / beta) / q(x)
        grad ELBO = E_q[(log w(x) - b) grad log q(x)]      if b does not depend on x

    Any such b will do, as E_q[grad log q] is the gradient of the sum of q, which is 1: a control
    variate. REINFORCE has b = 0. RLOO has, for each draw, the mean of log w over the other draws.
    Both are score-function gradients. A reparameterised gradient needs draws that move smoothly
    with the parameters, as those of a normal distribution do; words do not.
    """)
    return


@app.cell
def _():
    beta = 0.3
    world = grammar_world()
    log_prior = world.truth(beta).log_prior[:, 0]
    reward = beta * world.truth(beta).log_likelihood[:, 0]
    return beta, log_prior, reward


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## The program in plain Pyro

    Nothing but Pyro: a response is its number, from 0 to 819, and the guide has a free
    logit for each. The guide stands on a path: position 0 is the prior, position 1 the posterior.
    A constant added to the reward changes no posterior.
    """)
    return


@app.cell
def _():
    position = mo.ui.slider(0, 1, step=0.1, value=0, label="position of the guide", show_value=True)
    constant = mo.ui.dropdown([0.0, 1.0, 10.0], value=0.0, label="constant added to the reward")
    mo.hstack([position, constant], justify="start")
    return constant, position


@app.cell
def _(beta, constant, log_prior, position, reward):
    def model():
        number = pyro.sample("response", dist.Categorical(logits=log_prior))
        pyro.factor("reward", (reward[number] + constant.value) / beta)

    def guide_at(place):
        """Guide of free logits that starts at this position of the path."""

        def guide():
            start = log_prior + place * reward / beta
            logits = pyro.param("logits", start.clone())
            pyro.sample("response", dist.Categorical(logits=logits))

        return guide

    guide = guide_at(position.value)
    return guide, guide_at, model


@app.cell
def _(model):
    def gradient(objective, guide):
        """One estimate of the gradient of the ELBO in the logits, `[820]`."""
        with pyro.get_param_store().scope():
            objective.loss_and_grads(model, guide)
            return -pyro.param("logits").grad

    def exact_gradient(guide):
        """The gradient with the response summed out by Pyro, without draws."""
        return gradient(TraceEnum_ELBO(max_plate_nesting=0), config_enumerate(guide))

    plain = Trace_ELBO(num_particles=16, vectorize_particles=True, max_plate_nesting=0)
    leave_one_out = LeaveOneOut_ELBO(16, max_plate_nesting=0)

    def noise(objective, guide, num_estimates=200):
        """Distance of the mean estimate from the exact gradient, and standard deviation."""
        pyro.set_rng_seed(0)
        estimates = torch.stack([gradient(objective, guide) for _ in range(num_estimates)])
        bias = (estimates.mean(0) - exact_gradient(guide)).norm().item()
        return bias, estimates.var(0).sum().sqrt().item()

    return exact_gradient, leave_one_out, noise, plain


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## Predict, then run: the same mean

    `TraceEnum_ELBO` sums the response out: the exact gradient. `Trace_ELBO` is REINFORCE, here
    with 16 draws, `LeaveOneOut_ELBO` is RLOO. At the prior and with constant 0, which has less
    noise, and by how much? Then choose the constant 10 and predict again.
    """)
    return


@app.cell
def _(exact_gradient, guide, leave_one_out, noise, plain):
    table(
        ["estimator", "error of the mean of 200", "standard deviation of one"],
        ["Trace_ELBO, 16 draws", *noise(plain, guide)],
        ["LeaveOneOut_ELBO, 16 draws", *noise(leave_one_out, guide)],
        ["norm of the exact gradient", exact_gradient(guide).norm(), ""],
    )
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    Expected output, standard deviation of one estimate:

    | position | constant | `Trace_ELBO` | `LeaveOneOut_ELBO` |
    |---|---|---|---|
    | 0 | 0 | 0.324 | 0.334 |
    | 0 | 10 | 7.737 | 0.334 |
    | 1 | 0 | 0.178 | 0.000 |

    Neither has a bias: the mean of 200 misses by noise alone, the standard deviation of one over
    the root of 200. At the prior with constant 0 the baseline does not help: the ELBO there is
    -0.04, and a baseline close to 0 subtracts nothing. With the constant 10 each log w is 33 nats
    larger. REINFORCE pays for each of these nats, RLOO subtracts them.

    ## Predict, then run: towards the posterior

    As the guide moves to the posterior, the gradient goes to 0. Does the noise? Sketch both curves.
    """)
    return


@app.cell
def _(guide_at, leave_one_out, noise, plain):
    places = [k / 10 for k in range(11)]
    deviation = {
        name: [noise(objective, guide_at(place), 60)[1] for place in places]
        for name, objective in (("Trace_ELBO", plain), ("LeaveOneOut_ELBO", leave_one_out))
    }
    curves(
        places,
        deviation,
        xlabel="position: 0 the prior, 1 the posterior",
        ylabel="standard deviation",
        title="At the posterior only the leave-one-out gradient has no noise",
    )
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    At q = p\* every weight is the same number: w(x) = p0 exp(r / beta) / p\* = Z. Its logarithm
    minus the mean over the other draws is log Z - log Z = 0, whatever was drawn. Without a
    baseline, log Z remains as a factor of grad log q. The variance of one draw is then
    (log Z)^2 tr F, where F is the Fisher information of q. For free logits tr F = 1 - sum of
    p\*(x)^2, here 0.694. At constant 0 the standard deviation of 16 draws is therefore
    0.841 sqrt(0.694 / 16) = 0.175, and about 0.178 was measured. A network has another F, and the
    rest holds as it stands.
    """)
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## Exercise 1: leave one out

    Write the factor of grad log q(x_k) for each of K draws: log w_k minus the mean of the
    *other* K - 1 log weights. The assert also enumerates all pairs of draws, so a bias shows.
    """)
    return


@app.function(hide_code=True)
def check_baseline(answer):
    factor = answer(torch.tensor([1.0, 2.0, 6.0]))
    assert near(factor, [-3.0, -1.5, 4.5]), "leave out k itself"
    constant_weights = answer(torch.full((5,), 0.84))
    assert near(constant_weights, torch.zeros(5), atol=1e-6), "no noise at p*"
    q, log_w = torch.tensor([0.2, 0.8]), torch.tensor([3.0, 1.0])  # two responses, K = 2
    score = torch.eye(2) - q  # row x has grad log q(x)
    mean = sum(
        q[i] * q[j] * (numbers(answer(log_w[[i, j]]))[:, None] * score[[i, j]]).mean(0)
        for i in range(2)
        for j in range(2)
    )
    exact = ((q * log_w)[:, None] * score).sum(0)
    assert near(mean, exact), "the estimator has a bias"


@app.cell
def _():
    leave_one_out_factor = None  # write: def leave_one_out_factor(log_weight): ...
    checked(leave_one_out_factor, check_baseline)
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## Exercise 2: the price of a constant

    Add a constant c to the reward and leave out the baseline. Write the standard deviation, at
    the posterior, of the mean of K draws of REINFORCE, from log Z (without c), c, beta, K, tr F.
    """)
    return


@app.function(hide_code=True)
def check_price(answer):
    for log_of_z, c, some_beta, num_draws in [(0.8, 0.0, 0.3, 1), (0.8, 3.0, 0.3, 16)]:
        expected = abs(log_of_z + c / some_beta) * (0.7 / num_draws) ** 0.5
        value = number(answer(log_of_z, c, some_beta, num_draws, 0.7))
        assert near(value, expected), f"{value:.3f}, expected {expected:.3f}"
    assert abs(number(answer(1.0, -0.3, 0.3, 1, 0.7))) < 1e-6, "some constant removes all noise"


@app.cell
def _():
    price = None  # write: def price(log_z, c, beta, num_draws, trace_of_fisher): ...
    checked(price, check_price)
    return


@app.cell(hide_code=True)
def _():
    mo.md(r"""
    ## Exercise 3: a factor of your own, graded by the exact gap

    A factor of grad log q(x_k) need not be unbiased. Each takes 200 steps of Adam with 16 draws,
    from the prior, in 10 runs; then both distances are exact sums. At p\* the gradients of the four
    of the table are 0, one in the mean alone. Predict their order. Then write a factor: the log
    weights of K draws in, K numbers out. The assert wants both distances below those of REINFORCE.
    Whose factor is nearest, by more than two standard errors? Is it at `rate=0.02`?
    """)
    return


@app.cell
def _(beta, log_prior, reward):
    def grade(factor, rate=0.1, num_steps=200, num_draws=16, num_runs=10):
        """KL(q || p*) and KL(p* || q) after training, 0.001 nats, and their standard errors."""
        pyro.set_rng_seed(0)
        log_joint = log_prior + reward / beta
        log_posterior = log_joint.log_softmax(0)
        logits = log_prior.repeat(num_runs, 1).requires_grad_()
        adam = torch.optim.Adam([logits], lr=rate)
        schedule = torch.optim.lr_scheduler.LinearLR(adam, 1, 0.05, num_steps)
        for _ in range(num_steps):
            log_q = logits.log_softmax(1)
            draws = torch.multinomial(log_q.detach().exp(), num_draws, replacement=True)
            log_guide = log_q.gather(1, draws)
            log_weight = (log_joint[draws] - log_guide).detach()
            factors = [numbers(factor(row)) for row in log_weight]
            assert all(each.shape == (num_draws,) for each in factors), "one number for each draw"
            adam.zero_grad()
            (-torch.stack(factors) * log_guide).mean(1).sum().backward()
            adam.step()
            schedule.step()
        log_q = logits.detach().log_softmax(1)
        pairs = (log_q, log_posterior), (log_posterior, log_q)
        kls = 1000 * torch.stack([(one.exp() * (one - other)).sum(1) for one, other in pairs])
        return kls.mean(1), kls.std(1) / num_runs**0.5

    return (grade,)


@app.cell(hide_code=True)
def _(grade):
    def check_own(answer):
        plain, own = (grade(each)[0] for each in (lambda log_weight: log_weight, answer))
        assert (own < plain).all(), f"KLs {own.tolist()}, REINFORCE {plain.tolist()}"

    return (check_own,)


@app.cell
def _(check_own):
    own_factor = None  # write: def own_factor(log_weight): ...
    checked(own_factor, check_own)
    return (own_factor,)


@app.cell
def _(grade, own_factor):
    factors = {
        "log w: REINFORCE": lambda log_w: log_w,
        "log w - its mean": lambda log_w: log_w - log_w.mean(),
        "the same over its deviation": lambda log_w: (log_w - log_w.mean()) / (log_w.std() + 1e-6),
        "w over its sum - 1/K": lambda log_w: log_w.softmax(0) - 1 / len(log_w),
        **({"your own": own_factor} if own_factor else {}),
    }
    rows, seen = [], {"log w: REINFORCE": About(7.8), "your own": ""}
    for name, factor in factors.items():
        (reverse, forward), (error, _) = grade(factor)
        rows.append([name, forward, error, reverse, seen.get(name, About(2.1))])
    header = ["factor", "KL(p* || q)", "standard error of the next", "KL(q || p*), 0.001 nats"]
    table([*header, "expected output"], *rows)
    return


if __name__ == "__main__":
    app.run()
