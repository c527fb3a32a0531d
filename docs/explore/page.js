'use strict';

// ---- The page: state in the address, controls, colours, and one render for each frame. ----

const END = 0; // token id of <end>
const $ = (id) => document.getElementById(id);

/** Words of a response of token digits such as "670"; the end is not a word. */
function textOf(response) {
  const words = [];
  for (const digit of response) {
    if (+digit === END) break;
    words.push(DATA.words[+digit]);
  }
  return words.length ? words.join(' ') : '(nothing)';
}
const TEXTS = DATA.responses.map(textOf);

/** A number with so many decimals, a true minus sign, and no minus zero. */
function fixed(value, decimals = 3) {
  if (Number.isNaN(value)) return '–';
  if (!Number.isFinite(value)) return value > 0 ? '∞' : '−∞';
  const text = value.toFixed(decimals);
  return (Number(text) === 0 ? text.replace('-', '') : text).replace('-', '−');
}

/** A probability in percent; small ones by their power of ten. */
function percent(p) {
  if (p === 0) return '0 %';
  if (p >= 0.0005) return `${(100 * p).toFixed(1)} %`;
  const exponent = Math.floor(Math.log10(p));
  if (exponent < -99) return '~0';
  return `10${[...String(exponent)].map((c) => '⁻⁰¹²³⁴⁵⁶⁷⁸⁹'['-0123456789'.indexOf(c)]).join('')}`;
}

/** Three significant digits, as a number. */
const short = (value) => Number(value.toPrecision(3));

/**
 * Page with a state. `definePage` connects each entry of `defaults` with the control of that id:
 * a range (with data-log, a logarithmic one), a select, a checkbox, or none.
 *
 *   definePage({ defaults, render(state), numbers(state), describe(state), check() })
 *
 * A page with a button `play` takes steps while it plays: advance() returns false after the last.
 */
const page = { state: {}, frames: [], ready: false, playing: false };

function definePage({ defaults, render, numbers, describe, check, advance, stepsPerFrame = 1 }) {
  Object.assign(page, { defaults, render, numbers, describe, advance, stepsPerFrame });
  page.state = { ...defaults, ...fromAddress() };
  for (const name of Object.keys(defaults)) {
    const control = $(name);
    if (control) control.addEventListener('input', () => set(name, valueOf(control)));
  }
  $('reset').addEventListener('click', () => {
    page.state = { ...defaults };
    page.onReset?.();
    changed('Reset.');
  });
  $('link').addEventListener('click', copyLink);
  $('play')?.addEventListener('click', () => play(!page.playing));
  $('step')?.addEventListener('click', () => {
    play(false);
    advance();
    changed();
  });
  window.addEventListener('hashchange', () => {
    if (location.hash.slice(1) === addressOf(page.state)) return;
    page.state = { ...defaults, ...fromAddress() };
    page.onReset?.();
    schedule();
  });
  new ResizeObserver(schedule).observe($('main'));
  $('checked').textContent = checkedSentence(check());
  schedule();
}

/** Change one entry of the state, as a control does. */
function set(name, value) {
  page.state = { ...page.state, [name]: value };
  page.onChange?.(name);
  changed();
}

function changed(spoken) {
  schedule();
  clearTimeout(page.later);
  page.later = setTimeout(() => {
    const address = addressOf(page.state);
    history.replaceState(null, '', address ? `#${address}` : location.pathname);
    $('spoken').textContent = `${spoken ?? ''} ${page.describe(page.state)}`.trim();
  }, 300);
}

/** Render once in the next frame, however many changes come before. */
function schedule() {
  page.waiting ??= requestAnimationFrame(() => {
    page.waiting = null;
    const wasPlaying = page.playing;
    const start = performance.now();
    for (let i = 0; i < page.stepsPerFrame && page.playing; i++) page.playing = page.advance();
    showControls();
    page.render(page.state);
    if (page.playing) schedule();
    else if (wasPlaying) changed();
    page.frames.push(performance.now() - start);
    if (page.frames.length > 600) page.frames.shift();
    page.ready = true;
  });
}

/** Take steps in each frame from now on, or stop. */
function play(isPlaying) {
  page.playing = isPlaying;
  schedule();
}

// -- controls --

function valueOf(control) {
  if (control.type === 'checkbox') return control.checked;
  if (control.type !== 'range') return control.value;
  if (!control.dataset.log) return Number(control.value);
  const [low, high] = control.dataset.log.split(' ').map(Number);
  const value = short(low * (high / low) ** (control.value / control.max));
  return control.dataset.whole ? Math.round(value) : value;
}

function showControls() {
  for (const [name, value] of Object.entries(page.state)) {
    const control = $(name);
    if (!control) continue;
    if (control.type === 'checkbox') control.checked = value;
    else if (control.type === 'range' && control.dataset.log) {
      const [low, high] = control.dataset.log.split(' ').map(Number);
      const place = Math.round((Math.log(value / low) / Math.log(high / low)) * control.max);
      if (valueOf(control) !== value) control.value = place;
    } else control.value = value;
    const output = document.querySelector(`output[for="${name}"]`);
    if (output) {
      output.textContent = typeof value === 'number' ? String(value).replace('-', '−') : value;
      control.setAttribute('aria-valuetext', `${output.textContent} ${control.dataset.unit ?? ''}`);
    }
  }
}

// -- the address holds the state --

function addressOf(state) {
  return Object.entries(state)
    .filter(([name, value]) => String(value) !== String(page.defaults[name]))
    .map(([name, value]) => `${name}=${encodeURIComponent(value)}`)
    .join('&');
}

/** The entries of the address that the page knows, in the range of their controls. */
function fromAddress() {
  const entries = {};
  for (const [name, text] of new URLSearchParams(location.hash.slice(1))) {
    const known = page.defaults[name];
    if (known === undefined) continue;
    const control = $(name);
    if (typeof known === 'boolean') entries[name] = text === 'true';
    else if (typeof known === 'number') {
      const range = control?.dataset.log?.split(' ').map(Number) ?? [control?.min, control?.max];
      const [low, high] = [Number(range[0] ?? -1e9), Number(range[1] ?? 1e9)];
      const value = Number(text);
      if (Number.isFinite(value)) entries[name] = Math.min(high, Math.max(low, value));
    } else if (control?.tagName !== 'SELECT' || [...control.options].some((o) => o.value === text))
      entries[name] = text;
  }
  return entries;
}

async function copyLink() {
  const address = `${location.href.split('#')[0]}#${addressOf(page.state)}`;
  try {
    await navigator.clipboard.writeText(address);
    say('Link copied.');
  } catch {
    prompt('The link to this state:', address);
  }
}

function say(text) {
  $('spoken').textContent = text;
  const button = $('link');
  button.textContent = 'Copied';
  setTimeout(() => (button.textContent = 'Copy link'), 1500);
}

// -- colours --

const THEMES = { auto: 'Auto', light: 'Light', dark: 'Dark' };

function showTheme(theme) {
  if (theme === 'auto') delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  $('theme').textContent = THEMES[theme];
  $('theme').setAttribute('aria-label', `Colours: ${THEMES[theme]}`);
  page.theme = theme;
}

$('theme').addEventListener('click', () => {
  const names = Object.keys(THEMES);
  const theme = names[(names.indexOf(page.theme) + 1) % names.length];
  showTheme(theme);
  try {
    localStorage.setItem('theme', theme);
  } catch {
    // a page without storage keeps the colours until it is closed
  }
});

try {
  showTheme(localStorage.getItem('theme') in THEMES ? localStorage.getItem('theme') : 'auto');
} catch {
  showTheme('auto');
}

// -- the check against the library --

/** Differences of log Z, E[r] and KL from the library's, for all beta that stand in the data. */
function exactDifferences() {
  return DATA.exact.flatMap((record) => {
    const reward = DATA.rewards[record.reward];
    const { logZ, log } = posteriorOf(DATA.logPrior, reward, record.beta);
    const meanReward = expectation(log, (i) => reward[i]);
    const klPosteriorPrior = kl(log, DATA.logPrior);
    return [
      Math.abs(logZ - record.logZ),
      Math.abs(meanReward - record.meanReward),
      Math.abs(klPosteriorPrior - record.klPosteriorPrior),
    ];
  });
}

function checkedSentence(differences) {
  page.largestDifference = Math.max(...differences);
  const size = page.largestDifference.toExponential(0).replace('-', '−');
  return (
    `Checked on opening: ${differences.length} numbers computed in this browser differ from the ` +
    `library's exact enumeration by at most ${size}.`
  );
}
