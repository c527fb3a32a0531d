'use strict';

// ---- Posterior: bars of p0 and p*, exact numbers, and the reward-KL frontier. ----

const LOG_PRIOR = DATA.logPrior;
const NOT_GOOD = TEXTS.indexOf('not good');
const NOT_BAD = TEXTS.indexOf('not bad');
const bars = barTable(
  $('bars'),
  [
    { key: 'prior', title: 'p<sub>0</sub>', narrow: 'narrow' },
    { key: 'posterior', title: 'p<sup>∗</sup>' },
  ],
  { reward: true, note: 'Probability of each response under prior and posterior' },
);
for (const node of document.querySelectorAll('[data-text]'))
  node.textContent = { prompt: DATA.prompt, count: DATA.responses.length }[node.dataset.text];

/** KL(p* || p0) and E[r] of the posteriors of many beta, for each reward. */
const FRONTIERS = Object.fromEntries(
  Object.entries(DATA.rewards).map(([name, reward]) => {
    const points = [];
    for (let i = 0; i <= 120; i++) {
      const { log } = posteriorOf(LOG_PRIOR, reward, 30 * (0.004 / 30) ** (i / 120));
      points.push([kl(log, LOG_PRIOR), expectation(log, (j) => reward[j])]);
    }
    return [name, points];
  }),
);

/** Probability, and log-odds, of a reward of 1. */
function success(log, reward) {
  const p = expectation(log, (i) => reward[i]);
  const failure = expectation(log, (i) => 1 - reward[i]);
  return [p, Math.log(p) - Math.log(failure)];
}

function numbers({ beta, reward: name }) {
  const reward = DATA.rewards[name];
  const { logZ, log } = posteriorOf(LOG_PRIOR, reward, beta);
  const [p, odds] = success(log, reward);
  const [priorP, priorOdds] = success(LOG_PRIOR, reward);
  return {
    logZ,
    log,
    meanReward: expectation(log, (i) => reward[i]),
    priorReward: expectation(LOG_PRIOR, (i) => reward[i]),
    klPosteriorPrior: kl(log, LOG_PRIOR),
    entropy: entropy(log),
    priorEntropy: entropy(LOG_PRIOR),
    success: p,
    priorSuccess: priorP,
    odds,
    priorOdds,
    shift: odds - priorOdds,
    inverseBeta: 1 / beta,
    ratio: Math.exp(log[NOT_GOOD] - log[NOT_BAD]),
    priorRatio: Math.exp(LOG_PRIOR[NOT_GOOD] - LOG_PRIOR[NOT_BAD]),
  };
}

function render(state) {
  const reward = DATA.rewards[state.reward];
  const values = numbers(state);
  showNumbers(values);
  for (const row of document.querySelectorAll('.if-binary'))
    row.hidden = state.reward !== 'says-not';
  bars.draw({ prior: LOG_PRIOR, posterior: values.log }, { log: state.log, rewards: reward });
  drawFrontier(state, values);
  $('play').textContent = page.playing ? 'Stop' : 'Lower β';
}

function drawFrontier({ beta, reward: name }, values) {
  const points = FRONTIERS[name];
  const at = [values.klPosteriorPrior, values.meanReward];
  const width = [1.2, 2.5, 6, 12, 25].find((limit) => at[0] < 0.85 * limit) ?? 25;
  const seen = points.filter(([x]) => x <= width * 1.05);
  const lowest = values.priorReward;
  const highest = Math.max(...seen.map(([, y]) => y), at[1]);
  const margin = 0.08 * (highest - lowest);
  const ends = [0, width];
  drawChart($('frontier'), {
    x: { range: [0, width], label: 'KL(q ‖ p₀), nats' },
    y: { range: [lowest - margin, highest + 3 * margin], label: 'E[r], reward', decimals: 1 },
    label:
      `Reward against KL. The posterior of beta ${beta} has a KL of ${fixed(at[0], 2)} nats ` +
      `and a reward of ${fixed(at[1], 2)}.`,
    marks: [
      { line: ends.map((x) => [x, at[1] + beta * (x - at[0])]), thin: true, class: 's-text' },
      { line: points, class: 's-posterior' },
      { dot: [0, values.priorReward], class: 'f-prior', text: 'p₀', below: true },
      { dot: at, class: 'f-posterior', text: `p∗, β = ${short(beta)}`, below: true, r: 8 },
    ],
  });
}

function describe({ beta }) {
  const values = numbers(page.state);
  return (
    `beta ${beta}: log Z ${fixed(values.logZ, 2)}, reward ${fixed(values.meanReward, 2)}, ` +
    `KL ${fixed(values.klPosteriorPrior, 2)} nats, most likely: ${TEXTS[mode(values.log)]}.`
  );
}

const mode = (log) => log.indexOf(Math.max(...log));

// -- lower beta from the largest value to the smallest, one step a frame --

const LOWEST = 0.002;

/** After the lowest beta, the next step is the highest. */
function advance() {
  const { beta } = page.state;
  set('beta', beta <= LOWEST ? 10 : Math.max(LOWEST, short(beta * 0.98)));
  return page.state.beta > LOWEST;
}
page.onReset = () => play(false);

definePage({
  defaults: { beta: 0.3, reward: 'sentiment', log: false },
  render,
  numbers,
  describe,
  check: exactDifferences,
  advance,
});
