/* The playground: logits and a label, softmax and cross-entropy recomputed. */
const state = { logits: [...given.logits], label: given.label };
const followers = []; // what else is drawn from these logits

function setRange(low, high) { // the sliders reach all logits
  for (let k = 0; k < K; k++) Object.assign(one(`#slide-${k}`), { min: low, max: high });
}
for (let k = 0; k < K; k++) {
  one(`#label-${k}`).addEventListener("change", () => { state.label = k; update(); });
  const typed = one(`#logit-${k}`), slid = one(`#slide-${k}`);
  const change = (from, to) => from.addEventListener("input", () => {
    const x = from.valueAsNumber;
    if (!Number.isFinite(x)) return; // incomplete input
    state.logits[k] = x;
    if (from === typed) reach();
    to.value = x;
    update();
  });
  change(typed, slid);
  change(slid, typed);
  const light = (on) => () => {
    for (let i = 0; i < K; i++) {
      one(`#da-${i}`).classList.toggle("lit", on);
      one(`#J-${i}-${k}`).classList.toggle("lit", on);
    }
    one(`#dz-${k}`).classList.toggle("picked", on);
  };
  for (const name of ["mouseenter", "focus"]) one(`#dz-${k}`).addEventListener(name, light(true));
  for (const name of ["mouseleave", "blur"]) one(`#dz-${k}`).addEventListener(name, light(false));
}
function reach() {
  setRange(Math.min(given.low, ...state.logits), Math.max(given.high, ...state.logits));
  for (let k = 0; k < K; k++) one(`#slide-${k}`).value = state.logits[k];
}

function update() {
  const now = compute(state.logits, state.label);
  put(one("#loss"), now.loss);
  const most = largest(now.J);
  const full = largest(now.dz, now.wrong);
  for (let k = 0; k < K; k++) {
    for (const [name, values, scale] of [["softmax", now.a, largest(now.a)], ["gradient", now.dz, full], ["wrong", now.wrong, full]]) {
      const cell = one(`#${name}-${k}`);
      put(cell, values[k]);
      setGauge(cell.previousElementSibling, values[k], scale);
    }
    put(one(`#product-${k}`), now.product[k]);
    put(one(`#da-${k}`), now.da[k]);
    put(one(`#dz-${k}`), now.product[k]);
    for (let s = 0; s < K; s++) {
      const cell = one(`#J-${k}-${s}`);
      put(cell, now.J[k][s]);
      tint(cell, now.J[k][s], most);
    }
  }
  one("#scale").textContent = `Bars are full at ${shown(largest(now.a))} for a, and at ${shown(full)} for the gradients; what is not 0 shows.`;
  explainWrong(now);
  explainExtreme(now);
  followers.forEach((follow) => follow());
}
function explainWrong(now) {
  const error = Math.max(...now.dz.map((x, k) => Math.abs(x - now.wrong[k])));
  const sum = now.wrong.reduce((a, b) => a + b);
  const verdict = one("#verdict");
  verdict.dataset.v = error;
  verdict.textContent = `The element-wise product with the diagonal is wrong by up to ${shown(error)}: `
    + "every class except the label gets no gradient. "
    + `The entries of dz sum to 0, as they must; those of the product sum to ${shown(sum)}.`;
}
function explainExtreme(now) { // where numbers of 64 bits end, the two ways part
  const a = now.a[state.label], said = one("#extreme");
  const ends = [
    now.product.some(Number.isNaN) && "−∞ · 0, which is nan",
    now.product.some((x) => Math.abs(x) === Infinity) && "products that are infinite",
  ].filter(Boolean);
  said.hidden = !ends.length;
  said.textContent = said.hidden ? "" : "The way through the Jacobian ends here: a at the label is "
    + `${a === 0 ? "rounded to 0" : `only ${shown(a)}`}, so da = −1/a is −∞, and da J has ${ends.join(" and ")}. `
    + `The loss as −log a would be ${shown(-Math.log(a))}. The fused form, a − y, never divides by a: `
    + `it and the loss from the logits, log Σ exp z − z at the label = ${shown(now.loss)}, are right.`;
}
function reset() {
  state.logits = [...given.logits];
  state.label = given.label;
  setRange(given.low, given.high);
  for (let k = 0; k < K; k++) {
    one(`#label-${k}`).checked = k === state.label;
    one(`#logit-${k}`).value = Number(state.logits[k].toFixed(4));
    one(`#slide-${k}`).value = state.logits[k];
  }
  update();
}
one("#reset").addEventListener("click", reset);
