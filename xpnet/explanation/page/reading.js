/* The letters, the code to copy, and areas that scroll. */
const lettersButton = one("#letters");
function setLetters(open) {
  one("#letters-panel").hidden = !open;
  lettersButton.setAttribute("aria-expanded", open);
}
if (lettersButton) {
  lettersButton.addEventListener("click", () => setLetters(lettersButton.getAttribute("aria-expanded") !== "true"));
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || lettersButton.getAttribute("aria-expanded") !== "true") return;
    setLetters(false);
    lettersButton.focus();
  });
}
function markLetters(panel) { // those that the step names
  const names = new Set(all(".tensor .name", panel).map((e) => e.dataset.name));
  const letters = all("table.m", panel).flatMap((table) => [...table.dataset.letters]);
  for (const row of all("#legend [data-name]")) {
    row.classList.toggle("here", names.has(row.dataset.name) || letters.includes(row.dataset.name));
  }
}

const copyButton = one("#copy");
async function copyText(text, from) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch { // no permission, or no clipboard: as people did before there was one
    getSelection().selectAllChildren(from);
    return document.execCommand("copy");
  }
}
if (copyButton) copyButton.addEventListener("click", async () => {
  const script = one("#script code");
  const done = await copyText(script.textContent, script);
  one("#copied").textContent = done ? "Copied." : "It is selected: press Ctrl+C, or ⌘C.";
});

/* What scrolls sideways is marked, and can be reached by the keyboard. */
const SCROLLERS = ".scroll, .tensor, .formula, .triple, .facts pre, .facts dd, .expansion, #script";
function markScrollers() {
  for (const area of all(SCROLLERS)) {
    const scrolls = area.scrollWidth > area.clientWidth + 1;
    area.classList.toggle("more", scrolls);
    if (scrolls) area.tabIndex = 0;
    else if (!area.hasAttribute("role")) area.removeAttribute("tabindex");
  }
}
addEventListener("resize", markScrollers);
