'use strict';

// ---- Probability on a list of responses. A distribution is an array of log probabilities. ----

/** log of the sum of exp, without overflow; -Infinity stays -Infinity. */
function logSumExp(values) {
  let highest = -Infinity;
  for (const value of values) if (value > highest) highest = value;
  if (highest === -Infinity) return -Infinity;
  let sum = 0;
  for (const value of values) sum += Math.exp(value - highest);
  return highest + Math.log(sum);
}

/** Logits minus their log normaliser. */
function logSoftmax(logits) {
  const logZ = logSumExp(logits);
  return logits.map((value) => value - logZ);
}

/** E_p[f]; a response of probability 0 counts 0, whatever f is there. */
function expectation(logProb, f) {
  let sum = 0;
  for (let i = 0; i < logProb.length; i++) {
    const prob = Math.exp(logProb[i]);
    if (prob > 0) sum += prob * f(i);
  }
  return sum;
}

/** KL(first || second), nats. */
const kl = (first, second) => expectation(first, (i) => first[i] - second[i]);

/** Entropy, nats. */
const entropy = (logProb) => -expectation(logProb, (i) => logProb[i]);

/** The posterior p* = p0 exp(r/beta) / Z, and log Z. */
function posteriorOf(logPrior, reward, beta) {
  const logJoint = logPrior.map((value, i) => value + reward[i] / beta);
  const logZ = logSumExp(logJoint);
  return { logZ, log: logJoint.map((value) => value - logZ) };
}

/** Random numbers between 0 and 1 that a seed repeats (mulberry32). */
function randomStream(seed) {
  let state = (seed * 2654435761 + 88675123) >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/** Running sums of the probabilities, for `drawIndex`. */
function cumulative(logProb) {
  let sum = 0;
  return logProb.map((value) => (sum += Math.exp(value)));
}

/** The place of a uniform number in running sums: a draw, by bisection. */
function drawIndex(sums, uniform) {
  const target = uniform * sums[sums.length - 1];
  let low = 0;
  let high = sums.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (sums[middle] > target) high = middle;
    else low = middle + 1;
  }
  return low;
}

/** Mean of some numbers, and the standard error of the mean. */
function meanAndError(values) {
  const n = values.length;
  const mean = values.reduce((sum, value) => sum + value, 0) / n;
  const square = values.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  return [mean, n > 1 ? Math.sqrt(square / (n - 1) / n) : NaN];
}
