'use strict';

// ---- Wrong target or bad guide: a learned proxy, the targets of trainers, and small guides. ----

const LOG_PRIOR = DATA.logPrior;
const GOLD = DATA.rewards.gold;
const FEATURES = DATA.features.map((digits) => [...digits].map(Number));

/** Rewards of all responses under each draw of the learned reward, `[draws][responses]`. */
const DRAWS = Object.fromEntries(
  DATA.learned.map(({ preferences, weights }) => [
    preferences,
    weights.map((row) =>
      FEATURES.map((counts) => counts.reduce((sum, c, f) => sum + c * row[f], row[row.length - 1])),
    ),
  ]),
);

/** Mean and uncorrected standard deviation over draws, by number of preferences. */
const SUMMARY = Object.fromEntries(
  Object.entries(DRAWS).map(([size, draws]) => {
    const mean = GOLD.map((_, i) => draws.reduce((sum, row) => sum + row[i], 0) / draws.length);
    const sd = GOLD.map((_, i) =>
      Math.sqrt(draws.reduce((sum, row) => sum + (row[i] - mean[i]) ** 2, 0) / draws.length),
    );
    return [size, { mean, sd }];
  }),
);

/** One proxy reward from uncertain rewards, by the names of the library. */
const AGGREGATIONS = {
  'marginal-likelihood': (size, beta) =>
    GOLD.map((_, i) => {
      const draws = DRAWS[size];
      return beta * (logSumExp(draws.map((row) => row[i] / beta)) - Math.log(draws.length));
    }),
  mean: (size) => SUMMARY[size].mean,
  'lower-bound': (size) => SUMMARY[size].mean.map((value, i) => value - SUMMARY[size].sd[i]),
  minimum: (size) => GOLD.map((_, i) => Math.min(...DRAWS[size].map((row) => row[i]))),
};

const memory = new Map();

/** Value of a function, computed once for each key. */
function once(key, compute) {
  if (!memory.has(key)) memory.set(key, compute());
  return memory.get(key);
}

/** The proxy reward of a state with its levels. */
function proxyOf({ size, aggregation, beta }) {
  const own = aggregation === 'marginal-likelihood' ? ` ${beta}` : '';
  return once(`${size} ${aggregation}${own}`, () => {
    const reward = AGGREGATIONS[aggregation](size, beta);
    return { reward, levels: levelsOf(LOG_PRIOR, reward) };
  });
}

/** All responses of the highest reward, with the ratios of p0: the limit of a collapse. */
function collapsed(levels) {
  const top = levels.reward.length - 1;
  return logSoftmax(LOG_PRIOR.map((value, i) => (levels.of[i] === top ? value : -Infinity)));
}

const optionsOf = (state) => ({ beta: state.beta, n: state.n, threshold: 0 });

function guideOf(state, target) {
  if (state.guide === 'mean-field') return meanFieldOf(target, target);
  if (state.guide === 'rich') return target;
  const mixed = LOG_PRIOR.map((value, i) =>
    state.progress === 0 ? value : (1 - state.progress) * value + state.progress * target[i],
  );
  return logSoftmax(mixed);
}

const mean = (log, reward) => expectation(log, (i) => reward[i]);

function numbers(state) {
  const { reward, levels } = proxyOf(state);
  const reached = targetOf(state.target, LOG_PRIOR, levels, optionsOf(state));
  const target = reached ?? collapsed(levels);
  const log = guideOf(state, target);
  const goldPosterior = posteriorOf(LOG_PRIOR, GOLD, state.beta).log;
  const both = kl(log, goldPosterior);
  return {
    log,
    target,
    goldPosterior,
    hasFixedPoint: reached !== null,
    wrongTarget: kl(target, goldPosterior),
    badGuide: kl(log, target),
    both,
    lost: state.beta * both,
    gold: mean(log, GOLD),
    proxy: mean(log, reward),
    klPrior: kl(log, LOG_PRIOR),
  };
}

/** Points [KL, gold, proxy] of the targets of a trainer for all beta, or all n. */
function curveOf(state) {
  const own = state.aggregation === 'marginal-likelihood';
  const family = { grpo: 'posterior', 'grpo-k3': 'forward-kl' }[state.target] ?? state.target;
  return once(`curve ${state.size} ${state.aggregation} ${family}`, () => {
    const points = [];
    for (let s = 0; s <= 120; s++) {
      const beta = 20 * (0.03 / 20) ** (s / 120);
      const n = Math.round(1e4 ** (s / 120));
      const { reward, levels } = proxyOf(own ? { ...state, beta } : state);
      const log = targetOf(family, LOG_PRIOR, levels, { beta, n, threshold: 0 });
      points.push([kl(log, LOG_PRIOR), mean(log, GOLD), mean(log, reward)]);
    }
    return points;
  });
}

const goldFrontier = () =>
  once('gold frontier', () =>
    Array.from({ length: 61 }, (_, s) => {
      const { log } = posteriorOf(LOG_PRIOR, GOLD, 20 * (0.03 / 20) ** (s / 60));
      return [kl(log, LOG_PRIOR), mean(log, GOLD)];
    }),
  );

// -- drawing --

const bars = barTable(
  $('bars'),
  [
    { key: 'prior', title: 'p<sub>0</sub>', narrow: 'narrow' },
    { key: 'guide', title: 'q' },
    { key: 'gold', title: 'gold', narrow: 'narrow' },
  ],
  { note: 'Probability of each response under prior, guide and gold posterior' },
);

function render(state) {
  const values = numbers(state);
  const isBest = state.target === 'best-of-n';
  showNumbers({ ...values, knob: isBest ? 'n' : 'β' });
  const visible = { n: isBest, early: state.guide === 'early' };
  for (const [kind, isVisible] of Object.entries(visible))
    for (const node of document.querySelectorAll(`.if-${kind}`)) node.hidden = !isVisible;
  $('collapsed').hidden = values.hasFixedPoint;
  bars.draw({ prior: LOG_PRIOR, guide: values.log, gold: values.goldPosterior });
  drawErrors(values);
  drawCurves(state, values);
  drawRewards(state);
  drawTrainers(state, values);
}

function drawErrors({ wrongTarget, badGuide, both }) {
  const highest = Math.max(wrongTarget, badGuide, both);
  const full = [0.5, 1, 2, 5, 10, 20, 50, 100].find((limit) => highest <= limit) ?? highest;
  const sizes = { target: wrongTarget, guide: badGuide, both };
  for (const [name, value] of Object.entries(sizes))
    $(`error-${name}`).style.transform = `scaleX(${Math.min(1, value / full)})`;
}

function drawCurves(state, values) {
  const points = curveOf(state);
  const width = [6, 12, 25].find((limit) => values.klPrior < 0.8 * limit) ?? 25;
  const seen = points.filter(([x], s) => x <= width || points[s - 1]?.[0] <= width);
  const inside = seen.filter(([x]) => x <= width);
  const heights = inside.flatMap(([, gold, proxy]) => [gold, proxy]);
  const low = Math.min(-0.5, ...heights, values.gold);
  const high = Math.max(2, ...heights, values.proxy);
  const margin = 0.08 * (high - low);
  drawChart($('curves'), {
    x: { range: [0, width], label: 'KL(q ‖ p₀), nats' },
    y: { range: [low - margin, high + margin], label: 'reward, log-odds' },
    label:
      `At a KL of ${fixed(values.klPrior, 2)} nats the proxy reward is ${fixed(values.proxy, 2)} ` +
      `and the gold reward ${fixed(values.gold, 2)}.`,
    marks: [
      { line: goldFrontier(), thin: true, class: 's-gold' },
      { line: seen.map(([x, , proxy]) => [x, proxy]), class: 's-guide' },
      { line: seen.map(([x, gold]) => [x, gold]), class: 's-gold' },
      { dot: [values.klPrior, values.proxy], class: 'f-guide', text: `proxy ${fixed(values.proxy, 2)}` },
      { dot: [values.klPrior, values.gold], class: 'f-gold', text: `gold ${fixed(values.gold, 2)}`, below: true },
    ],
  });
}

/** Intervals of the learned reward, and the gold reward, of the responses that have a name. */
function drawRewards({ size }) {
  const svg = $('rewards');
  const { mean: centre, sd } = SUMMARY[size];
  const [width, height] = [svg.clientWidth || 480, svg.clientHeight || 440];
  const left = 130;
  const limit = Math.max(6, ...DATA.shown.map((i) => Math.abs(centre[i]) + 2 * sd[i]));
  const x = (value) => left + ((value + limit) / (2 * limit)) * (width - left - 12);
  const line = (height - 24) / DATA.shown.length;
  const parts = ticks(-limit, limit, 6).map(
    (v) =>
      `<path d="M${x(v)} 0V${height - 20}" class="grid-line"/>` +
      `<text x="${x(v)}" y="${height - 4}" text-anchor="middle">${fixed(v, 0)}</text>`,
  );
  DATA.shown.forEach((i, row) => {
    const y = line * (row + 0.5);
    parts.push(
      `<text x="0" y="${y + 4}" class="strong">${TEXTS[i]}</text>`,
      `<path d="M${x(centre[i] - 2 * sd[i])} ${y}H${x(centre[i] + 2 * sd[i])}" class="line s-guide"/>`,
      `<circle cx="${x(centre[i])}" cy="${y}" r="5" class="f-guide"/>`,
      `<path d="M${x(GOLD[i])} ${y - 7}l6 7l-6 7l-6 -7Z" class="f-gold dot"/>`,
    );
  });
  svg.setAttribute('role', 'img');
  svg.setAttribute(
    'aria-label',
    DATA.shown
      .map((i) => `${TEXTS[i]}: gold ${fixed(GOLD[i], 1)}, proxy ${fixed(centre[i], 1)} ± ${fixed(2 * sd[i], 1)}`)
      .join('; '),
  );
  svg.innerHTML = parts.join('');
}

/** Numbers of all trainers with a rich guide, computed once for each state. */
function trainersOf(state) {
  const key = `all ${state.size} ${state.aggregation} ${state.beta} ${state.n}`;
  return once(key, () => {
    const { reward, levels } = proxyOf(state);
    const goldPosterior = posteriorOf(LOG_PRIOR, GOLD, state.beta).log;
    const proxyPosterior = posteriorOf(LOG_PRIOR, reward, state.beta).log;
    return Object.keys(TARGETS).map((name) => {
      const log = targetOf(name, LOG_PRIOR, levels, optionsOf(state));
      if (!log) return [name, null];
      const distances = [LOG_PRIOR, goldPosterior, proxyPosterior].map((other) => kl(log, other));
      return [name, [mean(log, GOLD), mean(log, reward), ...distances]];
    });
  });
}

function drawTrainers(state) {
  const titles = Object.fromEntries([...$('target').options].map((o) => [o.value, o.textContent]));
  document.querySelector('#trainers tbody').replaceChildren(
    ...trainersOf(state).map(([name, values]) => {
      const title = name === 'best-of-n' ? `best of ${state.n}, distilled` : titles[name];
      const row = element('tr', name === state.target ? { class: 'chosen' } : {});
      row.append(element('th', { scope: 'row' }, title));
      if (!values) row.append(element('td', { colspan: '5', class: 'note' }, 'no fixed point: collapses'));
      else row.append(...values.map((value) => element('td', {}, fixed(value, 2))));
      return row;
    }),
  );
}

function describe(state) {
  const values = numbers(state);
  return (
    `Gold ${fixed(values.gold, 2)}, proxy ${fixed(values.proxy, 2)}. Wrong target ` +
    `${fixed(values.wrongTarget, 2)} nats, bad guide ${fixed(values.badGuide, 2)} nats.`
  );
}

/** Differences of log Z and of the mean gold reward from the library's, for learned rewards too. */
function check() {
  const learned = DATA.learned.flatMap(({ preferences, exact }) =>
    exact.flatMap(({ aggregation, beta, logZ, meanGold }) => {
      const reward = AGGREGATIONS[aggregation](preferences, beta);
      const posterior = posteriorOf(LOG_PRIOR, reward, beta);
      return [Math.abs(posterior.logZ - logZ), Math.abs(mean(posterior.log, GOLD) - meanGold)];
    }),
  );
  return [...exactDifferences(), ...learned];
}

/** Old entries are dropped, so that a long session does not grow. */
page.onChange = () => {
  if (memory.size > 400) memory.clear();
};

definePage({
  defaults: {
    size: '30',
    aggregation: 'mean',
    target: 'posterior',
    guide: 'rich',
    beta: 0.8,
    n: 16,
    progress: 0.5,
  },
  render,
  numbers,
  describe,
  check,
});
