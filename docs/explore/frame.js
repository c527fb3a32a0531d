'use strict';

// ---- The frame of every page: navigation and buttons above the content, the legend below. ----

const PAGES = {
  posterior: 'Posterior',
  identity: 'Identity',
  'two-kls': 'Two KLs',
  algorithms: 'Algorithms',
  'wrong-target': 'Wrong target or bad guide',
};

const isOpen = (name) => location.pathname.endsWith(`/${name}.html`);
const links = Object.entries(PAGES).map(
  ([name, title]) =>
    `<a href="${name}.html"${isOpen(name) ? ' aria-current="page"' : ''}>${title}</a>`,
);

document.getElementById('main').insertAdjacentHTML(
  'beforebegin',
  `<a class="skip" href="#main">Skip to the content</a>
<header>
<nav aria-label="Pages">
${links.join('\n')}
</nav>
<div class="tools">
<button type="button" id="reset" title="Back to the first state of this page">Reset</button>
<button type="button" id="link" title="Copy a link to exactly this state">Copy link</button>
<button type="button" id="theme" title="Colours: as the system, light, dark">Auto</button>
</div>
</header>`,
);

document.getElementById('main').insertAdjacentHTML(
  'afterend',
  `<p id="spoken" class="unseen" role="status" aria-live="polite"></p>
<footer>
<p id="checked">The numbers of this page are computed in the browser.</p>
<p><span class="key"><span class="swatch prior"></span>prior p<sub>0</sub>, the language model</span>
<span class="key"><span class="swatch guide"></span>guide q, the fine-tuned model or policy</span>
<span class="key"><span class="swatch posterior"></span>posterior p<sup>∗</sup>, the aim</span>
Logarithms are natural; KL and log Z are in nats.</p>
<p>The data are written by <code>python -m experiments.explore</code> from the library. No part of
this page comes from a network.</p>
</footer>`,
);
