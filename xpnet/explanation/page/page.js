const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const one = (selector, root = document) => root.querySelector(selector);

function shown(x) { // a number as text; its exact value is in data-v
  if (x === 0) return "0";
  const text = Math.abs(x) < 5e-5 || Math.abs(x) >= 1e5 ? x.toExponential(2) : x.toFixed(4);
  return text.replaceAll("-", "−");
}
function put(cell, x) { cell.dataset.v = x; cell.textContent = shown(x); }

/* ---- the steps ---- */
const tabs = all(".steps [role=tab]");
const conventions = all(".switch button");
let convention = document.body.dataset.convention === "column" ? "column" : "rows";
let current = 0;

function panelOf(i) { return document.getElementById(`step-${i + 1}-${convention}`); }

function show(i, focus) {
  current = i;
  tabs.forEach((tab, n) => {
    tab.setAttribute("aria-selected", n === i);
    tab.tabIndex = n === i ? 0 : -1;
    tab.setAttribute("aria-controls", `step-${n + 1}-${convention}`);
  });
  all(".panel").forEach((panel) => { panel.hidden = true; });
  const panel = panelOf(i);
  panel.hidden = false;
  if (focus) tabs[i].focus();
}
tabs.forEach((tab, i) => tab.addEventListener("click", () => show(i)));
one(".steps").addEventListener("keydown", (event) => {
  const to = { ArrowDown: current + 1, ArrowRight: current + 1, ArrowUp: current - 1, ArrowLeft: current - 1,
    Home: 0, End: tabs.length - 1 }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  show((to + tabs.length) % tabs.length, true);
});
conventions.forEach((button) => button.addEventListener("click", () => {
  convention = button.dataset.convention;
  conventions.forEach((b) => b.setAttribute("aria-pressed", b === button));
  show(current);
}));

const at = (cell) => cell.dataset.at.split(" ").map(Number);

function pick(panel, cell) { // highlight the operands of this number of the result
  const letters = [...cell.closest("table").dataset.letters];
  const place = Object.fromEntries(letters.map((letter, i) => [letter, at(cell)[i]]));
  const summed = panel.dataset.summed;
  all(".result td", panel).forEach((td) => {
    td.classList.toggle("picked", td === cell);
    td.tabIndex = td === cell ? 0 : -1;
    td.setAttribute("aria-selected", td === cell);
  });
  all(".operand table[data-n]", panel).forEach((table) => { // show one matrix of the stack
    table.hidden = "n" in place && Number(table.dataset.n) !== place.n;
  });
  all(".operand table", panel).forEach((table) => {
    const own = [...table.dataset.letters];
    const sums = own.some((letter) => summed.includes(letter));
    all("td[data-at]", table).forEach((td) => {
      const here = at(td);
      const taken = own.every((letter, i) => !(letter in place) || place[letter] === here[i]);
      td.classList.toggle("lit", taken && sums);
      td.classList.toggle("used", taken && !sums);
    });
  });
  expand(panel, cell, letters, place);
}

function factor(panel, name, place) { // the value of an operand at the indices of `place`
  for (const table of all(`.operand table[data-name="${name}"]`, panel)) {
    const own = [...table.dataset.letters];
    const found = all("td[data-at]", table).find((td) => at(td).every((x, i) => place[own[i]] === x));
    if (found) return Number(found.dataset.v);
  }
  return undefined;
}

function expand(panel, cell, letters, place) { // write the sum out, term by term
  const out = one(".expansion", panel);
  out.textContent = "";
  delete out.dataset.v;
  const names = (panel.dataset.product || "").split(" ").filter(Boolean);
  if (!names.length) return;
  let places = [place];
  for (const letter of panel.dataset.summed) {
    const length = Number(panel.dataset[`size${letter.toUpperCase()}`]);
    places = places.flatMap((p) => Array.from({ length }, (_, i) => ({ ...p, [letter]: i })));
  }
  const terms = places.map((p) => names.map((name) => factor(panel, name, p)));
  if (terms.flat().includes(undefined)) return; // too large for the page
  const sign = Number(panel.dataset.sign);
  const added = panel.dataset.added ? factor(panel, panel.dataset.added, place) : 0;
  const value = sign * terms.reduce((sum, t) => sum + t.reduce((a, b) => a * b, 1), 0) + added;
  const head = document.createElement("b");
  const index = letters.map((letter) => place[letter]).join(letters.some((l) => place[l] > 9) ? "," : "");
  head.append(one(".result .name", panel).dataset.name);
  if (index) head.append(Object.assign(document.createElement("sub"), { textContent: index }));
  out.append(head, sign < 0 ? " = −(" : " = ");
  terms.slice(0, 12).forEach((term, n) => {
    const part = document.createElement("i");
    part.className = "t";
    part.textContent = term.map((x) => (x < 0 && term.length > 1 ? `(${shown(x)})` : shown(x))).join(" · ");
    if (n) out.append(" + ");
    out.append(part);
  });
  if (terms.length > 12) out.append(" + …");
  if (sign < 0) out.append(")");
  if (panel.dataset.added) out.append(` + ${added < 0 ? `(${shown(added)})` : shown(added)}`);
  out.append(` = ${shown(value)}`);
  out.dataset.v = value;
}

all(".panel").forEach((panel) => {
  const cells = all(".result td[data-at]", panel);
  cells.forEach((cell) => cell.addEventListener("click", () => pick(panel, cell)));
  if (cells.length) pick(panel, cells[0]);
  const table = one(".result table", panel);
  if (!table) return;
  table.addEventListener("keydown", (event) => {
    const columns = table.rows[0].cells.length;
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns }[event.key];
    const next = cells[cells.indexOf(document.activeElement) + step];
    if (!step || !next) return;
    event.preventDefault();
    pick(panel, next);
    next.focus();
  });
});

/* ---- the playground: softmax and cross-entropy in a few lines ---- */
const given = JSON.parse(one("#data").textContent);
const state = { logits: [...given.logits], label: given.label };

function softmax(z) {
  const most = Math.max(...z);
  const e = z.map((x) => Math.exp(x - most)); // the shift cancels in the ratio
  const sum = e.reduce((a, b) => a + b);
  return e.map((x) => x / sum);
}
function crossEntropy(z, label) { // from logits: finite where log(softmax) is not
  const most = Math.max(...z);
  return most - z[label] + Math.log(z.reduce((sum, x) => sum + Math.exp(x - most), 0));
}
function compute(z, label) {
  const a = softmax(z);
  const J = a.map((ak, k) => a.map((as, s) => ak * ((k === s ? 1 : 0) - as)));
  const da = a.map((ak, k) => (k === label ? -1 / ak : 0));
  const dz = a.map((as, s) => as - (s === label ? 1 : 0));
  const wrong = da.map((x, k) => (k === label ? a[k] - 1 : 0)); // da_k J_kk, with a_k divided out
  return { loss: crossEntropy(z, label), a, J, da, dz, wrong };
}

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}
function gauge(signed) {
  return element("span", { className: signed ? "gauge signed" : "gauge", ariaHidden: "true" }, element("i"));
}
function setGauge(cell, x, signed) {
  const bar = one(".gauge i", cell);
  const size = Math.min(Math.abs(x), 1) * (signed ? 50 : 100);
  bar.style.left = signed ? `${x < 0 ? 50 - size : 50}%` : "0";
  bar.style.width = `${size}%`;
}

const body = one("#controls tbody");
const jacobian = one("#jacobian");
const K = given.logits.length;
given.classes.forEach((name, k) => {
  const radio = element("input", { type: "radio", name: "label", value: k, id: `label-${k}` });
  radio.setAttribute("aria-label", `the label is class ${name}`);
  const typed = element("input", { type: "number", step: "0.1", id: `logit-${k}` });
  typed.setAttribute("aria-label", `logit of class ${name}`);
  const slid = element("input", { type: "range", min: -10, max: 10, step: 0.01, id: `slide-${k}` });
  slid.setAttribute("aria-label", `logit of class ${name}, slider`);
  const number = (id) => element("span", { id: `${id}-${k}`, className: "value" });
  body.append(element("tr", {},
    element("td", {}, radio), element("td", { textContent: name }), element("td", {}, typed, slid),
    element("td", {}, gauge(false), number("softmax")), element("td", {}, gauge(true), number("gradient")),
    element("td", { className: "bad" }, gauge(true), number("wrong"))));
  radio.addEventListener("change", () => { state.label = k; update(); });
  const change = (from, to) => from.addEventListener("input", () => {
    const x = from.valueAsNumber;
    if (!Number.isFinite(x)) return; // incomplete input
    state.logits[k] = x;
    to.value = x;
    update();
  });
  change(typed, slid);
  change(slid, typed);
});
(function draw() {
  const head = element("tr", {}, element("th"), element("th", { innerHTML: "d<i>a</i>" }), element("th"));
  given.classes.forEach((_, s) => head.append(element("th", { innerHTML: `<i>s</i> = ${s}` })));
  jacobian.append(head);
  for (let k = 0; k < K; k++) {
    const row = element("tr", {}, element("th", { innerHTML: `<i>k</i> = ${k}` }),
      element("td", { id: `da-${k}`, className: "edge" }), element("th", { textContent: k === K >> 1 ? "J =" : "" }));
    for (let s = 0; s < K; s++) row.append(element("td", { id: `J-${k}-${s}` }));
    jacobian.append(row);
  }
  const foot = element("tr", {}, element("th"), element("th"), element("th", { innerHTML: "d<i>z</i> =" }));
  for (let s = 0; s < K; s++) {
    const cell = element("td", { id: `dz-${s}`, className: "edge", tabIndex: 0 });
    const light = (on) => () => {
      for (let k = 0; k < K; k++) {
        one(`#da-${k}`).classList.toggle("lit", on);
        one(`#J-${k}-${s}`).classList.toggle("lit", on);
      }
      cell.classList.toggle("picked", on);
    };
    for (const name of ["mouseenter", "focus"]) cell.addEventListener(name, light(true));
    for (const name of ["mouseleave", "blur"]) cell.addEventListener(name, light(false));
    foot.append(cell);
  }
  jacobian.append(foot);
})();

function update() {
  const now = compute(state.logits, state.label);
  put(one("#loss"), now.loss);
  const most = Math.max(...now.J.flat().map(Math.abs)) || 1;
  for (let k = 0; k < K; k++) {
    for (const [name, values, signed] of [["softmax", now.a, false], ["gradient", now.dz, true], ["wrong", now.wrong, true]]) {
      put(one(`#${name}-${k}`), values[k]);
      setGauge(one(`#${name}-${k}`).parentElement, values[k], signed);
    }
    put(one(`#da-${k}`), now.da[k]);
    put(one(`#dz-${k}`), now.dz[k]);
    for (let s = 0; s < K; s++) {
      const x = now.J[k][s];
      const cell = one(`#J-${k}-${s}`);
      put(cell, x);
      cell.style.background = `rgb(var(${x < 0 ? "--neg" : "--pos"}) / ${(0.42 * Math.abs(x)) / most})`;
    }
  }
  const error = Math.max(...now.dz.map((x, k) => Math.abs(x - now.wrong[k])));
  const sum = now.wrong.reduce((a, b) => a + b);
  const verdict = one("#verdict");
  verdict.dataset.v = error;
  verdict.textContent = `The element-wise product with the diagonal is wrong by up to ${shown(error)}: `
    + "every class except the label gets no gradient. "
    + `The entries of dz sum to 0, as they must; those of the product sum to ${shown(sum)}.`;
}
function reset() {
  state.logits = [...given.logits];
  state.label = given.label;
  for (let k = 0; k < K; k++) {
    one(`#label-${k}`).checked = k === state.label;
    one(`#logit-${k}`).value = Number(state.logits[k].toFixed(4));
    one(`#slide-${k}`).value = state.logits[k];
  }
  update();
}
one("#reset").addEventListener("click", reset);
reset();
show(Math.max(0, tabs.findIndex((tab) => tab.dataset.start === "yes")));
