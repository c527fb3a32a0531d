'use strict';

// ---- Samplers: each adds weighted draws to a run, step by step. ----

const PRIOR_SUMS = cumulative(DATA.logPrior);
const INDEX_OF = new Map(DATA.responses.map((response, i) => [response, i]));

/** Draw the rest of a response from p0, after some words. */
function drawRest(words, uniform) {
  const drawn = [...words];
  while (drawn.length < LENGTH && drawn[drawn.length - 1] !== END) {
    const next = priorNext(drawn);
    let u = uniform();
    let id = 0;
    while (id < NUM_WORDS - 1 && (u -= next[id]) > 0) id++;
    drawn.push(id);
  }
  while (drawn.length < LENGTH) drawn.push(END);
  return drawn;
}

/** Add a draw with the log of its weight. Weights are kept relative to exp(best reward / beta). */
function addDraw(run, i, logWeight) {
  run.mass[i] = (run.mass[i] ?? 0) + Math.exp(logWeight - run.problem.logBound);
}

const remember = (run, text, tag, share) => {
  run.recent.unshift({ text, tag, share });
  run.recent.length = Math.min(run.recent.length, 12);
};

const SAMPLERS = {
  /** x ~ p0 with weight exp(r/beta): the mean weight is unbiased for Z. */
  importance(run, count, uniform) {
    const { reward, beta, logBound } = run.problem;
    run.sums ??= [0, 0];
    for (let k = 0; k < count; k++) {
      const i = drawIndex(PRIOR_SUMS, uniform());
      const weight = Math.exp(reward[i] / beta - logBound);
      addDraw(run, i, reward[i] / beta);
      run.sums[0] += weight;
      run.sums[1] += weight ** 2;
      remember(run, TEXTS[i], `weight ${fixed(Math.exp(reward[i] / beta), 2)}`, weight);
    }
    run.draws += count;
    const [mean, square] = run.sums.map((sum) => sum / run.draws);
    run.logZ = Math.log(mean) + logBound;
    run.logZError = Math.sqrt((square / mean ** 2 - 1) / run.draws);
    const size = run.sums[0] ** 2 / run.sums[1];
    run.extra = ['effective sample size', `${fixed(size, 0)} of ${run.draws}`];
  },

  /** x ~ p0, kept with probability exp((r - r_max)/beta): kept draws are exact draws of p*. */
  rejection(run, count, uniform) {
    const { reward, beta, logBound, logZ } = run.problem;
    run.accepted ??= 0;
    for (let k = 0; k < count; k++) {
      const i = drawIndex(PRIOR_SUMS, uniform());
      const share = Math.exp(reward[i] / beta - logBound);
      const isKept = uniform() < share;
      if (isKept) addDraw(run, i, logBound);
      run.accepted += isKept ? 1 : 0;
      remember(run, TEXTS[i], isKept ? 'kept' : 'rejected', share);
    }
    run.draws += count;
    const rate = run.accepted / run.draws;
    run.logZ = rate ? Math.log(rate) + logBound : NaN;
    run.logZError = Math.sqrt((1 - rate) / (rate * run.draws));
    run.extra = ['acceptance', `${percent(rate)}, exact ${percent(Math.exp(logZ - logBound))}`];
  },

  /** Chains that redraw the end of their response from p0; accept by the ratio of likelihoods. */
  'metropolis-hastings'(run, count, uniform) {
    const { reward, beta } = run.problem;
    run.chains ??= Array.from({ length: count }, () => drawIndex(PRIOR_SUMS, uniform()));
    run.moves ??= [0, 0];
    run.chains = run.chains.map((i, chain) => {
      const cut = Math.floor(uniform() * LENGTH);
      const words = TOKENS[i].slice(0, cut);
      const ended = words.includes(END);
      const j = ended ? i : INDEX_OF.get(drawRest(words, uniform).join(''));
      const isAccepted = uniform() < Math.exp((reward[j] - reward[i]) / beta);
      run.moves[0] += isAccepted ? 1 : 0;
      run.moves[1] += 1;
      const next = isAccepted ? j : i;
      addDraw(run, next, run.problem.logBound);
      if (chain < 12)
        run.recent[chain] = {
          text: TEXTS[next],
          tag: j === i ? 'same' : isAccepted ? 'moved' : `kept, not “${TEXTS[j]}”`,
          share: isAccepted && j !== i ? 1 : 0,
        };
      return next;
    });
    run.draws += run.chains.length;
    run.logZ = NaN;
    run.extra = ['accepted moves', percent(run.moves[0] / run.moves[1])];
  },

  /** Particles that grow word by word, weighed by a twist and resampled. One run a step. */
  'twisted-smc'(run, count, uniform) {
    const cloud = smc(run.problem, count, run.twist, uniform);
    cloud.last.forEach((i, k) => addDraw(run, i, cloud.logZ + cloud.logShare[k]));
    run.zHats ??= [];
    run.zHats.push(Math.exp(cloud.logZ));
    run.cloud = cloud;
    run.draws += count;
    const [mean, error] = meanAndError(run.zHats);
    run.logZ = Math.log(mean);
    run.logZError = error / mean;
    run.extra = ['runs; first words alive', `${run.zHats.length}; ${cloud.numRoots}`];
  },
};

/** log psi of unfinished words: estimates of the log likelihood to come. */
const TWISTS = {
  none: () => 0,
  likelihood: (words, { reward, beta }) =>
    reward[INDEX_OF.get(words.join('').padEnd(LENGTH, String(END)))] / beta,
  exact: (words, problem) => {
    const key = words.join('');
    if (!problem.twist.has(key)) {
      const members = DATA.responses.map((_, i) => i).filter((i) => DATA.responses[i].startsWith(key));
      const logMass = logSumExp(members.map((i) => DATA.logPrior[i]));
      problem.twist.set(key, logSumExp(members.map((i) => problem.logJoint[i])) - logMass);
    }
    return problem.twist.get(key);
  },
};

/**
 * One run of sequential Monte Carlo with p0 as the proposal and systematic resampling where the
 * effective sample size is below half.
 *
 * Returns the words, parents and weights of each generation, and log Z_hat, unbiased for Z.
 */
function smc(problem, count, twist, uniform) {
  let particles = Array.from({ length: count }, (_, k) => ({ words: [], logPsi: 0, root: k }));
  let logWeight = new Array(count).fill(0);
  let parents = particles.map((_, k) => k);
  let logZ = 0;
  const generations = [];
  for (let t = 1; t <= LENGTH; t++) {
    particles = particles.map((particle, k) => {
      const { words, logPsi } = particle;
      const isDone = words.includes(END);
      const grown = isDone ? words : drawRest(words, uniform).slice(0, t);
      const isLast = t === LENGTH || grown.includes(END);
      const whole = INDEX_OF.get(grown.join('').padEnd(LENGTH, String(END)));
      const next = isLast ? problem.reward[whole] / problem.beta : TWISTS[twist](grown, problem);
      logWeight[k] += next - logPsi;
      return { words: grown, logPsi: next, root: t === 1 ? k : particle.root };
    });
    const logShare = logSoftmax(logWeight);
    generations.push({ particles, parents, share: logShare.map(Math.exp) });
    parents = particles.map((_, k) => k);
    const size = 1 / logShare.reduce((sum, value) => sum + Math.exp(2 * value), 0);
    if (t < LENGTH && size < count / 2) {
      logZ += logSumExp(logWeight) - Math.log(count);
      parents = systematic(logShare.map(Math.exp), uniform());
      particles = parents.map((k) => particles[k]);
      logWeight = new Array(count).fill(0);
    }
  }
  const logMean = logSumExp(logWeight) - Math.log(count);
  return {
    generations,
    last: particles.map(({ words }) => INDEX_OF.get(words.join('').padEnd(LENGTH, String(END)))),
    logShare: logSoftmax(logWeight),
    logZ: logZ + logMean,
    numRoots: new Set(particles.map(({ root }) => root)).size,
  };
}

/** Systematic resampling: one uniform number for all strata. */
function systematic(shares, u) {
  const sums = [];
  shares.reduce((sum, share, k) => (sums[k] = sum + share), 0);
  return shares.map((_, k) => drawIndex(sums, (k + u) / shares.length));
}
