const one = (selector) => document.querySelector(selector);
const about = JSON.parse(one("#data").textContent);

/* ---- colours ---- */
one("#theme").addEventListener("click", () => { if (state) show(); }); // the pictures, in the new colours
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/* ---- what the page carries, gzipped, in base64 ---- */
async function blob(name) {
  const text = one(`#blob-${name}`).textContent.trim();
  const packed = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return await new Response(stream).arrayBuffer();
}

async function runtime() {
  if (about.runtime) {
    const ort = await import(about.runtime + "ort.wasm.bundle.min.mjs");
    ort.env.wasm.wasmPaths = about.runtime;
    return ort;
  }
  const source = new Blob([await blob("ort")], { type: "text/javascript" });
  const ort = await import(URL.createObjectURL(source));
  ort.env.wasm.wasmBinary = await blob("wasm");
  return ort;
}

/* ---- training: state and batch in, state and loss out ---- */
const ARRAYS = { float32: Float32Array, float64: Float64Array, int32: Int32Array };
let ort, stepper, predictor, first, x, y, weight, heldX, heldY, orders, keys;
let state = null, step = 0, losses = [], scores = [], running = false, factor = 1, spent = [];

async function load() {
  ort = await runtime();
  ort.env.wasm.numThreads = 1; // more need a server with special headers, and gain nothing here
  ort.env.logLevel = "error";
  const options = { executionProviders: ["wasm"] };
  stepper = await ort.InferenceSession.create(await blob("step"), options);
  predictor = await ort.InferenceSession.create(await blob("predict"), options);
  const packed = await blob("state");
  first = {};
  for (const { name, dtype, shape, start, length } of about.state) {
    first[name] = { dtype, shape, data: new ARRAYS[dtype](packed, start, length) };
  }
  const Real = ARRAYS[about.dtype];
  x = new Real(await blob("x"));
  heldX = new Real(await blob("held_x"));
  y = about.indices ? new BigInt64Array(await blob("y")) : new Real(await blob("y"));
  heldY = about.indices ? new BigInt64Array(await blob("held_y")) : new Real(await blob("held_y"));
  weight = about.weighted ? new Real(await blob("weight")) : null;
  orders = new Uint32Array(await blob("orders"));
  keys = new Int32Array(await blob("keys"));
  reset();
}

function reset() {
  state = {};
  for (const [name, { dtype, shape, data }] of Object.entries(first)) {
    state[name] = new ort.Tensor(dtype, data.slice(), shape);
  }
  step = 0; losses = []; scores = []; spent = [];
}

function orderOf(epoch) { // xpnet's own where the page has it, else a shuffle of the page's
  const n = about.rows;
  if ((epoch + 1) * n <= orders.length) return orders.subarray(epoch * n, (epoch + 1) * n);
  const order = Uint32Array.from({ length: n }, (_, i) => i);
  for (let i = n - 1; i > 0; i--) {
    const j = Math.floor(Math.random() * (i + 1));
    [order[i], order[j]] = [order[j], order[i]];
  }
  return order;
}
let order = null, orderEpoch = -1;

function keysOf(number) { // two for each random layer; xpnet's own where the page has them
  const n = 2 * about.random_layers;
  if ((number + 1) * n <= keys.length) return keys.slice(number * n, (number + 1) * n);
  return crypto.getRandomValues(new Int32Array(n));
}

function taken(from, rows, width) {
  const out = new from.constructor(rows.length * width);
  for (let i = 0; i < rows.length; i++) out.set(from.subarray(rows[i] * width, (rows[i] + 1) * width), i * width);
  return out;
}
const size = (shape) => shape.reduce((a, b) => a * b, 1);

async function trainStep() {
  const epoch = Math.floor(step / about.steps_per_epoch), at = step % about.steps_per_epoch;
  if (epoch !== orderEpoch) { order = orderOf(epoch); orderEpoch = epoch; }
  if (at === 0) for (const name of Object.keys(first)) if (name.startsWith("totals/")) {
    state[name] = new ort.Tensor(first[name].dtype, first[name].data.slice(), []);
  }
  const rows = order.subarray(at * about.batch_size, (at + 1) * about.batch_size);
  const feed = {};
  const give = (name, type, data, shape) => { if (stepper.inputNames.includes(name)) feed[name] = new ort.Tensor(type, data, shape); };
  for (const name of Object.keys(state)) if (stepper.inputNames.includes(name)) feed[name] = state[name];
  give("x", about.dtype, taken(x, rows, size(about.shape)), [rows.length, ...about.shape]);
  give("y", about.indices ? "int64" : about.dtype, taken(y, rows, size(about.targets)), [rows.length, ...about.targets]);
  if (weight) give("weight", about.dtype, taken(weight, rows, 1), [rows.length]);
  give("step", "int64", BigInt64Array.of(BigInt(step)), []);
  const rate = about.rates[Math.min(step, about.rates.length - 1)] * factor;
  give("lr", about.dtype, ARRAYS[about.dtype].of(rate), []);
  if (about.random_layers) give("keys", "int32", keysOf(step), [about.random_layers, 2]);
  const began = performance.now();
  const made = await stepper.run(feed);
  spent.push(performance.now() - began);
  if (spent.length > 200) spent.shift();
  for (const name of Object.keys(state)) state[name] = made["new/" + name];
  losses.push(Number(made.loss.data[0]));
  step += 1;
}

async function predict(data, rows) {
  const feed = { x: new ort.Tensor(about.dtype, data, [rows, ...about.shape]) };
  for (const name of predictor.inputNames) if (name !== "x") feed[name] = state[name];
  return (await predictor.run(feed)).probabilities;
}

let predictions = [];
async function score() {
  if (!about.classes.length || !about.held) return;
  const out = await predict(heldX, about.held), K = out.dims[1];
  let correct = 0;
  predictions = [];
  for (let n = 0; n < about.held; n++) {
    const row = out.data.subarray(n * K, (n + 1) * K);
    const said = K === 1 ? Number(row[0] > 0.5) : row.indexOf(Math.max(...row));
    predictions.push(said);
    correct += Number(said === Number(heldY[n]));
  }
  scores.push([step, correct / about.held]);
}

/* ---- drawing ---- */
const WIDTH = 600, HEIGHT = 240;
function chart(svg, low, high, label, paths) {
  const lines = [0, 0.25, 0.5, 0.75, 1].map((p) => {
    const at = HEIGHT * (1 - p);
    return `<line class="grid" x1="0" x2="${WIDTH}" y1="${at}" y2="${at}"/>`;
  });
  svg.innerHTML = lines.join("") + paths.map(([kind, points]) => `<path class="${kind}" d="${path(points, low, high)}"/>`).join("");
  const plot = svg.parentElement;
  plot.dataset.high = label(high); plot.dataset.low = label(low);
}
function path(points, low, high) {
  const stride = Math.max(1, Math.floor(points.length / 900));
  const kept = points.filter((_, i) => i % stride === 0 || i === points.length - 1);
  return kept.map(([t, v], i) => {
    const across = WIDTH * t / about.steps, up = HEIGHT * (1 - (v - low) / (high - low || 1));
    return `${i ? "L" : "M"}${across.toFixed(1)} ${up.toFixed(1)}`;
  }).join("");
}

let smooth = [];
function show() {
  one("#step").textContent = step;
  one("#epoch").textContent = (step / about.steps_per_epoch).toFixed(step % about.steps_per_epoch ? 1 : 0);
  one("#progress").value = step;
  const last = losses.at(-1);
  one("#loss").textContent = last === undefined ? "–" : last.toFixed(4);
  const score = scores.at(-1);
  one("#accuracy").textContent = score ? `${(100 * score[1]).toFixed(1)} %` : "–";
  if (spent.length) {
    const sorted = [...spent].sort((a, b) => a - b), ms = sorted[sorted.length >> 1];
    one("#time").textContent = ms < 1 ? `${Math.round(ms * 1000)} µs` : `${ms.toFixed(1)} ms`;
  } else one("#time").textContent = "–";
  if (smooth.length > losses.length) smooth = [];
  for (let i = smooth.length; i < losses.length; i++) {
    const share = Math.max(1 / (i + 1), 0.12);
    smooth.push(i ? smooth[i - 1] + share * (losses[i] - smooth[i - 1]) : losses[0]);
  }
  const top = Math.max(...losses.slice(0, 50), 0.1);
  chart(one("#losses"), 0, top, (v) => v.toFixed(2), [
    ["raw", losses.map((v, i) => [i + 1, Math.min(v, top)])],
    ["mean", smooth.map((v, i) => [i + 1, Math.min(v, top)])],
  ]);
  chart(one("#accuracies"), 0, 1, (v) => `${100 * v} %`, [["held", scores]]);
  pictures();
}

function canvas(parent) {
  const made = document.createElement("canvas");
  [made.height, made.width] = about.image;
  made.setAttribute("aria-hidden", "true");
  parent.append(made);
  return made;
}
function rgb(name) { return colour(name).split(/[\s,]+/).map(Number); }
function hex(name) {
  const v = colour(name), full = v.length === 4 ? v.replace(/[0-9a-f]/gi, "$&$&") : v;
  return [1, 3, 5].map((i) => parseInt(full.slice(i, i + 2), 16));
}
function paint(where, pixel) { // pixel: position -> [r, g, b, opacity]
  const context = where.getContext("2d"), image = context.createImageData(where.width, where.height);
  for (let i = 0; i < where.width * where.height; i++) image.data.set(pixel(i), 4 * i);
  context.putImageData(image, 0, 0);
}
const faded = (tone, share) => [...tone, 255 * share];

let cards = [], units = [];
function setUp() {
  document.querySelectorAll(".scored").forEach((e) => { e.hidden = !about.classes.length || !about.held; });
  if (!about.image) return;
  one("#pictures").hidden = !about.held || !about.classes.length;
  one("#first-layer").hidden = !about.first_layer;
  for (let n = 0; n < Math.min(about.pictures, about.held); n++) {
    const card = document.createElement("li"), text = document.createElement("span"), small = document.createElement("small");
    const where = canvas(card);
    text.append(small);
    card.append(text);
    one("#rows").append(card);
    cards.push({ card, where, text, small });
  }
  for (let u = 0; u < about.shown; u++) {
    const item = document.createElement("li");
    one("#weights").append(item);
    units.push(canvas(item));
  }
}
function pictures() {
  if (!about.image) return;
  const D = size(about.shape), ink = hex("--ink");
  cards.forEach(({ card: item, where, text, small }, n) => {
    const row = heldX.subarray(n * D, (n + 1) * D);
    let low = Infinity, high = -Infinity;
    row.forEach((v) => { low = Math.min(low, v); high = Math.max(high, v); });
    paint(where, (i) => faded(ink, (row[i] - low) / (high - low || 1)));
    const said = predictions[n], right = said === Number(heldY[n]);
    item.className = said === undefined ? "" : right ? "right" : "wrong";
    text.firstChild.nodeType === 3 && text.firstChild.remove();
    text.prepend(said === undefined ? "?" : about.classes[said]);
    small.textContent = said === undefined || right ? "" : about.classes[Number(heldY[n])];
    item.setAttribute("aria-label", said === undefined ? "not predicted yet"
      : `${about.classes[said]}, ${right ? "right" : `wrong: it is ${about.classes[Number(heldY[n])]}`}`);
  });
  if (!about.first_layer) return;
  const W = state[about.first_layer], J = W.dims[1], pos = rgb("--pos"), neg = rgb("--neg");
  units.forEach((where, u) => {
    let most = 1e-12;
    for (let i = 0; i < D; i++) most = Math.max(most, Math.abs(W.data[i * J + u]));
    paint(where, (i) => {
      const v = W.data[i * J + u] / most;
      return faded(v < 0 ? neg : pos, Math.abs(v));
    });
  });
}

/* ---- the weights as a safetensors file: a header in JSON, then the arrays ---- */
const KINDS = { float32: "F32", float64: "F64", int32: "I32" };
function safetensors() {
  const header = { __metadata__: { xpnet_step: JSON.stringify({ step, seed: about.seed, fingerprint: about.fingerprint }) } };
  const parts = [];
  let end = 0;
  for (const [name, t] of Object.entries(state)) {
    const bytes = new Uint8Array(t.data.buffer, t.data.byteOffset, t.data.byteLength).slice();
    header[name] = { dtype: KINDS[t.type], shape: [...t.dims], data_offsets: [end, end + bytes.length] };
    end += bytes.length;
    parts.push(bytes);
  }
  let text = new TextEncoder().encode(JSON.stringify(header));
  const padded = new Uint8Array(Math.ceil(text.length / 8) * 8).fill(32);
  padded.set(text);
  const length = new Uint8Array(8);
  new DataView(length.buffer).setBigUint64(0, BigInt(padded.length), true);
  return new Blob([length, padded, ...parts], { type: "application/octet-stream" });
}

/* ---- controls ---- */
function say(text, bad) { one("#status").textContent = text; one("#status").classList.toggle("bad", Boolean(bad)); }
const frame = () => new Promise((go) => setTimeout(go, 0));
const play = one("#play");

async function trained(upTo, watched) {
  let painted = 0, since = 0;
  // At a pace to watch, the whole training takes about ten seconds; at full speed, what it takes.
  const pace = () => (watched && !one("#fast").checked ? Math.max(1, Math.ceil(about.steps / 600)) : Infinity);
  while (step < upTo && (running || !watched)) {
    await trainStep();
    since += 1;
    if (!Number.isFinite(losses.at(-1))) { running = false; say("The loss is not finite: lower the learning rate, and reset.", true); break; }
    if (since >= pace() || performance.now() - painted > 60) {
      if (performance.now() - painted > 60) { await score(); show(); painted = performance.now(); }
      await (pace() === Infinity ? frame() : new Promise((go) => setTimeout(go, 14)));
      since = 0;
    }
  }
  await score();
  show();
}
let current = Promise.resolve(); // what trains now: nothing else may step, nor put the state back
async function toggle() {
  if (running) { running = false; return; }
  current = trainAll();
  await current;
}
async function trainAll() {
  running = true; play.textContent = "Pause"; say("");
  await trained(about.steps, true);
  running = false;
  play.textContent = step >= about.steps ? "Done" : "Train";
  play.disabled = step >= about.steps;
  one("#once").disabled = play.disabled;
  if (play.disabled) say(about.classes.length && about.held ? `Learnt: ${one("#accuracy").textContent} of the rows held out are predicted correctly.` : "All steps are taken.");
}
play.addEventListener("click", toggle);
one("#once").addEventListener("click", () => {
  if (!running) current = current.then(() => trained(Math.min(step + 1, about.steps), false));
});
one("#reset").addEventListener("click", async () => {
  running = false;
  await current;
  reset(); orderEpoch = -1; smooth = []; say("");
  play.textContent = "Train"; play.disabled = one("#once").disabled = false;
  await score(); show();
});
one("#factor").addEventListener("input", (event) => {
  factor = 10 ** Number(event.target.value);
  one("#factor-shown").textContent = Number(factor.toPrecision(2));
});
one("#download").addEventListener("click", () => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(safetensors());
  link.download = `${about.name}-step-${step}.safetensors`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
});

const ready = load().then(async () => {
  setUp(); await score(); show();
  play.textContent = "Train";
  for (const id of ["play", "once", "reset", "download"]) one(`#${id}`).disabled = false;
}).catch((error) => {
  play.textContent = "Train";
  say(about.runtime ? `onnxruntime-web could not be loaded from ${about.runtime}: ${error.message}` : `This browser cannot run the page: ${error.message}`, true);
  throw error;
});
