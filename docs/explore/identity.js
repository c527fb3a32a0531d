'use strict';

// ---- Identity: a guide by dragging, and the ELBO as three sums. ----

const LOG_PRIOR = DATA.logPrior;
const REWARD = DATA.rewards.sentiment;
const BEST = REWARD.indexOf(Math.max(...REWARD));
const LEAST = 1e-12; // a dragged bar of 0

const bars = barTable(
  $('bars'),
  [
    { key: 'prior', title: 'p<sub>0</sub>', narrow: 'narrow' },
    { key: 'guide', title: 'q' },
    { key: 'posterior', title: 'p<sup>∗</sup>', narrow: 'narrow' },
  ],
  { note: 'Probability of each response under prior, guide and posterior' },
);

/** log of the distribution of the best of n draws: p0 (F^n - F-^n)/(F - F-). */
function bestOfN(logPrior, reward, n) {
  const order = reward.map((_, i) => i).sort((a, b) => reward[a] - reward[b]);
  const log = new Array(reward.length);
  let below = 0;
  for (let start = 0; start < order.length; ) {
    let end = start;
    let mass = 0;
    while (end < order.length && reward[order[end]] === reward[order[start]])
      mass += Math.exp(logPrior[order[end++]]);
    const upTo = below + mass;
    // (b^n - a^n)/(b - a) = sum of a^k b^(n-1-k), without cancellation
    let ratio = 0;
    for (let k = 0; k < n; k++) ratio += below ** k * upTo ** (n - 1 - k);
    for (; start < end; start++) log[order[start]] = logPrior[order[start]] + Math.log(ratio);
    below = upTo;
  }
  return logSoftmax(log);
}

/** log q of the families, before a bar is dragged. */
const FAMILIES = {
  between: ({ strength, beta }) =>
    logSoftmax(LOG_PRIOR.map((value, i) => value + (strength * REWARD[i]) / beta)),
  'best-of-n': ({ n }) => bestOfN(LOG_PRIOR, REWARD, n),
  filtered: () => logSoftmax(LOG_PRIOR.map((value, i) => (REWARD[i] > 0 ? value : -Infinity))),
  uniform: () => LOG_PRIOR.map(() => -Math.log(LOG_PRIOR.length)),
  point: () => LOG_PRIOR.map((_, i) => (i === BEST ? 0 : -Infinity)),
};

/** log q of the state: a family, with the masses of dragged bars in place of the family's. */
function guideOf(state) {
  const log = FAMILIES[state.family](state);
  if (!state.bars) return log;
  const masses = state.bars.split('_').map(Number);
  const total = masses.reduce((sum, mass) => sum + mass, 0);
  const dragged = [...log];
  bars.groups.forEach((group, number) => {
    const before = logSumExp(group.map((i) => log[i]));
    const share = before === -Infinity ? logSumExp(group.map((i) => LOG_PRIOR[i])) : before;
    const source = before === -Infinity ? LOG_PRIOR : log;
    const mass = Math.log(Math.max(masses[number] / total, 0));
    for (const i of group) dragged[i] = source[i] - share + mass;
  });
  return dragged;
}

function numbers(state) {
  const { beta } = state;
  const log = guideOf(state);
  const { logZ, log: logPosterior } = posteriorOf(LOG_PRIOR, REWARD, beta);
  const reward = expectation(log, (i) => REWARD[i]) / beta;
  const klPrior = kl(log, LOG_PRIOR);
  const klPosterior = kl(log, logPosterior);
  const energy = expectation(log, (i) => LOG_PRIOR[i] + REWARD[i] / beta);
  const terms = { logZ, klPosterior, reward, klPrior, energy, entropy: entropy(log) };
  const sums = [logZ - klPosterior, reward - klPrior, energy + terms.entropy];
  return { log, logPosterior, ...terms, sums, elbo: sums[1] };
}

/** Estimates from draws of q, each [mean, standard error], nats. */
function estimates(state, log) {
  const uniform = randomStream(state.seed);
  const sums = cumulative(log);
  const draws = Array.from({ length: state.draws }, () => drawIndex(sums, uniform()));
  const of = (f) => meanAndError(draws.map(f));
  return {
    rewardHat: of((i) => REWARD[i] / state.beta),
    klPriorHat: of((i) => log[i] - LOG_PRIOR[i]),
    entropyHat: of((i) => -log[i]),
    elboHat: of((i) => LOG_PRIOR[i] + REWARD[i] / state.beta - log[i]),
  };
}

function render(state) {
  const values = numbers(state);
  const factor = state['times-beta'] ? state.beta : 1;
  const shown = { unit: state['times-beta'] ? 'units of reward' : 'nats' };
  for (const name of ['logZ', 'klPosterior', 'reward', 'klPrior', 'entropy', 'elbo'])
    shown[name] = factor * values[name];
  for (const [name, [mean, error]] of Object.entries(estimates(state, values.log)))
    shown[name] = `${fixed(factor * mean)} ± ${fixed(factor * error)}`;
  const gap = Math.max(...values.sums) - Math.min(...values.sums);
  shown.gap = gap === 0 ? '0' : gap.toExponential(0).replace('-', '−');
  showNumbers(shown);
  for (const kind of ['between', 'best-of-n'])
    for (const node of document.querySelectorAll(`.if-${kind}`)) node.hidden = state.family !== kind;
  for (const node of document.querySelectorAll('.if-beta')) node.hidden = !state['times-beta'];
  for (const node of document.querySelectorAll('.if-nats')) node.hidden = state['times-beta'];
  const distributions = { prior: LOG_PRIOR, guide: values.log, posterior: values.logPosterior };
  bars.draw(distributions, { frozen: dragging });
  showSliders(values.log);
  drawStrips(values, factor);
}

// -- the three sums as boxes: the first term from 0, the second from there to the ELBO --

const ROWS = [
  [['logZ', 1, 'log Z'], ['klPosterior', -1, 'KL(q ‖ p∗)'], 'intractable'],
  [['reward', 1, 'E[r]/β'], ['klPrior', -1, 'KL(q ‖ p₀)'], 'tractable'],
  [['energy', 1, 'E[log p₀ + r/β]'], ['entropy', 1, 'H(q)'], 'tractable'],
];
const LIMITS = [0.5, 1, 2, 4, 8, 16, 32, 64, 128, 1024];
const limitOf = (value) => LIMITS.find((limit) => value <= limit * 0.98) ?? value * 1.1;

/** A text inside a box from a to b, after it, or before it; undefined where the text is too long. */
function labelOf(text, a, b, width, sign) {
  const length = 8.2 * text.length;
  if (sign > 0 && b - a > length) return [text, a + 8, 'inside'];
  if (b + length <= width) return [text, b + 8, 'after'];
  if (a > length) return [text, a - 8, 'before'];
}

function drawStrips(values, factor) {
  const ends = ROWS.flatMap(([[first]]) => [factor * values[first], factor * values.elbo, 0]);
  const low = Math.min(...ends) < 0 ? -limitOf(-Math.min(...ends)) : 0;
  const high = limitOf(Math.max(...ends));
  const width = $('strip-0').clientWidth || 480;
  const margin = 6;
  const to = (v) => margin + ((v - low) / (high - low)) * (width - 2 * margin);
  const elbo = to(factor * values.elbo);
  ROWS.forEach(([first, second, kind], number) => {
    const middle = factor * values[first[0]];
    const boxes = [
      [0, middle, first, 4],
      [middle, factor * values.elbo, second, 32],
    ];
    const lines = [`<path d="M${to(0)} 0V62" class="axis-line"/>`];
    const texts = [];
    for (const [from, until, [name, sign, title], top] of boxes) {
      const [a, b] = [Math.min(to(from), to(until)), Math.max(to(from), to(until))];
      const value = `${sign < 0 ? '− ' : ''}${fixed(factor * values[name], 2)}`;
      const full = sign < 0 ? value.replace(' ', ` ${title} `) : `${title} ${value}`;
      const [text, x, place] = labelOf(full, a, b, width, sign) ??
        labelOf(value, a, b, width, sign) ?? [value, a + 8, 'over'];
      lines.push(
        `<rect x="${a}" y="${top}" width="${Math.max(1.5, b - a)}" height="24" rx="3" class="f-${kind} ${sign < 0 ? `minus s-${kind}` : ''}"/>`,
      );
      const anchor = place === 'before' ? 'end' : 'start';
      texts.push(`<text x="${x}" y="${top + 17}" text-anchor="${anchor}" class="${place}">${text}</text>`);
    }
    lines.push(`<path d="M${elbo} 0V62" class="elbo-line"/>`);
    const strip = $(`strip-${number}`);
    strip.innerHTML = [...lines, ...texts].join('');
    strip.setAttribute('role', 'img');
    strip.setAttribute(
      'aria-label',
      `ELBO ${fixed(factor * values.elbo, 2)}: ${first[2]} ${fixed(middle, 2)}, ` +
        `${second[2]} ${fixed(factor * values[second[0]], 2)}`,
    );
  });
  const axis = ticks(low, high, 6).map((v) => {
    const anchor = to(v) < 20 ? 'start' : to(v) > width - 20 ? 'end' : 'middle';
    return `<text x="${to(v)}" y="14" text-anchor="${anchor}">${fixed(v, v % 1 ? 1 : 0)}</text>`;
  });
  const anchor = elbo < 60 ? 'start' : elbo > width - 60 ? 'end' : 'middle';
  axis.push(
    `<text x="${elbo}" y="34" text-anchor="${anchor}" class="strong">ELBO ${fixed(factor * values.elbo, 3)}</text>`,
  );
  $('strip-axis').innerHTML = axis.join('');
}

// -- bars as sliders: by pointer and by keyboard --

let dragging = false;

bars.rows.forEach((row, number) => {
  const { track } = row;
  track.removeAttribute('aria-hidden');
  const attributes = { role: 'slider', tabindex: '0', 'aria-valuemin': '0', 'aria-valuemax': '100' };
  for (const [name, value] of Object.entries(attributes)) track.setAttribute(name, value);
  track.setAttribute('aria-label', `q of: ${row.heading.textContent}`);
  const follow = (event) => {
    const box = row.fills[0].parentElement.getBoundingClientRect();
    drag(number, ((event.clientX - box.left) / box.width) * bars.scale());
  };
  track.addEventListener('pointerdown', (event) => {
    dragging = true;
    track.setPointerCapture(event.pointerId);
    follow(event);
  });
  track.addEventListener('pointermove', (event) => dragging && follow(event));
  for (const name of ['pointerup', 'pointercancel', 'lostpointercapture'])
    track.addEventListener(name, () => {
      dragging = false;
      schedule();
    });
  track.addEventListener('keydown', (event) => {
    const masses = groupMasses(guideOf(page.state));
    const step = event.shiftKey ? 0.1 : 0.01;
    const moves = { ArrowRight: step, ArrowUp: step, ArrowLeft: -step, ArrowDown: -step, Home: -1, End: 1 };
    if (!(event.key in moves)) return;
    event.preventDefault();
    drag(number, masses[number] + moves[event.key]);
  });
});

const groupMasses = (log) =>
  bars.groups.map((group) => group.reduce((sum, i) => sum + Math.exp(log[i]), 0));

/** Give one bar a mass; the others keep their ratios and share the rest. */
function drag(number, mass) {
  const masses = groupMasses(guideOf(page.state));
  const target = Math.min(1 - LEAST, Math.max(0, mass));
  const others = 1 - masses[number];
  const next = masses.map((value, i) => {
    if (i === number) return target;
    return others > LEAST ? (value * (1 - target)) / others : (1 - target) / (masses.length - 1);
  });
  set('bars', next.map((value) => Number(value.toPrecision(5))).join('_'));
}

function showSliders(log) {
  const masses = groupMasses(log);
  bars.rows.forEach(({ track }, number) => {
    track.setAttribute('aria-valuenow', (100 * masses[number]).toFixed(1));
    track.setAttribute('aria-valuetext', percent(masses[number]));
  });
}

/** A choice of family takes the place of dragged bars. */
page.onChange = (name) => {
  if (['family', 'strength', 'n'].includes(name)) page.state.bars = '';
};
$('again').addEventListener('click', () => set('seed', page.state.seed + 1));

function describe(state) {
  const values = numbers(state);
  return (
    `ELBO ${fixed(values.elbo, 2)} nats: log Z ${fixed(values.logZ, 2)} less KL from the posterior ` +
    `${fixed(values.klPosterior, 2)}; reward over beta ${fixed(values.reward, 2)} less KL from the ` +
    `prior ${fixed(values.klPrior, 2)}.`
  );
}

definePage({
  defaults: {
    family: 'between',
    strength: 0.4,
    n: 4,
    beta: 0.3,
    'times-beta': false,
    draws: 64,
    seed: 1,
    bars: '',
  },
  render,
  numbers,
  describe,
  check: exactDifferences,
});
