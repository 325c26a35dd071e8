// What Material leaves out for a keyboard and a screen reader: names, and a way into what scrolls.
const SCROLL = ".md-typeset__scrollwrap, pre > code, div.formulas";

function complete() {
  document.querySelector(".md-search")?.setAttribute("aria-label", "Search");
  for (const element of document.querySelectorAll(`:is(${SCROLL}):not([tabindex])`)) {
    element.tabIndex = 0;
  }
  document.querySelectorAll(".md-code__nav:not([aria-label])").forEach((element, n) => {
    element.setAttribute("aria-label", `Code ${element.closest("pre")?.id || n}`);
  });
}

complete();
new MutationObserver(complete).observe(document.body, { childList: true, subtree: true });
