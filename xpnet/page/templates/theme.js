"use strict";
{
  const themes = ["auto", "light", "dark"];
  const button = document.querySelector("#theme");
  button.addEventListener("click", () => {
    const root = document.documentElement;
    const name = themes[(themes.indexOf(root.dataset.theme || "auto") + 1) % 3];
    if (name === "auto") delete root.dataset.theme;
    else root.dataset.theme = name;
    button.querySelector("span").textContent = name;
    button.setAttribute("aria-label", `Colours: ${name}${name === "auto" ? ", as the system has them" : ""}`);
  });
}
