// Charts over the steps of several runs: hover, zoom, keyboard, and a legend that hides runs.

const SIZE = { width: 520, height: 260, left: 62, right: 12, top: 10, bottom: 34 };
const COLOURS = 8;
const DASHES = ["", "6 3", "2 3", "8 3 2 3"];

/** Place of the number in sorted `xs` that is nearest to x. */
function nearest(xs, x) {
  let low = 0, high = xs.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (xs[middle] > x) high = middle; else low = middle;
  }
  return Math.abs(xs[low] - x) <= Math.abs(xs[high] - x) ? low : high;
}

/** Smallest and largest step, of all series. */
function extentX(series) {
  const every = series.flatMap((one) => [one.x[0], one.x[one.x.length - 1]]);
  return [Math.min(...every), Math.max(...every)];
}

/** Range of the values of series between two steps, errors included, with a margin. */
function extentY(series, [from, to]) {
  let low = Infinity, high = -Infinity;
  for (const { x, y, e } of series) {
    for (let i = 0; i < x.length; i++) {
      if (x[i] < from || x[i] > to || y[i] === null) continue;
      low = Math.min(low, y[i] - (e[i] || 0));
      high = Math.max(high, y[i] + (e[i] || 0));
    }
  }
  if (low > high) return [0, 1];
  const margin = (high - low) * 0.05 || Math.abs(high) * 0.05 || 1;
  return [low - margin, high + margin];
}

/** A range of steps, zoomed about a step by a factor, within the whole range. */
function zoomed([from, to], centre, factor, [first, last]) {
  const left = Math.max(first, centre - (centre - from) * factor);
  const right = Math.min(last, centre + (to - centre) * factor);
  return right - left < 1 ? [from, to] : [left, right];
}

/** Path of a line; a gap for each missing number. */
function linePath(xs, ys, toX, toY) {
  let path = "", pen = "M";
  for (let i = 0; i < xs.length; i++) {
    if (ys[i] === null) { pen = "M"; continue; }
    path += `${pen}${toX(xs[i]).toFixed(1)} ${toY(ys[i]).toFixed(1)}`;
    pen = "L";
  }
  return path;
}

/** Path of the band of one standard error; empty without errors. */
function bandPath({ x, y, e }, toX, toY) {
  const places = x.map((_, i) => i).filter((i) => y[i] !== null && e[i] !== null);
  if (places.length < 2) return "";
  const point = (i, sign) => `${toX(x[i]).toFixed(1)} ${toY(y[i] + sign * e[i]).toFixed(1)}`;
  const upper = places.map((i) => point(i, 1));
  const lower = places.reverse().map((i) => point(i, -1));
  return `M${[...upper, ...lower].join("L")}Z`;
}

/** A number as text, of four digits. */
function shown(number) {
  return number === null || number === undefined ? "-" : String(Number(number.toPrecision(4)));
}

/** Lines of the box at a step: the step, then each series with value and error. */
function tipText(series, labels, step) {
  const lines = series
    .filter(({ x }) => step >= x[0] - 0.5 && step <= x[x.length - 1] + 0.5)
    .map(({ group, x, y, e }) => {
      const i = nearest(x, step);
      const error = e[i] === null || e[i] === undefined ? "" : ` ± ${shown(e[i])}`;
      return `${labels[group]}: ${shown(y[i])}${error}`;
    });
  return [`step ${Math.round(step)}`, ...lines].join("\n");
}

function draw(document, data) {
  const svgNode = (tag, attributes, parent) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    if (parent) parent.append(node);
    return node;
  };
  const node = (tag, parent, text = "") => {
    const made = document.createElement(tag);
    made.textContent = text;
    parent.append(made);
    return made;
  };
  const colour = (group) => `var(--c${group % COLOURS})`;
  const hidden = new Set();
  const charts = [];

  const legend = document.getElementById("legend");
  data.labels.forEach((label, group) => {
    const button = node("button", legend, label);
    button.type = "button";
    button.style.setProperty("--swatch", colour(group));
    button.setAttribute("aria-pressed", "true");
    button.addEventListener("click", () => {
      if (hidden.has(group)) hidden.delete(group); else hidden.add(group);
      button.setAttribute("aria-pressed", String(!hidden.has(group)));
      charts.forEach((redraw) => redraw());
    });
  });

  for (const chart of data.charts) {
    const figure = node("figure", document.getElementById("charts"));
    const title = chart.unit ? `${chart.name}, ${chart.unit}` : chart.name;
    node("figcaption", figure, title);
    const { width, height, left, right, top, bottom } = SIZE;
    const svg = svgNode("svg", { viewBox: `0 0 ${width} ${height}`, tabindex: "0", role: "img" });
    figure.append(svg);
    const tip = node("div", figure);
    tip.className = "tip";
    tip.setAttribute("role", "status");
    tip.hidden = true;
    const whole = extentX(chart.series);
    let view = whole, cursor = null, start = null;
    const visible = () => chart.series.filter(({ group }) => !hidden.has(group));
    const toX = (x) => left + ((x - view[0]) / (view[1] - view[0] || 1)) * (width - left - right);
    const toStep = (event) => {
      const box = svg.getBoundingClientRect();
      const x = ((event.clientX - box.left) / (box.width || 1)) * width;
      const share = (x - left) / (width - left - right);
      return view[0] + Math.min(1, Math.max(0, share)) * (view[1] - view[0]);
    };

    const redraw = () => {
      const series = visible();
      const range = extentY(series, view);
      const toY = (y) => top + ((range[1] - y) / (range[1] - range[0])) * (height - top - bottom);
      svg.replaceChildren();
      svg.setAttribute(
        "aria-label",
        `${title} over steps ${Math.round(view[0])} to ${Math.round(view[1])}: ` +
          series.map((one) => `${data.labels[one.group]} ends at ${shown(one.y.at(-1))}`).join(", "),
      );
      for (const y of ticks(...range, 5)) {
        svgNode("line", { class: "grid", x1: left, x2: width - right, y1: toY(y), y2: toY(y) }, svg);
        const at = { x: left - 6, y: toY(y) + 4, "text-anchor": "end" };
        svgNode("text", at, svg).textContent = shown(y);
      }
      for (const x of ticks(...view, 6)) {
        const at = { x: toX(x), y: height - bottom + 16, "text-anchor": "middle" };
        svgNode("text", at, svg).textContent = shown(x);
      }
      const middle = { x: (left + width - right) / 2, y: height - 4, "text-anchor": "middle" };
      svgNode("text", middle, svg).textContent = "SVI step";
      const inside = (x) => x >= view[0] - 1e-9 && x <= view[1] + 1e-9;
      for (const one of series) {
        const places = one.x.map((_, i) => i).filter((i) => inside(one.x[i]));
        const part = {
          x: places.map((i) => one.x[i]),
          y: places.map((i) => one.y[i]),
          e: places.map((i) => one.e[i]),
        };
        const band = { d: bandPath(part, toX, toY), fill: colour(one.group), opacity: "0.18" };
        svgNode("path", band, svg);
        const dash = DASHES[Math.floor(one.group / COLOURS) % DASHES.length];
        const line = { class: "line", d: linePath(part.x, part.y, toX, toY) };
        svgNode("path", { ...line, stroke: colour(one.group), "stroke-dasharray": dash }, svg);
      }
      if (start !== null && cursor !== null) {
        const [x1, x2] = [toX(start), toX(cursor)].sort((a, b) => a - b);
        const box = { class: "brush", x: x1, y: top, width: x2 - x1, height: height - top - bottom };
        svgNode("rect", box, svg);
      }
      tip.hidden = cursor === null;
      if (cursor !== null) {
        const x = toX(cursor);
        const line = { class: "cursor", x1: x, x2: x, y1: top, y2: height - bottom };
        svgNode("line", line, svg);
        tip.textContent = tipText(series, data.labels, cursor);
        tip.style.left = x > width / 2 ? "4.5rem" : "auto";
        tip.style.right = x > width / 2 ? "auto" : "1rem";
      }
    };

    svg.addEventListener("pointermove", (event) => { cursor = toStep(event); redraw(); });
    svg.addEventListener("pointerleave", () => { cursor = start = null; redraw(); });
    svg.addEventListener("pointerdown", (event) => { start = cursor = toStep(event); });
    svg.addEventListener("pointerup", (event) => {
      const range = [start ?? toStep(event), toStep(event)].sort((a, b) => a - b);
      if (range[1] - range[0] >= 1) view = range;
      start = null;
      redraw();
    });
    svg.addEventListener("dblclick", () => { view = whole; redraw(); });
    svg.addEventListener("blur", () => { cursor = null; redraw(); });
    svg.addEventListener("keydown", (event) => {
      const middle = cursor ?? (view[0] + view[1]) / 2;
      const stride = Math.max(1, (view[1] - view[0]) / 50);
      const moves = {
        ArrowLeft: () => { cursor = Math.max(view[0], middle - stride); },
        ArrowRight: () => { cursor = Math.min(view[1], middle + stride); },
        "+": () => { view = zoomed(view, middle, 0.5, whole); },
        "-": () => { view = zoomed(view, middle, 2, whole); },
        Escape: () => { view = whole; cursor = null; },
      };
      const move = moves[event.key === "=" ? "+" : event.key];
      if (!move) return;
      event.preventDefault();
      move();
      redraw();
    });
    charts.push(redraw);
    redraw();
  }
}

if (typeof document !== "undefined") {
  draw(document, JSON.parse(document.getElementById("data").textContent));
}
