'use strict';

// ---- Drawing: rows of bars, a table of numbers, and charts as SVG. ----

const SVG = 'http://www.w3.org/2000/svg';

/** An element with attributes and children; `html` is for markup of this page alone. */
function element(tag, attributes = {}, ...children) {
  const node = tag.startsWith('svg:')
    ? document.createElementNS(SVG, tag.slice(4))
    : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === 'html') node.innerHTML = value;
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

/**
 * A table with a row of bars for each response that has a name, and one for all others.
 *
 * lanes: [{ key, title }], for distributions by key; the class of a bar is its key.
 * The returned function draws: bars({ key: log probabilities }, { log: true }).
 */
function barTable(table, lanes, { reward, note } = {}) {
  const head = element('tr', {}, element('th', { scope: 'col' }, 'response'));
  if (reward) head.append(element('th', { scope: 'col', class: 'value' }, 'reward'));
  const axis = element('div', { class: 'axis', 'aria-hidden': 'true' });
  head.append(element('th', { class: 'track' }, axis));
  for (const lane of lanes)
    head.append(element('th', { scope: 'col', class: `value ${lane.narrow ?? ''}`, html: lane.title }));
  const body = element('tbody');
  table.replaceChildren(element('thead', {}, head), body);
  const rest = DATA.responses.map((_, i) => i).filter((i) => !DATA.shown.includes(i));
  const groups = [...DATA.shown.map((i) => [i]), rest];
  const rows = groups.map((group, number) => {
    const isRest = number === DATA.shown.length;
    const name = isRest ? `${group.length} others` : TEXTS[group[0]];
    const heading = element('th', { scope: 'row' }, name);
    const row = element('tr', isRest ? { class: 'rest' } : {}, heading);
    const rewardCell = element('td', { class: 'value' });
    if (reward) row.append(rewardCell);
    const track = element('td', { class: 'track', 'aria-hidden': 'true' });
    const fills = lanes.map((lane) => {
      const fill = element('div', { class: `fill ${lane.key}` });
      track.append(element('div', { class: 'lane' }, fill));
      return fill;
    });
    row.append(track);
    const values = lanes.map((lane) => element('td', { class: `value ${lane.narrow ?? ''}` }));
    row.append(...values);
    body.append(row);
    return { group, row, heading, track, fills, values, rewardCell };
  });
  if (note) table.prepend(element('caption', { class: 'unseen' }, note));

  const restName = element('small');
  rows[rows.length - 1].heading.append(restName);

  /** If the others have more than 5 % under some distribution, name the likeliest of them. */
  function nameTheRest(distributions) {
    let likeliest = null;
    let highest = Math.log(0.05);
    for (const { key } of lanes)
      for (const i of rest)
        if (distributions[key][i] > highest) [likeliest, highest] = [i, distributions[key][i]];
    restName.textContent = likeliest === null ? '' : `most: “${TEXTS[likeliest]}”`;
  }

  let scale = 1; // probability at the right end of a linear axis
  function draw(distributions, { log = false, rewards, frozen = false } = {}) {
    const probabilities = lanes.map((lane) =>
      groups.map((group) => {
        let sum = 0;
        for (const i of group) sum += Math.exp(distributions[lane.key][i]);
        return sum;
      }),
    );
    const highest = Math.max(...probabilities.flat());
    const full = frozen ? scale : [0.3, 0.6, 1].find((limit) => highest <= limit * 1.0001) ?? 1;
    scale = full;
    const lowest = -8; // power of ten at the left end of a logarithmic axis
    const place = (p) => (log ? Math.max(0, 1 - Math.log10(p) / lowest) : p / full);
    const marks = log ? [-8, -6, -4, -2, 0].map((e) => 10 ** e) : [0, full / 3, (2 * full) / 3, full];
    axis.replaceChildren(
      ...marks.map((mark) => {
        const text = log ? (mark === 1 ? '1' : percent(mark)) : `${Math.round(100 * mark)} %`;
        return element('span', { style: `left:${100 * place(mark)}%` }, text);
      }),
    );
    nameTheRest(distributions);
    rows.forEach((row, number) => {
      lanes.forEach((_, lane) => {
        const p = probabilities[lane][number];
        row.fills[lane].style.transform = `scaleX(${p > 0 ? place(p).toFixed(5) : 0})`;
        row.values[lane].textContent = percent(p);
      });
      if (rewards)
        row.rewardCell.textContent = row.group.length === 1 ? fixed(rewards[row.group[0]], 2) : '';
    });
  }
  return { draw, rows, groups, scale: () => scale };
}

/** Fill the cells [data-number="name"] of the page with numbers by name. */
function showNumbers(numbers, decimals = 3) {
  for (const cell of document.querySelectorAll('[data-number]')) {
    const value = numbers[cell.dataset.number];
    if (value === undefined) continue;
    cell.textContent = typeof value === 'string' ? value : fixed(value, cell.dataset.decimals ?? decimals);
  }
}

/** About `count` round numbers between two numbers. */
function ticks(low, high, count) {
  if (!(high > low)) return [low];
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5, 10].find((factor) => power * factor >= rough) ?? 10);
  const numbers = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++)
    numbers.push(Number((i * step).toPrecision(12)));
  return numbers;
}

/** Powers of ten between two numbers. */
const powers = (low, high) => {
  const values = [];
  for (let e = Math.ceil(Math.log10(low) - 1e-9); e <= Math.log10(high) + 1e-9; e++)
    values.push(10 ** e);
  return values;
};

/**
 * Draw a chart into an <svg>: axes, then marks in their order.
 *
 * x, y: { range: [low, high], label, log }
 * marks: { line: [[x, y], ...] }, { band: [[x, low, high], ...] }, { dot: [x, y], r, text },
 *        each with a class.
 */
function drawChart(svg, { x, y, marks, label }) {
  const width = svg.clientWidth || 480;
  const height = svg.clientHeight || 320;
  const [left, right, top, bottom] = [58, width - 14, 14, height - 46];
  const scale = (axis, from, to) => {
    const f = axis.log ? Math.log10 : (v) => v;
    const [low, high] = axis.range.map(f);
    return (v) => {
      const share = (f(v) - low) / (high - low);
      return from + (to - from) * Math.min(20, Math.max(-20, share));
    };
  };
  const [toX, toY] = [scale(x, left, right), scale(y, bottom, top)];
  const tickText = (axis, v) => {
    if (!axis.log) return fixed(v, Math.max(0, axis.decimals ?? (Math.abs(v) < 10 && v % 1 ? 1 : 0)));
    return v >= 0.000999 && v <= 9999 ? String(Number(v.toPrecision(3))) : v > 1 ? `${v / 1000}k` : percent(v);
  };
  const parts = [];
  const text = (px, py, words, cls, anchor = 'middle', extra = '') =>
    parts.push(`<text x="${px}" y="${py}" class="${cls}" text-anchor="${anchor}" ${extra}>${words}</text>`);
  const count = Math.max(3, Math.round((right - left) / 90));
  for (const v of x.log ? powers(...x.range) : ticks(...x.range, count)) {
    parts.push(`<path d="M${toX(v)} ${top}V${bottom}" class="grid-line"/>`);
    text(toX(v), bottom + 18, tickText(x, v), '');
  }
  for (const v of y.log ? powers(...y.range) : ticks(...y.range, 5)) {
    parts.push(`<path d="M${left} ${toY(v)}H${right}" class="grid-line"/>`);
    text(left - 8, toY(v) + 4, tickText(y, v), '', 'end');
  }
  text((left + right) / 2, height - 6, x.label, '');
  const middle = (top + bottom) / 2;
  text(15, middle, y.label, '', 'middle', `transform="rotate(-90 15 ${middle})"`);
  const path = (points) => points.map(([a, b], i) => `${i ? 'L' : 'M'}${toX(a).toFixed(1)} ${toY(b).toFixed(1)}`).join('');
  // an <svg> inside clips lines at the axes
  const clip = `x="${left}" y="${top}" width="${right - left}" height="${bottom - top}"`;
  parts.push(`<svg ${clip} viewBox="${left} ${top} ${right - left} ${bottom - top}">`);
  for (const mark of marks) {
    const cls = mark.class ?? '';
    if (mark.line?.length) parts.push(`<path d="${path(mark.line)}" class="${mark.thin ? 'thin' : 'line'} ${cls}"/>`);
    if (mark.band?.length) {
      const edge = [...mark.band.map(([a, , b]) => [a, b]), ...mark.band.map(([a, b]) => [a, b]).reverse()];
      parts.push(`<path d="${path(edge)}Z" class="band ${cls}"/>`);
    }
  }
  parts.push('</svg>');
  for (const mark of marks) {
    const cls = mark.class ?? '';
    if (mark.dot) {
      const [px, py] = [toX(mark.dot[0]), toY(mark.dot[1])];
      parts.push(`<circle cx="${px}" cy="${py}" r="${mark.r ?? 7}" class="dot ${cls}"/>`);
      if (mark.text) {
        const isRight = px > (left + right) / 2;
        text(px + (isRight ? -12 : 12), py + (mark.below ? 20 : -9), mark.text, `strong ${cls}`, isRight ? 'end' : 'start');
      }
    }
  }
  svg.setAttribute('role', 'img');
  svg.setAttribute('aria-label', label);
  svg.innerHTML = parts.join('');
}
