"use strict";
// The page shows what the server says and keeps nothing of its own but the name of who votes in this tab. A vote counts
// when the server has confirmed it; until then the page holds on to it and sends it again. Texts are set as text.

const by = (id) => document.getElementById(id);
const SCREENS = ["start", "work", "end"];
const CHOICES = { 1: "left", 2: "right", 0: "tie" };
const SECONDS_BETWEEN_TRIES = 1;

let state = null;
let busy = false;

function say(words) {
  by("notice").textContent = words;
  by("notice").hidden = !words;
}

async function ask(path, body) {
  // Sends until there is an answer: the server may be down for a while, and the same vote twice is one vote.
  const lead = path === "api/vote" ? "Not saved yet: the" : "The";
  for (;;) {
    try {
      const options = body && {
        method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
      };
      const response = await fetch(path, options);
      if (response.ok) return await response.json();
      if (response.status < 500) {
        const words = await response.json().catch(() => ({}));
        throw new Refused(words.error?.message ?? `The server refuses that (${response.status}). Load the page again.`);
      }
      say(`${lead} server has trouble. Trying again …`);
    } catch (error) {
      if (error instanceof Refused) throw error;
      say(`${lead} server does not answer. Trying again …`);
    }
    await new Promise((resolve) => setTimeout(resolve, 1000 * SECONDS_BETWEEN_TRIES));
  }
}

class Refused extends Error {}

async function during(work) {
  // One thing at a time: a key held down, or pressed twice, is no second vote.
  if (busy) return;
  busy = true;
  document.querySelectorAll("button").forEach((button) => { button.disabled = true; });
  try {
    await work();
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    say(error.message);
  } finally {
    busy = false;
    document.querySelectorAll("button").forEach((button) => { button.disabled = false; });
    by("undo").disabled = !state?.last;
  }
}

function show(screen) {
  SCREENS.forEach((name) => { by(name).hidden = name !== screen; });
  const voting = screen !== "start";
  by("panel").hidden = by("how-far").hidden = by("pause").hidden = !voting;
  by("who").textContent = voting ? state.annotator : "";
}

function render(answer) {
  state = answer;
  say(answer.notice ?? (answer.undone ? `Taken back; it was: ${answer.undone.choice}.` : ""));
  by("bar").max = state.total;
  by("bar").value = state.done;
  by("count").textContent = `${state.done} of ${state.total}`;
  by("comment").value = answer.undone?.comment ?? "";
  by("votes").hidden = by("comment").hidden = !state.pair;
  document.querySelectorAll("[data-choice]").forEach((button) => {
    button.classList.toggle("before", button.dataset.choice === answer.undone?.choice);
  });
  for (const part of ["instruction", "input", "left", "right"]) by(part).textContent = state.pair?.[part] ?? "";
  show(state.pair ? "work" : "end");
  window.scrollTo(0, 0);
  document.activeElement?.blur();
  if (state.pair) by("task-title").focus({ preventScroll: true });
}

const begin = (name) => during(async () => {
  render(await ask("api/start", { annotator: name }));
  sessionStorage.setItem("annotator", state.annotator);
});

const vote = (choice) => during(async () => {
  if (!state?.pair) return;
  const ballot = { annotator: state.annotator, pair: state.pair.id, choice, comment: by("comment").value };
  render(await ask("api/vote", ballot));
});

const undo = () => during(async () => {
  if (!state?.last) return;
  render(await ask("api/undo", { annotator: state.annotator, pair: state.last }));
});

const pause = () => during(async () => {
  sessionStorage.removeItem("annotator");
  state = null;
  const { annotators, total } = await ask("api/annotators");
  say("");
  by("names").replaceChildren(...annotators.map(({ name, done }) => {
    const button = document.createElement("button");
    button.textContent = `${name} · ${done} of ${total}`;
    button.addEventListener("click", () => begin(name));
    return button;
  }));
  by("known").hidden = !annotators.length;
  show("start");
  by("name").value = "";
  by("name").focus();
});

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || !state) return;
  if (event.target === by("comment")) {
    if (event.key === "Escape") by("comment").blur();
    return;
  }
  const action = {
    u: undo, p: pause, c: () => by("comment").focus(),
  }[event.key.toLowerCase()] ?? (event.key in CHOICES && (() => vote(CHOICES[event.key])));
  if (!action) return;
  event.preventDefault();
  action();
});
by("name-form").addEventListener("submit", (event) => { event.preventDefault(); begin(by("name").value); });
by("pause").addEventListener("click", pause);
by("undo").addEventListener("click", undo);
document.querySelectorAll("[data-choice]").forEach((button) => {
  button.addEventListener("click", () => vote(button.dataset.choice));
});

const name = sessionStorage.getItem("annotator");
if (name) begin(name);
else pause();
