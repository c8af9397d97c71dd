"use strict";
document.documentElement.classList.add("js");

// Tabs: the links of the navigation, one pane at a time; arrow keys move between them.
const tabs = [...document.querySelectorAll(".tabs a")];
const panes = tabs.map((tab) => document.getElementById(tab.hash.slice(1)));
const show = (wanted, focus) => {
  const at = Math.max(0, wanted);
  tabs.forEach((tab, i) => {
    tab.setAttribute("aria-selected", String(i === at));
    tab.tabIndex = i === at ? 0 : -1;
    panes[i].hidden = i !== at;
  });
  if (focus) tabs[at].focus();
};
const open = (at, focus) => {
  show(at, focus);
  try { history.replaceState(null, "", tabs[at].hash); } catch { /* pages inside of others may not */ }
};
document.querySelector(".tabs").setAttribute("role", "tablist");
tabs.forEach((tab, i) => {
  tab.setAttribute("role", "tab");
  tab.setAttribute("aria-controls", panes[i].id);
  panes[i].setAttribute("role", "tabpanel");
  panes[i].setAttribute("aria-labelledby", tab.id);
  tab.addEventListener("click", (event) => { event.preventDefault(); open(i, false); });
  tab.addEventListener("keydown", (event) => {
    const last = tabs.length - 1;
    const to = { ArrowRight: i === last ? 0 : i + 1, ArrowLeft: i ? i - 1 : last, Home: 0, End: last }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    open(to, true);
  });
});
const follow = () => show(tabs.findIndex((tab) => tab.hash === location.hash), false);
addEventListener("hashchange", follow);
follow();

// Theme: the system's until the button is pressed; kept for this visit only.
const button = document.querySelector(".theme");
const dark = matchMedia("(prefers-color-scheme: dark)");
button.hidden = false;
button.addEventListener("click", () => {
  const root = document.documentElement;
  const now = root.dataset.theme ?? (dark.matches ? "dark" : "light");
  root.dataset.theme = now === "dark" ? "light" : "dark";
  button.querySelector("span").textContent = root.dataset.theme;
});

// Fixed prompts: the first step beside the chosen one, or every step of one prompt.
for (const box of document.querySelectorAll("[data-evolution]")) {
  const controls = box.querySelector(".controls");
  const slider = controls.querySelector("input");
  const choice = controls.querySelector("select");
  const prompts = [...box.querySelectorAll(".prompt")];
  const update = () => {
    const at = Number(slider.value);
    const one = choice && choice.value !== "" ? Number(choice.value) : -1;
    prompts.forEach((prompt, i) => {
      prompt.hidden = one >= 0 && i !== one;
      prompt.querySelectorAll(".frame").forEach((frame, k) => {
        frame.hidden = one < 0 && k !== 0 && k !== at;
        frame.classList.toggle("chosen", k === at);
      });
    });
    const frame = prompts[0].querySelectorAll(".frame")[at];
    slider.parentElement.querySelector("output").textContent = frame.dataset.step;
    slider.setAttribute("aria-valuetext", `step ${frame.dataset.step}`);
  };
  controls.hidden = Number(slider.max) < 1;
  slider.addEventListener("input", update);
  if (choice) choice.addEventListener("change", update);
  update();
}

// Small clips play while they are seen, without controls that would cover them; a click or space stops them.
const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
const seen = new IntersectionObserver((entries) => entries.forEach(({ target, isIntersecting }) => {
  if (!isIntersecting) target.pause();
  else if (!still && !target.dataset.stopped) target.play().catch(() => {});
}));
for (const clip of document.querySelectorAll("video.small")) {
  const toggle = () => {
    clip.dataset.stopped = clip.paused ? "" : "yes";
    if (clip.paused) clip.play().catch(() => {}); else clip.pause();
  };
  clip.controls = false;
  clip.tabIndex = 0;
  clip.title = "Click or press space to stop or play";
  clip.addEventListener("click", toggle);
  clip.addEventListener("keydown", (event) => {
    if (event.key !== " " && event.key !== "Enter") return;
    event.preventDefault();
    toggle();
  });
  seen.observe(clip);
}

// Samples by step: one step at a time.
for (const box of document.querySelectorAll("[data-blocks]")) {
  const choice = box.querySelector("select");
  if (!choice) continue;
  const blocks = [...box.querySelectorAll(".block")];
  const update = () => blocks.forEach((block) => { block.hidden = block.dataset.step !== choice.value; });
  choice.closest(".controls").hidden = false;
  choice.addEventListener("change", update);
  update();
}
