'use strict';

// ---- Guides: tables of logits, read along a response. The layouts are those of the library. ----

const NUM_WORDS = DATA.words.length;
const LENGTH = DATA.responses[0].length;
const TOKENS = DATA.responses.map((response) => [...response].map(Number));
const LAST_OF_PROMPT = DATA.words.indexOf(DATA.prompt.split(' ').pop());

/** Row of the table that gives the next word, after some words. */
const ROW_OF = {
  tabular: (words) => words.reduce((node, word) => node * (NUM_WORDS - 1) + word, 0),
  'n-gram': (words) => (words.length ? words[words.length - 1] : LAST_OF_PROMPT),
  'mean-field': (words) => words.length,
};
const NUM_ROWS = { tabular: 91, 'n-gram': NUM_WORDS + 1, 'mean-field': LENGTH };

/** For each response the places in the table that its log probability sums. */
function pathsOf(rowOf) {
  return TOKENS.map((tokens) => {
    const end = tokens.indexOf(END);
    const seen = end < 0 ? tokens : tokens.slice(0, end + 1);
    return seen.map((token, t) => rowOf(tokens.slice(0, t)) * NUM_WORDS + token);
  });
}
const PATHS = Object.fromEntries(
  Object.entries(ROW_OF).map(([name, rowOf]) => [name, pathsOf(rowOf)]),
);

/** log of the sum of p0 over all responses that begin with some words, by those words. */
const PREFIX_MASS = new Map();
DATA.logPrior.forEach((value, i) => {
  const tokens = TOKENS[i];
  for (let t = 0; t <= LENGTH; t++) {
    const key = tokens.slice(0, t).join('');
    PREFIX_MASS.set(key, (PREFIX_MASS.get(key) ?? 0) + Math.exp(value));
    if (tokens[t] === END) {
      const whole = tokens.slice(0, t + 1).join('');
      PREFIX_MASS.set(whole, (PREFIX_MASS.get(whole) ?? 0) + Math.exp(value));
      break;
    }
  }
});

/** Conditional probabilities of p0 for the next word after some words. */
function priorNext(words) {
  const key = words.join('');
  return DATA.words.map((_, id) => (PREFIX_MASS.get(key + id) ?? 0) / PREFIX_MASS.get(key));
}

/** First parameters: p0 for the table of all prefixes, uniform for the others, as the library's. */
function firstTable(name) {
  const table = new Array(NUM_ROWS[name] * NUM_WORDS).fill(0);
  if (name === 'tabular')
    DATA.responses.forEach((_, i) => {
      const words = TOKENS[i].filter((token) => token !== END);
      for (let t = 0; t <= Math.min(words.length, LENGTH - 1); t++) {
        const row = ROW_OF.tabular(words.slice(0, t));
        priorNext(words.slice(0, t)).forEach((p, id) => (table[row * NUM_WORDS + id] = Math.log(p)));
      }
    });
  return table;
}

/** log softmax of each row. */
function normalisedRows(table) {
  const rows = [];
  for (let start = 0; start < table.length; start += NUM_WORDS)
    rows.push(...logSoftmax(table.slice(start, start + NUM_WORDS)));
  return rows;
}

/** log q of all responses. */
function logGuide(name, table) {
  const rows = normalisedRows(table);
  return PATHS[name].map((path) => path.reduce((sum, place) => sum + rows[place], 0));
}

/** sum over x of weight(x) grad log q(x). */
function tableGradient(name, table, weights) {
  const rows = normalisedRows(table);
  const gradient = new Array(table.length).fill(0);
  const totals = new Array(table.length / NUM_WORDS).fill(0);
  weights.forEach((weight, i) => {
    if (weight === 0) return;
    for (const place of PATHS[name][i]) {
      gradient[place] += weight;
      totals[Math.floor(place / NUM_WORDS)] += weight;
    }
  });
  return gradient.map((value, place) => {
    const total = totals[Math.floor(place / NUM_WORDS)];
    return total === 0 && value === 0 ? 0 : value - total * Math.exp(rows[place]);
  });
}

/**
 * Weights of the score for each objective, by the names of the library. The mean over draws of
 * sum weight(x) grad log q(x) is the gradient of the ELBO, of -KL(p* || q), or of the reward.
 */
const OBJECTIVES = {
  exact(log, problem) {
    return log.map((value, i) => Math.exp(value) * (problem.logJoint[i] - value));
  },
  trace(log, problem, draws) {
    return spread(log.length, draws, (i) => (problem.logJoint[i] + problem.constant - log[i]) / draws.length);
  },
  'leave-one-out'(log, problem, draws) {
    const weight = (i) => problem.logJoint[i] + problem.constant - log[i];
    const mean = draws.reduce((sum, i) => sum + weight(i), 0) / draws.length;
    return spread(log.length, draws, (i) => (weight(i) - mean) / (draws.length - 1));
  },
  'wake-phi'(log, problem, draws) {
    const shares = logSoftmax(draws.map((i) => problem.logJoint[i] - log[i]));
    const weights = new Array(log.length).fill(0);
    draws.forEach((i, k) => (weights[i] += Math.exp(shares[k])));
    return weights;
  },
  'reward-only'(log, problem, draws) {
    const mean = draws.reduce((sum, i) => sum + problem.reward[i], 0) / draws.length;
    const scale = problem.beta * (draws.length - 1);
    return spread(log.length, draws, (i) => (problem.reward[i] - mean) / scale);
  },
};

function spread(length, draws, weightOf) {
  const weights = new Array(length).fill(0);
  for (const i of draws) weights[i] += weightOf(i);
  return weights;
}

/** Adam, uphill: the step size falls linearly over `numSteps`. */
function adamStep(fit, gradient, rate, numSteps) {
  fit.step += 1;
  fit.mean ??= gradient.map(() => 0);
  fit.square ??= gradient.map(() => 0);
  const size = rate * Math.max(0.05, 1 - fit.step / numSteps);
  fit.table = fit.table.map((value, j) => {
    fit.mean[j] = 0.9 * fit.mean[j] + 0.1 * gradient[j];
    fit.square[j] = 0.99 * fit.square[j] + 0.01 * gradient[j] ** 2;
    const mean = fit.mean[j] / (1 - 0.9 ** fit.step);
    return value + (size * mean) / (Math.sqrt(fit.square[j] / (1 - 0.99 ** fit.step)) + 1e-8);
  });
}
