// Reads live.js again every second, which calls `show` with the state of the run, and draws it.

const WIDTH = 460, HEIGHT = 260, LEFT = 52, RIGHT = 12, TOP = 10, BOTTOM = 38;
const WINDOW = 10; // steps of a mean
const ENDED = new Set(["finished", "interrupted"]);
let last = "", silent = 0, ended = false;

/** Range of numbers with a margin; of at least a little. */
function range(numbers) {
  const finite = numbers.filter((number) => number !== null && number !== undefined);
  if (!finite.length) return [0, 1];
  const low = Math.min(...finite), high = Math.max(...finite);
  const margin = (high - low) * 0.06 || Math.abs(high) * 0.05 || 1;
  return [low - margin, high + margin];
}

/** Mean of each number and the numbers before it. */
function smooth(values) {
  return values.map((_, i) => {
    const some = values.slice(Math.max(0, i + 1 - WINDOW), i + 1).filter((value) => value !== null);
    return some.length ? some.reduce((a, b) => a + b) / some.length : null;
  });
}

function node(name, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

/** Empty chart in a figure, with axes. Returns a function that adds shapes, and the scales. */
function chart(figure, label, xs, ys, xName, yName) {
  const [x0, x1] = range(xs), [y0, y1] = range(ys);
  const toX = (x) => LEFT + ((x - x0) / (x1 - x0)) * (WIDTH - LEFT - RIGHT);
  const toY = (y) => HEIGHT - BOTTOM - ((y - y0) / (y1 - y0)) * (HEIGHT - TOP - BOTTOM);
  const svg = node("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": label });
  for (const y of ticks(y0, y1, 5)) {
    svg.append(node("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: toY(y), y2: toY(y) }));
    svg.append(node("text", { x: LEFT - 6, y: toY(y) + 4, "text-anchor": "end" }, y));
  }
  for (const x of ticks(x0, x1, 6)) {
    svg.append(node("text", { x: toX(x), y: HEIGHT - BOTTOM + 16, "text-anchor": "middle" }, x));
  }
  svg.append(node("text", { x: (WIDTH + LEFT) / 2, y: HEIGHT - 4, "text-anchor": "middle" }, xName));
  svg.append(node("text", { x: 12, y: TOP + 4, "dominant-baseline": "hanging" }, yName));
  figure.querySelector("svg")?.remove();
  figure.append(svg);
  const line = (kind, px, py) => {
    const points = px.map((x, i) => [x, py[i]]).filter(([x, y]) => x !== null && y !== null);
    svg.append(node("polyline", { class: kind, points: points.map(([x, y]) => `${toX(x)},${toY(y)}`).join(" ") }));
  };
  const dot = (kind, x, y) => svg.append(node("circle", { class: kind, cx: toX(x), cy: toY(y), r: 4.5 }));
  return { svg, line, dot, toX, toY, x0, x1 };
}

function drawElbo({ curves, log_z: [logZ, error], before, start }) {
  const mean = smooth(curves.elbo), width = 2 * (error ?? 0);
  const label = `ELBO of each step and log Z, ${logZ?.toFixed(3)} nats`;
  const figure = document.getElementById("elbo");
  const { svg, line, toY, toX, x0, x1 } = chart(
    figure, label, [0, ...curves.step], [...curves.elbo, logZ, before], "SVI step", "nats");
  if (logZ !== null) {
    const top = toY(logZ + width), height = toY(logZ - width) - top;
    svg.append(node("rect", { class: "band", x: LEFT, width: WIDTH - LEFT - RIGHT, y: top, height }));
    line("posterior", [x0, x1], [logZ, logZ]);
    svg.append(node("text", { x: WIDTH - RIGHT, y: toY(logZ) - 5, "text-anchor": "end" }, "log Z"));
  }
  line("prior", [x0, x1], [before, before]);
  svg.append(node("text", { x: WIDTH - RIGHT, y: toY(before) - 5, "text-anchor": "end" }, `ELBO of the ${start}`));
  line("raw", curves.step, curves.elbo);
  line("guide", curves.step, mean);
}

function drawPlane({ curves, frontier }) {
  const figure = document.getElementById("plane");
  figure.hidden = !frontier.length;
  if (!frontier.length) return;
  const kl = smooth(curves.kl), reward = smooth(curves.reward);
  const all = frontier.filter((point) => !point[2]), [own] = frontier.filter((point) => point[2]);
  const { line, dot } = chart(
    figure, "Reward of the guide against its KL to the prior, and the frontier",
    [0, ...all.map((point) => point[0]), ...kl], [...all.map((point) => point[1]), ...reward],
    "KL(q || p0), nats", "E[r]");
  line("posterior", all.map((point) => point[0]), all.map((point) => point[1]));
  dot("target", own[0], own[1]);
  line("guide", kl, reward);
  const end = kl.length - 1;
  if (end >= 0 && kl[end] !== null && reward[end] !== null) dot("now", kl[end], reward[end]);
}

function duration(seconds) {
  const whole = Math.round(seconds), minutes = Math.floor(whole / 60) % 60, hours = Math.floor(whole / 3600);
  if (hours) return `${hours} h ${minutes} min`;
  return minutes ? `${minutes} min ${whole % 60} s` : `${whole} s`;
}

/** Draw a version of the run. live.js calls this function. */
function show(run) {
  const version = JSON.stringify(run);
  silent = version === last ? silent + 1 : 0;
  const quiet = silent > 30 && !ENDED.has(run.state) ? " No news for half a minute: the run is slow, or has ended." : "";
  const left = run.left === null ? "" : `, ${duration(run.left)} left`;
  const state = {
    starting: "The first step is on its way.",
    running: `Step ${run.step}: ${duration(run.elapsed)} so far${left}.`,
    finished: "Finished. The report is written after the last measurement.",
    interrupted: `Interrupted after step ${run.step}. The report has the guide so far.`,
  }[run.state];
  document.getElementById("state").textContent = state + quiet;
  ended = ENDED.has(run.state);
  document.getElementById("report").hidden = !ended;
  if (version === last) return;
  last = version;
  const share = ended ? 1 : run.left === null ? 0 : run.elapsed / (run.elapsed + run.left);
  document.getElementById("progress").value = share;
  const mean = smooth(run.curves.elbo).at(-1), logZ = run.log_z[0];
  if (mean !== undefined && mean !== null && logZ !== null) {
    document.getElementById("gap").textContent =
      `KL(q || p*) about ${(logZ - mean).toFixed(2)} nats (log Z ${logZ.toFixed(2)} - ELBO ${mean.toFixed(2)}), ` +
      `of ${(logZ - run.before).toFixed(2)} nats of the ${run.start}.` +
      run.warnings.map((warning) => ` (?) ${warning}: log Z may be far off.`).join("");
  }
  drawElbo(run);
  drawPlane(run);
  const body = document.querySelector("#texts tbody");
  document.getElementById("texts").hidden = !run.samples.length;
  body.replaceChildren(...run.samples.map(([text, reward]) => {
    const row = document.createElement("tr");
    row.insertCell().textContent = reward === null ? "none" : reward.toFixed(2);
    row.insertCell().textContent = text;
    return row;
  }));
}

/** Read live.js by a script element, which a page from a file may do. */
function read() {
  const script = document.createElement("script");
  script.src = `live.js?${Date.now()}`;
  script.onload = script.onerror = () => {
    script.remove();
    if (!ended) setTimeout(read, 1000);
  };
  document.body.append(script);
}

read();
