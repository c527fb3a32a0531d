'use strict';

// ---- Targets: the distribution that each trainer reaches with a rich guide, in closed form. ----
//
// All depend on a response by p0 and the reward alone. Responses of one reward share a level, so
// that a root takes few operations.

/** Levels of a reward, from low to high: rewards, and log p0 of each. */
function levelsOf(logPrior, reward) {
  const order = reward.map((_, i) => i).sort((a, b) => reward[a] - reward[b]);
  const levels = { reward: [], log: [], of: new Array(reward.length) };
  for (const i of order) {
    const last = levels.reward.length - 1;
    if (last < 0 || reward[i] - levels.reward[last] > 1e-9) {
      levels.reward.push(reward[i]);
      levels.log.push([logPrior[i]]);
    } else levels.log[last].push(logPrior[i]);
    levels.of[i] = levels.reward.length - 1;
  }
  levels.log = levels.log.map(logSumExp);
  return levels;
}

/** log q/p0 of each level; the sum of q is 1 after `normalised`. */
const tilted = ({ reward }, width) => reward.map((value) => value / width);

function normalised(levels, logRatio) {
  const logZ = logSumExp(levels.log.map((value, l) => value + logRatio[l]));
  return logRatio.map((value) => value - logZ);
}

/**
 * width p0/(Lambda - r), with d = Lambda - max r such that the sum is 1.
 *
 * Newton's method on 1/sum(p0/(d + gap)) = width: that function of d is concave and rises, so that
 * the steps from the left never pass the root.
 */
function forwardKl(levels, width) {
  const top = levels.reward.length - 1;
  levels.mass ??= levels.log.map(Math.exp);
  levels.gaps ??= levels.reward.map((value) => levels.reward[top] - value);
  let distance = levels.mass[top] * width;
  for (let n = 0; n < 100; n++) {
    let [first, second] = [0, 0];
    for (let l = 0; l <= top; l++) {
      const share = levels.mass[l] / (distance + levels.gaps[l]);
      first += share;
      second += share / (distance + levels.gaps[l]);
    }
    const move = ((width - 1 / first) * first * first) / second;
    distance += move;
    if (Math.abs(move) < 1e-15 * distance) break;
  }
  return levels.gaps.map((gap) => Math.log(width) - Math.log(distance + gap));
}

/** The largest width = beta sd_q r of a family of widths; null if there is none. */
function ownWidth(levels, beta, family) {
  const { reward, log } = levels;
  const reach = reward[reward.length - 1] - reward[0];
  if (reach === 0) return beta;
  const excess = (logWidth) => {
    const width = Math.exp(logWidth);
    const ratio = normalised(levels, family(levels, width));
    let [mean, square] = [0, 0];
    for (let l = 0; l < reward.length; l++) {
      const p = Math.exp(log[l] + ratio[l]);
      mean += p * reward[l];
      square += p * reward[l] ** 2;
    }
    return beta * Math.sqrt(Math.max(0, square - mean ** 2)) - width;
  };
  const highest = Math.log((beta * reach) / 2);
  const step = -Math.log(1e-12) / 1000;
  for (let high = highest, n = 0; n < 250; n++, high -= step) {
    if (excess(high - step) < 0) continue;
    let [a, b] = [high - step, high];
    for (let m = 0; m < 60 && b - a > 1e-15; m++) {
      const middle = (a + b) / 2;
      if (excess(middle) >= 0) a = middle;
      else b = middle;
    }
    return Math.exp((a + b) / 2);
  }
  return null;
}

/** F and F- of each level: mass at most, and below. */
function cdfOf({ log }) {
  let below = 0;
  return log.map((value) => {
    const left = below;
    below += Math.exp(value);
    return [left, Math.min(1, below)];
  });
}

/** log q/p0 of each level, by the names of the library; null if the trainer has no fixed point. */
const TARGETS = {
  posterior: (levels, { beta }) => tilted(levels, beta),
  grpo: (levels, { beta }) => {
    const width = ownWidth(levels, beta, tilted);
    return width && tilted(levels, width);
  },
  'grpo-k3': (levels, { beta }) => {
    const width = ownWidth(levels, beta, forwardKl);
    return width && forwardKl(levels, width);
  },
  'forward-kl': (levels, { beta }) => forwardKl(levels, beta),
  quantile: (levels, { beta }) => cdfOf(levels).map(([, upTo]) => upTo / beta),
  'best-of-n': (levels, { n }) =>
    cdfOf(levels).map(([left, upTo]) => {
      // (F^n - F-^n)/(F - F-) = F^(n-1) (1 - s^n)/(1 - s), s = F-/F
      const s = left / upTo;
      const ratio = 1 - s < 1e-12 ? n : -Math.expm1(n * Math.log(s)) / (1 - s);
      return (n - 1) * Math.log(upTo) + Math.log(s === 0 ? 1 : ratio);
    }),
  filtering: (levels, { threshold }) =>
    levels.reward.map((value) => (value >= threshold ? 0 : -Infinity)),
};

/** log q of all responses for a target by name; null without a fixed point. */
function targetOf(name, logPrior, levels, options) {
  const ratio = TARGETS[name](levels, options);
  if (!ratio) return null;
  const logRatio = normalised(levels, ratio);
  return logPrior.map((value, i) => value + logRatio[levels.of[i]]);
}

// -- a small guide: the mean field nearest to a target under KL(q || target) --

const LENGTH = DATA.responses[0].length;
const NUM_WORDS = DATA.words.length;
const TOKENS = DATA.responses.map((response) => {
  const tokens = [...response].map(Number);
  const end = tokens.indexOf(END);
  return end < 0 ? tokens : tokens.slice(0, end + 1);
});

const logMeanField = (words) =>
  TOKENS.map((tokens) => tokens.reduce((sum, token, t) => sum + words[t][token], 0));

/** Coordinate ascent: each position in turn has its optimum given the others. */
function meanFieldOf(logTarget, start, sweeps = 60) {
  const words = Array.from({ length: LENGTH }, (_, t) => {
    const mass = new Array(NUM_WORDS).fill(1e-9);
    TOKENS.forEach((tokens, i) => {
      if (tokens.length > t) mass[tokens[t]] += Math.exp(start[i]);
    });
    return logSoftmax(mass.map(Math.log));
  });
  const probs = words.map((logs) => logs.map(Math.exp));
  for (let sweep = 0; sweep < sweeps; sweep++) {
    let change = 0;
    for (let t = 0; t < LENGTH; t++) {
      const logs = logSoftmax(bestWords(logTarget, words, probs, t));
      for (let id = 0; id < NUM_WORDS; id++) {
        const prob = Math.exp(logs[id]);
        change = Math.max(change, Math.abs(prob - probs[t][id]));
        probs[t][id] = prob;
      }
      words[t] = logs;
    }
    if (change < 1e-10) break;
  }
  return logMeanField(words);
}

/** Logits of position t: the mean of log target - log q of the other positions, given the word. */
function bestWords(logTarget, words, probs, t) {
  const score = new Array(NUM_WORDS).fill(0);
  const mass = new Array(NUM_WORDS).fill(0);
  for (let i = 0; i < TOKENS.length; i++) {
    const tokens = TOKENS[i];
    if (tokens.length <= t) continue;
    let weight = 1;
    let rest = logTarget[i];
    for (let s = 0; s < tokens.length; s++) {
      if (s === t) continue;
      weight *= probs[s][tokens[s]];
      rest -= words[s][tokens[s]];
    }
    if (weight === 0) continue;
    mass[tokens[t]] += weight;
    score[tokens[t]] += weight * rest;
  }
  return score.map((value, id) => (mass[id] > 0 ? value / mass[id] : -Infinity));
}
