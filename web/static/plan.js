// The plan by keyboard: j and k go from one decision to the next, 1 to 9 choose, 0 leaves it open, a takes all proposals
// shown. Tab, the arrow keys and Enter do it all without this.
"use strict";
(() => {
  const form = document.getElementById("plan");
  if (!form) return;
  const steps = () => [...form.querySelectorAll("fieldset.decision")];
  const here = () => document.activeElement?.closest?.("fieldset.decision");
  const chosen = (step) => step.querySelector("input:checked") || step.querySelector("input");
  function go(by) {
    const all = steps();
    const at = all.indexOf(here());
    const next = all[at < 0 ? 0 : Math.min(Math.max(at + by, 0), all.length - 1)];
    if (!next) return;
    chosen(next).focus();
    next.scrollIntoView({ block: "center" });
  }
  function choose(key) {
    const step = here();
    if (!step) return;
    const inputs = [...step.querySelectorAll("input[type=radio]")];
    const input = key === "0" ? inputs.at(-1) : inputs.slice(0, -1)[Number(key) - 1];
    if (!input || input.disabled) return;
    input.checked = true;
    input.focus();
  }
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.matches?.("input:not([type=radio]):not([type=checkbox]), select, textarea")) return;
    const { key } = event;
    if (key === "j" || key === "k") go(key === "j" ? 1 : -1);
    else if (/^[0-9]$/.test(key)) choose(key);
    else if (key === "a") for (const one of form.querySelectorAll("input[data-proposed]")) one.checked = true;
    else return;
    event.preventDefault();
  });
})();
