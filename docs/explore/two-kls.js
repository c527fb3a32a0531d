'use strict';

// ---- Two KLs: a small family, fitted side by side in both directions. ----

const LOG_PRIOR = DATA.logPrior;
const NUM_WORDS = DATA.words.length;
const FIRST = DATA.responses.map((response) => +response[0]);
const SECOND = DATA.responses.map((response) => +response[1]);
const STEPS = 400;
const RATE = 0.08;

const ids = (words) => words.map((word) => (word === 'end' ? END : DATA.words.indexOf(word)));
const ROWS = ids(['very', 'not', 'good', 'bad', 'dull']);
const COLUMNS = ids(['good', 'bad', 'dull', 'end', 'very']);

/** The modes of a reward: responses of a positive reward. */
const modesOf = (name) =>
  DATA.rewards[name].map((value, i) => (value > 0 ? i : -1)).filter((i) => i >= 0);

// -- the family: q(x) = sum over c of share_c q_c(first) q_c(second) --

/** Parameters: for each component a logit of its share, and logits of both words. */
function startOf(state) {
  const uniform = randomStream(state.seed);
  const count = state.family === 'mixture' ? 2 : 1;
  const first = new Array(NUM_WORDS).fill(0);
  const second = new Array(NUM_WORDS).fill(0);
  LOG_PRIOR.forEach((value, i) => {
    first[FIRST[i]] += Math.exp(value);
    if (FIRST[i] !== END) second[SECOND[i]] += Math.exp(value);
  });
  const [near] = DATA.responses.filter((_, i) => TEXTS[i] === state.start);
  return Array.from({ length: count }, () => {
    const words = [first, second].map((mass, t) =>
      mass.map((p, id) => {
        const push = near !== undefined && +near[t] === id ? 2.5 : 0;
        return Math.log(p) + push + (count > 1 ? 1.5 * (uniform() - 0.5) : 0);
      }),
    );
    return { share: 0, words };
  });
}

/** log q of all responses, and what the gradient needs. */
function evaluate(parts) {
  const shares = logSoftmax(parts.map((part) => part.share));
  const words = parts.map((part) => part.words.map(logSoftmax));
  const joint = words.map(([first, second], c) =>
    FIRST.map((a, i) => shares[c] + first[a] + (a === END ? 0 : second[SECOND[i]])),
  );
  const log =
    parts.length === 1 ? joint[0] : FIRST.map((_, i) => logSumExp(joint.map((row) => row[i])));
  return { log, joint, shares, words };
}

/** sum over x of weight(x) grad log q(x), in the form of the parameters. */
function scoreGradient(guide, weights) {
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  return guide.words.map(([first, second], c) => {
    const gradient = [new Array(NUM_WORDS).fill(0), new Array(NUM_WORDS).fill(0)];
    let seen = 0;
    let seenSecond = 0;
    weights.forEach((weight, i) => {
      if (weight === 0) return;
      const part = weight * Math.exp(guide.joint[c][i] - guide.log[i]);
      seen += part;
      gradient[0][FIRST[i]] += part;
      if (FIRST[i] === END) return;
      seenSecond += part;
      gradient[1][SECOND[i]] += part;
    });
    for (let id = 0; id < NUM_WORDS; id++) {
      gradient[0][id] -= seen * Math.exp(first[id]);
      gradient[1][id] -= seenSecond * Math.exp(second[id]);
    }
    return { share: seen - Math.exp(guide.shares[c]) * total, words: gradient };
  });
}

/** Weights of `scoreGradient` that descend a KL: exact, or from draws of q. */
const WEIGHTS = {
  reverse(log, logPosterior, draws) {
    const advantage = (i) => logPosterior[i] - log[i];
    if (!draws) return log.map((value, i) => Math.exp(value) * advantage(i));
    const mean = draws.reduce((sum, i) => sum + advantage(i), 0) / draws.length;
    const weights = new Array(log.length).fill(0); // leave-one-out
    for (const i of draws) weights[i] += (advantage(i) - mean) / (draws.length - 1);
    return weights;
  },
  forward(log, logPosterior, draws) {
    if (!draws) return logPosterior.map(Math.exp);
    const shares = logSoftmax(draws.map((i) => logPosterior[i] - log[i])); // p*/q, normalised
    const weights = new Array(log.length).fill(0);
    draws.forEach((i, k) => (weights[i] += Math.exp(shares[k])));
    return weights;
  },
};

/** One step of Adam uphill, for each parameter on its own. */
function adam(fit, gradient) {
  fit.step += 1;
  const [keep, keepSquare] = [0.9, 0.99];
  const rate = RATE * (1 - fit.step / (STEPS * 1.25));
  const move = (value, slope, memory) => {
    memory[0] = keep * memory[0] + (1 - keep) * slope;
    memory[1] = keepSquare * memory[1] + (1 - keepSquare) * slope * slope;
    const size = Math.sqrt(memory[1] / (1 - keepSquare ** fit.step)) + 1e-8;
    return value + (rate * (memory[0] / (1 - keep ** fit.step))) / size;
  };
  const memory = (key) => (fit.memory[key] ??= [0, 0]);
  fit.parts = fit.parts.map((part, c) => ({
    share: move(part.share, gradient[c].share, memory(`${c}`)),
    words: part.words.map((logits, t) =>
      logits.map((value, id) => move(value, gradient[c].words[t][id], memory(`${c} ${t} ${id}`))),
    ),
  }));
}

// -- two fits side by side --

let run = null;

function restart() {
  const { state } = page;
  const { log } = posteriorOf(LOG_PRIOR, DATA.rewards[state.modes], state.beta);
  const fitOf = () => ({ parts: startOf(state), step: 0, memory: {}, curve: [] });
  run = {
    logPosterior: log,
    modes: modesOf(state.modes),
    uniform: randomStream(1000 + state.seed),
    fits: { reverse: fitOf(), forward: fitOf() },
  };
  measure();
  play(true);
}

function measure() {
  for (const fit of Object.values(run.fits)) {
    fit.guide = evaluate(fit.parts);
    fit.curve.push([kl(fit.guide.log, run.logPosterior), kl(run.logPosterior, fit.guide.log)]);
  }
}

function advance() {
  if (run.fits.reverse.step >= STEPS) return false;
  for (const [direction, fit] of Object.entries(run.fits)) {
    let draws = null;
    if (page.state.noise) {
      const sums = cumulative(fit.guide.log);
      draws = Array.from({ length: page.state.draws }, () => drawIndex(sums, run.uniform()));
    }
    const weights = WEIGHTS[direction](fit.guide.log, run.logPosterior, draws);
    adam(fit, scoreGradient(fit.guide, weights));
  }
  measure();
  return true;
}

/** Run the fits to their end at once. */
function finish() {
  while (advance());
  play(false);
}

function crossingMass(log) {
  const firsts = new Set(run.modes.map((i) => FIRST[i]));
  const seconds = new Set(run.modes.map((i) => SECOND[i]));
  return expectation(log, (i) =>
    firsts.has(FIRST[i]) && seconds.has(SECOND[i]) && !run.modes.includes(i) ? 1 : 0,
  );
}

function numbers() {
  const { reverse, forward } = run.fits;
  const logs = { posterior: run.logPosterior, reverse: reverse.guide.log, forward: forward.guide.log };
  const values = { step: reverse.step, logs };
  for (const [name, log] of Object.entries(logs)) {
    values[`${name}Reverse`] = kl(log, run.logPosterior);
    values[`${name}Forward`] = kl(run.logPosterior, log);
    values[`${name}Modes`] = expectation(log, (i) => (run.modes.includes(i) ? 1 : 0));
    values[`${name}Crossings`] = crossingMass(log);
    values[`${name}Entropy`] = entropy(log);
  }
  return values;
}

// -- drawing --

/** A table of probabilities by first and second word; the function returned fills the cells. */
function heatTable(table, name) {
  const word = (id) => (id === END ? 'end' : DATA.words[id]);
  const head = element('tr', {}, element('td'));
  for (const id of COLUMNS) head.append(element('th', { scope: 'col' }, word(id)));
  head.append(element('th', { scope: 'col' }, 'other'));
  table.append(element('caption', { class: 'unseen' }, `Probabilities in percent under ${name}`), head);
  const cells = [...ROWS, null].map((a) => {
    const row = element('tr', {}, element('th', { scope: 'row' }, a === null ? 'other' : word(a)));
    const line = [...COLUMNS, null].map((b) => {
      const members = DATA.responses
        .map((_, i) => i)
        .filter((i) => (a === null ? !ROWS.includes(FIRST[i]) : FIRST[i] === a))
        .filter((i) => (b === null ? !COLUMNS.includes(SECOND[i]) : SECOND[i] === b));
      const cell = element('td');
      row.append(cell);
      return { cell, members };
    });
    table.append(row);
    return line;
  });
  return (log) => {
    for (const { cell, members } of cells.flat()) {
      const p = members.reduce((sum, i) => sum + Math.exp(log[i]), 0);
      cell.style.setProperty('--share', `${Math.min(100, 105 * Math.sqrt(p)).toFixed(1)}%`);
      cell.textContent = p >= 0.005 ? String(Math.round(100 * p)) : '·';
      cell.classList.toggle('strong', p > 0.45);
      cell.classList.toggle('mode', members.length === 1 && run.modes.includes(members[0]));
    }
  };
}

const heats = {
  posterior: heatTable($('heat-posterior'), 'the posterior'),
  reverse: heatTable($('heat-reverse'), 'the guide by KL(q || p*)'),
  forward: heatTable($('heat-forward'), 'the guide by KL(p* || q)'),
};

function render(state) {
  if (!run) restart();
  const values = numbers();
  showNumbers(values);
  for (const [name, draw] of Object.entries(heats)) draw(values.logs[name]);
  for (const node of document.querySelectorAll('.if-noise')) node.hidden = !state.noise;
  $('play').textContent = page.playing ? 'Pause' : 'Play';
  $('play').disabled = run.fits.reverse.step >= STEPS;
  drawCurves();
}

function drawCurves() {
  const { reverse, forward } = run.fits;
  const curves = [reverse.curve, forward.curve];
  const highest = Math.max(1, ...curves.flat(2).filter(Number.isFinite));
  const line = (fit, side) =>
    fit.curve.map((pair, step) => [step, pair[side]]).filter((_, step) => step % 2 === 0);
  drawChart($('curves'), {
    x: { range: [0, STEPS], label: 'step' },
    y: { range: [0, Math.min(12, highest * 1.05)], label: 'nats' },
    label: 'Both KLs of both fits by step',
    marks: [
      { line: line(reverse, 1), thin: true, class: 's-guide' },
      { line: line(forward, 0), thin: true, class: 's-tractable' },
      { line: line(reverse, 0), class: 's-guide' },
      { line: line(forward, 1), class: 's-tractable' },
    ],
  });
}

function describe() {
  const values = numbers();
  return (
    `Step ${values.step}. Fit by KL(q, p star): ${percent(values.reverseModes)} on the modes, ` +
    `${percent(values.reverseCrossings)} on crossings. Fit by KL(p star, q): ` +
    `${percent(values.forwardModes)} on the modes, ${percent(values.forwardCrossings)} on crossings.`
  );
}

page.onChange = page.onReset = restart;
$('again').addEventListener('click', () => set('seed', page.state.seed + 1));

definePage({
  defaults: {
    family: 'mean-field',
    modes: 'two-modes',
    start: 'prior',
    noise: false,
    draws: 16,
    beta: 0.16,
    seed: 1,
  },
  render,
  numbers,
  describe,
  check: exactDifferences,
  advance,
  stepsPerFrame: 2,
});
