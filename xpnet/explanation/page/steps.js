/* The steps: tabs, conventions, and the sum behind a number of the result. */
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
  keepInView(tabs[i]);
  turn(one("#before"), i - 1, "←");
  turn(one("#after"), i + 1, "→");
  markLetters(panel);
  markScrollers();
  if (focus) tabs[i].focus({ preventScroll: true });
}
function keepInView(tab) { // in the strip alone: the page itself stays where it is
  const strip = one(".steps");
  strip.scrollLeft = tab.offsetLeft - (strip.clientWidth - tab.offsetWidth) / 2;
  strip.scrollTop = tab.offsetTop - (strip.clientHeight - tab.offsetHeight) / 2;
}
function turn(button, to, arrow) { // to the step before or after
  const tab = tabs[to];
  button.hidden = !tab;
  button.dataset.to = to;
  if (!tab) return;
  const title = one("span:last-child", tab).firstChild.textContent.trim();
  button.textContent = arrow === "→" ? `${to + 1} ${title} →` : `← ${to + 1} ${title}`;
}
for (const button of all(".turn button")) {
  button.addEventListener("click", () => {
    const other = one(`.turn button:not(#${button.id})`);
    show(Number(button.dataset.to));
    if (button.hidden) other.focus();
  });
}
all("[data-step]").forEach((link) => link.addEventListener("click", () => show(Number(link.dataset.step) - 1, true)));
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

for (const place of all("[data-copy]")) {
  const from = `#${place.dataset.copy} [data-name="${one(".name", place.parentElement).dataset.name}"]`;
  const copies = all(`${from}:not(.name)`).map((table) => table.cloneNode(true));
  for (const table of copies) table.role = place.closest(".result") ? "grid" : null;
  place.replaceWith(...copies);
}
for (const table of all("table.m")) { // each number gets its indices, and its value where that is its text
  const before = table.dataset.n === undefined ? [] : [table.dataset.n];
  const own = table.dataset.letters.length - before.length;
  [...table.rows].forEach((row, r) => [...row.cells].forEach((td, c) => {
    td.dataset.at = [...before, ...(own === 2 ? [r, c] : own === 1 ? [r + c] : [])].join(" ");
    td.dataset.v ??= td.textContent.replace("−", "-").replace("∞", "Infinity");
    if (table.role === "grid") td.role = "gridcell";
  }));
}
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
  const sign = Number(panel.dataset.sign ?? 1);
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
