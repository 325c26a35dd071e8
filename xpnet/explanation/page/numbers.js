/* What all parts of the page use: elements, numbers as text, softmax and its loss. */
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const one = (selector, root = document) => root.querySelector(selector);
const given = JSON.parse(one("#data").textContent);
const K = given.logits.length;

function shown(x) { // a number as text; its exact value is in data-v
  if (x === 0) return "0";
  if (Number.isNaN(x)) return "nan";
  const size = Math.abs(x);
  const text = size === Infinity ? `${x < 0 ? "-" : ""}∞` : size < 5e-5 || size >= 1e5 ? x.toExponential(2) : x.toFixed(4);
  return text.replaceAll("-", "−");
}
const signed = (x) => (x > 0 ? "+" : "") + shown(x);
function put(cell, x, as = shown) { cell.dataset.v = x; cell.textContent = as(x); }

/* A bar of x where `full` fills it; what is not 0 can be seen. */
function setGauge(gauge, x, full, isSigned = gauge.classList.contains("signed")) {
  const bar = one("i", gauge);
  const size = Math.min(Math.abs(x) / full, 1) * (isSigned ? 50 : 100) || 0;
  bar.style.left = isSigned && x < 0 ? `calc(50% - max(${size}%, 1.5px))` : isSigned ? "50%" : "0";
  bar.style.width = x === 0 || Number.isNaN(x) ? "0" : `max(${size}%, 1.5px)`;
}
/* A colour of x where `most` is the strongest. The cube root keeps small ones apart from 0. */
function tint(cell, x, most) {
  const part = Number.isFinite(x) && most ? 0.45 * Math.cbrt(Math.abs(x) / most) : 0;
  cell.style.background = `rgb(var(${x < 0 ? "--neg" : "--pos"}) / ${part})`;
}
const largest = (...rows) => Math.max(...rows.flat(2).map(Math.abs).filter(Number.isFinite)) || 1;

function softmax(z) {
  const most = Math.max(...z);
  const e = z.map((x) => Math.exp(x - most)); // the shift cancels in the ratio
  const sum = e.reduce((a, b) => a + b);
  return e.map((x) => x / sum);
}
const sigmoid = (x) => (x < 0 ? Math.exp(x) / (1 + Math.exp(x)) : 1 / (1 + Math.exp(-x)));
function softmaxJacobian(a) {
  return a.map((ak, k) => a.map((as, s) => ak * ((k === s ? 1 : 0) - as)));
}
function crossEntropy(z, label) { // from logits: finite where log(softmax) is not
  const most = Math.max(...z);
  return most - z[label] + Math.log(z.reduce((sum, x) => sum + Math.exp(x - most), 0));
}
function compute(z, label) {
  const a = softmax(z);
  const J = softmaxJacobian(a);
  const da = a.map((ak, k) => (k === label ? -1 / ak : 0));
  const dz = a.map((as, s) => as - (s === label ? 1 : 0));
  const product = a.map((_, s) => da.reduce((sum, x, k) => sum + x * J[k][s], 0));
  const wrong = da.map((x, k) => (k === label ? a[k] - 1 : 0)); // da_k J_kk, with a_k divided out
  return { loss: crossEntropy(z, label), a, J, da, dz, product, wrong };
}
