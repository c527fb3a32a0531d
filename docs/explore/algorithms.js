'use strict';

// ---- Algorithms: training and sampling on one posterior, with the exact answer beside. ----

const REWARD = DATA.rewards.sentiment;
const BUDGET = 19200; // responses of a run
const RATE = 0.08;
const LOWEST = 1e-5; // nats, the lower end of the chart
const COLOURS = ['guide', 'posterior', 'tractable', 'intractable', 'gold', 'sky', 'prior'];
const isSampler = (name) => name in SAMPLERS;

const bars = barTable(
  $('bars'),
  [
    { key: 'guide', title: 'algorithm' },
    { key: 'posterior', title: 'p<sup>∗</sup>' },
  ],
  { note: 'Probability of each response by the algorithm, and under the posterior' },
);

// -- runs --

let runs = [];
let run = null;

function problemOf({ beta, constant }) {
  const { logZ, log } = posteriorOf(DATA.logPrior, REWARD, beta);
  return {
    beta,
    reward: REWARD,
    constant: constant / beta,
    logJoint: DATA.logPrior.map((value, i) => value + REWARD[i] / beta),
    logPosterior: log,
    logZ,
    logBound: Math.max(...REWARD) / beta,
    meanReward: expectation(log, (i) => REWARD[i]),
    twist: new Map(),
  };
}

function titleOf(state) {
  if (!isSampler(state.algorithm)) return `${state.algorithm}, ${state.guide}`;
  return state.algorithm === 'twisted-smc' ? `smc, twist: ${state.twist}` : state.algorithm;
}

/** Begin a run of the algorithm of the state; the runs before stay on the chart. */
function begin() {
  const { state } = page;
  run = {
    title: titleOf(state),
    problem: problemOf(state),
    uniform: randomStream(state.seed),
    draws: 0,
    points: [],
    recent: [],
    colour: COLOURS[runs.length % COLOURS.length],
  };
  if (isSampler(state.algorithm)) Object.assign(run, { mass: [], twist: state.twist });
  else {
    run.fit = { step: 0, table: firstTable(state.guide), noise: [] };
    run.log = logGuide(state.guide, run.fit.table);
  }
  measure();
}

/** One step of the run. False if the budget is spent. */
function advance() {
  const { state } = page;
  if (run.draws + state.particles > BUDGET) return false;
  if (run.draws === 0) runs = [...runs, run].slice(-7);
  if (isSampler(state.algorithm)) SAMPLERS[state.algorithm](run, state.particles, run.uniform);
  else train(state);
  measure();
  return true;
}

function train(state) {
  const { fit, problem } = run;
  const sums = cumulative(run.log);
  const draws = Array.from({ length: state.particles }, () => drawIndex(sums, run.uniform()));
  const gradientOf = (objective) =>
    tableGradient(state.guide, fit.table, OBJECTIVES[objective](run.log, problem, draws));
  const exact = gradientOf('exact');
  const plain = gradientOf('trace');
  const leaveOneOut = gradientOf('leave-one-out');
  const distance = (gradient) => gradient.reduce((sum, v, j) => sum + (v - exact[j]) ** 2, 0);
  fit.noise.push([distance(plain), distance(leaveOneOut)]);
  const known = { exact, trace: plain, 'leave-one-out': leaveOneOut };
  const gradient = known[state.algorithm] ?? gradientOf(state.algorithm);
  run.elbo = meanAndError(draws.map((i) => problem.logJoint[i] - run.log[i]));
  run.rewardHat = meanAndError(draws.map((i) => REWARD[i]));
  adamStep(fit, gradient, RATE, BUDGET / state.particles);
  run.log = logGuide(state.guide, fit.table);
  run.draws += state.particles;
  run.extra = ['step', String(fit.step)];
}

/** The distribution of the run, its KL from the posterior, and a point on the chart. */
function measure() {
  const { problem } = run;
  if (run.mass) {
    const total = run.mass.reduce((sum, value) => sum + (value ?? 0), 0);
    run.log = DATA.responses.map((_, i) => Math.log((run.mass[i] ?? 0) / total));
    run.kl = total > 0 ? kl(run.log, problem.logPosterior) : NaN;
    run.meanReward = total > 0 ? expectation(run.log, (i) => REWARD[i]) : NaN;
  } else {
    run.kl = kl(run.log, problem.logPosterior);
    run.meanReward = expectation(run.log, (i) => REWARD[i]);
  }
  const last = run.points[run.points.length - 1];
  if (run.draws > 0 && Number.isFinite(run.kl) && (!last || run.draws >= 1.02 * last[0]))
    run.points.push([run.draws, Math.max(run.kl, LOWEST)]);
}

function numbers() {
  const { problem, fit } = run;
  const values = {
    draws: run.draws,
    logZ: problem.logZ,
    reward: problem.meanReward,
    klPosterior: run.kl,
    log: run.log,
  };
  const [logZ, error] = fit ? (run.elbo ?? [NaN, NaN]) : [run.logZ ?? NaN, run.logZError ?? NaN];
  Object.assign(values, { logZEstimate: logZ, logZError: error, rewardEstimate: run.meanReward });
  if (fit?.noise.length) {
    const recent = fit.noise.slice(-40);
    const root = (side) =>
      Math.sqrt(recent.reduce((sum, pair) => sum + pair[side], 0) / recent.length);
    values.noisePlain = root(0);
    values.noiseLeaveOneOut = root(1);
  }
  return values;
}

// -- drawing --

function render(state) {
  if (!run) begin();
  const values = numbers();
  const isTraining = !isSampler(state.algorithm);
  const pm = (value, error) =>
    Number.isNaN(value) ? '–' : Number.isNaN(error) ? fixed(value) : `${fixed(value)} ± ${fixed(error)}`;
  showNumbers({
    ...values,
    draws: run.draws.toLocaleString('en'),
    logZHat: pm(values.logZEstimate, values.logZError),
    rewardHat: fixed(values.rewardEstimate),
    noiseRatio: values.noisePlain ? fixed(values.noisePlain / values.noiseLeaveOneOut, 1) : '–',
    noisePlain: values.noisePlain ?? NaN,
    noiseLeaveOneOut: values.noiseLeaveOneOut ?? NaN,
  });
  const visible = { train: isTraining, smc: state.algorithm === 'twisted-smc' };
  visible.list = !isTraining && !visible.smc;
  for (const [kind, isVisible] of Object.entries(visible))
    for (const node of document.querySelectorAll(`.if-${kind}`)) node.hidden = !isVisible;
  $('estimate-name').textContent = isTraining ? 'Guide' : 'Weighted draws';
  $('estimate-legend').textContent = isTraining ? 'guide q, exact' : 'share of the weighted draws';
  $('extra-name').textContent = run.extra?.[0] ?? '';
  $('extra-value').textContent = run.extra?.[1] ?? '';
  $('play').textContent = page.playing ? 'Pause' : run.draws ? 'Go on' : 'Run';
  $('play').disabled = run.draws + state.particles > BUDGET;
  bars.draw({ guide: run.log, posterior: run.problem.logPosterior });
  if (isTraining) drawNoise(values);
  drawCurves();
  if (visible.list) drawRecent();
  if (visible.smc && run.cloud) drawCloud();
}

function drawNoise({ noisePlain, noiseLeaveOneOut }) {
  const place = (value) => Math.min(1, Math.max(0, (Math.log10(value) + 4) / 6)); // 1e-4 to 100
  for (const [id, value] of [['plain', noisePlain], ['loo', noiseLeaveOneOut]])
    $(`noise-${id}-bar`).style.transform = `scaleX(${value ? place(value) : 0})`;
}

function drawCurves() {
  const lowest = Math.min(0.05, ...runs.flatMap((one) => one.points.map(([, y]) => y)));
  const low = Math.max(LOWEST, 10 ** Math.floor(Math.log10(lowest)));
  drawChart($('curves'), {
    x: { range: [4, BUDGET * 1.1], log: true, label: 'responses drawn' },
    y: { range: [low, 20], log: true, label: 'KL(q ‖ p∗), nats' },
    label: `KL from the posterior by responses drawn: ${runs.map((one) => `${one.title} ${fixed(one.kl, 4)}`).join('; ')}`,
    marks: [
      ...runs.map((one) => ({ line: one.points, class: `s-${one.colour}` })),
      ...runs.flatMap((one) =>
        one.points.slice(-1).map((dot) => ({ dot, r: 5, class: `f-${one.colour}` })),
      ),
    ],
  });
  $('runs').replaceChildren(
    ...runs.map((one) =>
      element(
        'li',
        {},
        element('span', { class: `swatch ${one.colour}` }),
        `${one.title}: ${fixed(one.kl, 4)} nats`,
      ),
    ),
  );
}

function drawRecent() {
  $('recent').replaceChildren(
    ...run.recent.map(({ text, tag, share }) =>
      element('li', { style: `--share:${(100 * share).toFixed(0)}%` }, element('span', {}, text), element('small', {}, tag)),
    ),
  );
}

/** Generations of particles as columns of dots, with lines to the parents. */
function drawCloud() {
  const svg = $('cloud');
  const { generations } = run.cloud;
  const [width, height] = [svg.clientWidth || 480, svg.clientHeight || 400];
  const shown = Math.min(64, generations[0].particles.length);
  const x = (t) => 16 + (t * (width - 16 - 70)) / (generations.length - 1);
  const y = (k) => 14 + (k * (height - 28)) / Math.max(1, shown - 1);
  const alive = generations.map(() => new Set());
  const lastAlive = alive[alive.length - 1];
  run.cloud.last.forEach((_, k) => lastAlive.add(k));
  for (let t = generations.length - 1; t > 0; t--)
    for (const k of alive[t]) alive[t - 1].add(generations[t].parents[k]);
  const [lines, dots, words] = [[], [], []];
  generations.forEach(({ particles, parents, share }, t) => {
    const order = Array.from({ length: shown }, (_, k) => k);
    order.sort((a, b) => alive[t].has(b) - alive[t].has(a));
    const taken = []; // heights of words, which must not overlap
    for (const k of order) {
      const faint = alive[t].has(k) ? '' : 'faint';
      if (t > 0 && parents[k] < shown)
        lines.push(`<path d="M${x(t - 1)} ${y(parents[k])}L${x(t)} ${y(k)}" class="descent ${faint}"/>`);
      const radius = Math.min(11, 1 + (12 / Math.sqrt(shown)) * Math.sqrt(share[k] * particles.length));
      dots.push(`<circle cx="${x(t)}" cy="${y(k)}" r="${radius}" class="f-guide ${faint}"/>`);
      const word = particles[k].words[t];
      if (word === undefined || taken.some((height) => Math.abs(height - y(k)) < 13)) continue;
      taken.push(y(k));
      const text = word === END ? 'end' : DATA.words[word];
      words.push(`<text x="${x(t) + 13}" y="${y(k) + 4}" class="word ${faint}">${text}</text>`);
    }
  });
  const parts = [...lines, ...dots, ...words];
  svg.setAttribute('role', 'img');
  svg.setAttribute('aria-label', `${shown} particles in ${generations.length} generations; ${run.cloud.numRoots} first words alive`);
  svg.innerHTML = parts.join('');
}

function describe() {
  const values = numbers();
  return (
    `${run.title}: ${values.draws} responses, KL from the posterior ${fixed(values.klPosterior, 4)} nats, ` +
    `log Z ${fixed(values.logZ, 2)}, estimate ${fixed(values.logZEstimate, 2)}.`
  );
}

$('clear').addEventListener('click', () => {
  runs = [];
  set('seed', page.state.seed + 1);
});

/** Another choice begins a new run, which goes on by itself if the last did. */
page.onChange = begin;
page.onReset = () => {
  runs = [];
  begin();
  play(false);
};

definePage({
  defaults: {
    algorithm: 'leave-one-out',
    guide: 'tabular',
    twist: 'likelihood',
    particles: 64,
    beta: 0.3,
    constant: 0,
    seed: 1,
  },
  render,
  numbers,
  describe,
  check: exactDifferences,
  advance,
});
