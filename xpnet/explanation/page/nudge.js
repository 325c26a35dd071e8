/* One logit moves: all probabilities of softmax do, and of the sigmoids one. */
const nudged = { s: given.nudge.s, by: given.nudge.by };
const SMALL = 0.01;

function moved(by) { // before, after and the slopes, for both functions
  const z = state.logits, s = nudged.s;
  const shifted = z.map((x, k) => (k === s ? x + by : x));
  const before = { softmax: softmax(z), sigmoid: z.map(sigmoid) };
  const after = { softmax: softmax(shifted), sigmoid: shifted.map(sigmoid) };
  const slope = (x) => sigmoid(x) * sigmoid(-x); // a (1 - a), without a difference from 1
  const jacobians = {
    softmax: softmaxJacobian(before.softmax),
    sigmoid: z.map((x, k) => z.map((_, i) => (i === k ? slope(x) : 0))),
  };
  return ["softmax", "sigmoid"].map((name) => {
    const a = before[name], b = after[name], J = jacobians[name];
    return {
      name, before: a, after: b, J,
      actual: b.map((x, k) => x - a[k]),
      predicted: a.map((_, k) => J[k][s] * by),
    };
  });
}
function brief(x) { // in a small square, whose colour says the sign
  if (x === 0) return "0";
  if (Math.abs(x) < 0.005) return "≈0";
  return `${x < 0 ? "−" : ""}${Math.abs(x).toFixed(2).replace(/^0/, "")}`;
}
function drawNudge() {
  const { s, by } = nudged;
  const finer = moved(by / 10);
  for (const { name, before, after, J, actual, predicted } of moved(by)) {
    const full = name === "softmax" ? largest(before, after) : 1;
    const most = largest(J);
    for (let k = 0; k < K; k++) {
      const row = one(`#${name}-moves-${k}`);
      row.classList.toggle("moved", actual[k] !== 0);
      setGauge(one(".value", row), after[k], full);
      setGauge(one(".change", row), actual[k], largest(actual));
      one(".was", row).style.left = `${Math.min(100 * before[k] / full, 100)}%`;
      put(one(`#${name}-after-${k}`), after[k]);
      put(one(`#${name}-actual-${k}`), actual[k], signed);
      put(one(`#${name}-predicted-${k}`), predicted[k], signed);
      for (let i = 0; i < K; i++) {
        const cell = one(`#${name}-J-${k}-${i}`);
        put(cell, J[k][i], brief);
        tint(cell, J[k][i], most);
        cell.classList.toggle("lit", i === s);
        cell.classList.toggle("row", k === s);
      }
    }
    one(`#${name}-said`).textContent = told(name, actual, predicted, finer.find((x) => x.name === name));
  }
  one("#by-shown").textContent = signed(by);
  one("#by").setAttribute("aria-valuetext", signed(by));
}
function told(name, actual, predicted, finer) {
  const { s, by } = nudged;
  if (by === 0) return "Nothing moves yet.";
  const way = (x) => (x < 0 ? "falls" : "rises");
  const class_ = given.classes[s];
  const off = (x) => Math.max(...x.actual.map((change, k) => Math.abs(change - x.predicted[k])));
  const own = `a of class ${class_} ${way(by)} by ${shown(Math.abs(actual[s]))}, and J says ${shown(Math.abs(predicted[s]))}`;
  const others = name === "softmax"
    ? `; the other${K > 2 ? ` ${K - 1}` : ""} ${by < 0 ? "rise" : "fall"} by as much in all, for the sum stays 1`
    : "; no other moves: off its diagonal J is 0";
  return `${own}${others}. J is off by at most ${shown(off({ actual, predicted }))}, and for a tenth of Δz by ${shown(off(finer))}.`;
}
for (const radio of all("#nudged input")) {
  radio.checked = Number(radio.value) === nudged.s;
  radio.addEventListener("change", () => { nudged.s = Number(radio.value); drawNudge(); });
}
function setBy(by) { nudged.by = by; one("#by").value = by; drawNudge(); }
one("#by").addEventListener("input", (event) => setBy(event.target.valueAsNumber));
one("#unmoved").textContent = `Δz = ${SMALL}`;
one("#unmoved").addEventListener("click", () => setBy(SMALL));
one("#by").value = nudged.by;
followers.push(drawNudge);
reset();
show(Math.max(0, tabs.findIndex((tab) => tab.dataset.start === "yes")));
