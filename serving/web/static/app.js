"use strict";

const AT_ONCE = 4; // uploads under way
const MAX_VIEWS = 8; // of one car
const REASONS = {
  too_small: "This picture has too few pixels.",
  too_dark: "This photo is too dark.",
  too_blurred: "This photo is too blurred.",
  no_car: "This does not look like the outside of a car.",
  copy: "This photo is here already.",
  too_few_views: "Too few of these photos can be used.",
};
const TRIES = 5; // for an answer that says "overloaded"

const byId = (id) => document.getElementById(id);
const [drop, results, access, token] = ["drop", "results", "access", "token"].map(byId);
const waiting = []; // photos and cars: each the files of one request, and its card
let single = []; // photos that are not grouped as a car
let busy = 0;

function add(files) {
  for (const file of files) {
    const card = newCard(file.name || "pasted photo");
    const image = card.querySelector("img");
    image.onload = image.onerror = (event) => {
      image.classList.toggle("none", event.type === "error"); // a browser may not show what the service can read
      URL.revokeObjectURL(image.src);
    };
    image.src = URL.createObjectURL(file);
    const photo = { files: [file], card };
    single.push(photo);
    waiting.push(photo);
  }
  count();
  work();
}

function newCard(name) {
  const card = byId("card").content.cloneNode(true).firstElementChild;
  card.querySelector(".name").textContent = name;
  results.append(card);
  return card;
}

function groupAsCar() {
  const views = single;
  single = [];
  for (const view of views) if (waiting.includes(view)) waiting.splice(waiting.indexOf(view), 1);
  const card = newCard(`${views.length} photos of one car`);
  card.classList.add("car");
  card.querySelector(".thumb").remove();
  card.querySelector(".views").append(...views.map((view) => view.card));
  card.querySelector(".views").hidden = false;
  card.tabIndex = -1;
  card.focus(); // the button that had it goes
  waiting.unshift({ files: views.flatMap((view) => view.files), card, views });
  count();
  work();
}

function work() {
  while (busy < AT_ONCE && waiting.length && access.hidden) {
    const photo = waiting.shift();
    busy += 1;
    judge(photo).finally(() => {
      busy -= 1;
      count();
      work();
    });
  }
}

async function judge(photo) {
  const started = performance.now();
  try {
    const response = await send(photo.files, photo.views ? "predict/car" : "predict/file");
    const answer = await response.json();
    if (response.status === 401) {
      askForToken(photo);
    } else if (response.ok) {
      showVerdict(photo, answer);
      photo.card.querySelector(".time").textContent = `${Math.round(performance.now() - started)} ms`;
    } else {
      giveUp(photo, answer.detail || answer.title);
    }
  } catch {
    giveUp(photo, "The service could not be reached. Check the connection and try again.");
  }
}

async function send(files, path) {
  const headers = token.value ? { Authorization: `Bearer ${token.value}` } : {};
  for (let attempt = 1; ; attempt += 1) {
    const body = new FormData();
    for (const file of files) body.append("file", file, file.name || "photo");
    const response = await fetch(path, { method: "POST", headers, body });
    if (response.status !== 503 || attempt === TRIES) return response;
    await new Promise((done) => setTimeout(done, 1000 * Number(response.headers.get("Retry-After") || 1)));
  }
}

function showVerdict(photo, answer) {
  const { card, views } = photo;
  const percent = (p) => `${100 * p}%`;
  card.dataset.state = answer.label;
  card.querySelector(".verdict").textContent = answer.label;
  card.querySelector(".problem").hidden = true;
  if (views) showViews(photo, answer.views);
  card.querySelector(".scale").hidden = answer.label === "unusable";
  if (answer.label === "unusable") {
    showProblem(card, REASONS[answer.reason] || answer.reason, answer.label);
    return;
  }
  card.querySelector(".fill").style.width = percent(answer.p_clean);
  card.querySelector(".mark").style.left = percent(answer.threshold);
  card.querySelector(".bar").setAttribute("aria-label", `p_clean ${answer.p_clean}, clean from ${answer.threshold}`);
  card.querySelector(".numbers").textContent =
    `p_clean ${answer.p_clean.toFixed(4)} · T\u00a0${answer.threshold.toFixed(4)}`;
  if (views) card.querySelector(".numbers").textContent += answer.certified ? " (certified for cars)" : " (not certified for cars)";
  else offerReason(photo);
}

function showViews({ card, views }, answers) {
  answers.forEach((answer, place) => {
    if (answer.label) showVerdict(views[place], answer);
    else showProblem(views[place].card, answer.detail || answer.title);
  });
  const usable = answers.filter((answer) => answer.label && answer.label !== "unusable").length;
  card.querySelector(".name").textContent = `One car: ${usable} of ${views.length} photos count, the least clean decides.`;
}

function offerReason(photo) {
  const why = photo.card.querySelector(".why");
  if (why.onclick) return; // before its photo became a view of a car
  why.hidden = !document.body.dataset.explain;
  why.onclick = async () => {
    why.disabled = true;
    why.textContent = "Looking…";
    try {
      const response = await send(photo.files, "explain/file");
      const answer = await response.json();
      if (!response.ok) throw new Error(answer.detail || answer.title);
      const map = photo.card.querySelector(".map");
      const [thumb, picture] = [".thumb img", ".map img"].map((part) => photo.card.querySelector(part));
      picture.src = answer.overlay; // a square
      if (thumb.naturalWidth) picture.style.aspectRatio = `${thumb.naturalWidth} / ${thumb.naturalHeight}`;
      map.querySelector("figcaption").textContent = `Green speaks for clean, orange for dirty. ${answer.caution}`;
      map.hidden = false;
      why.hidden = true;
    } catch (error) {
      why.textContent = `No map: ${error.message}. Try again`;
      why.disabled = false;
    }
  };
}

function showProblem(card, words, state = "error") {
  card.dataset.state = state;
  card.querySelector(".verdict").textContent = state === "error" ? "No verdict" : state;
  const problem = card.querySelector(".problem");
  problem.textContent = words.charAt(0).toUpperCase() + words.slice(1);
  problem.hidden = false;
}

function giveUp(photo, words) {
  showProblem(photo.card, words);
  waiting.push(...(photo.views || []).filter((view) => view.card.dataset.state === "waiting")); // each by itself, then
}

function askForToken(photo) {
  if (photo.card.isConnected) waiting.unshift(photo);
  token.value = "";
  access.hidden = false;
  token.focus();
}

function count() {
  const states = [...results.children].map((card) => card.dataset.state);
  const number = (state) => states.filter((s) => s === state).length;
  const words = { clean: "clean", dirty: "dirty", uncertain: "uncertain", unusable: "unusable", error: "without a verdict", waiting: "waiting" };
  const parts = Object.keys(words).filter(number).map((state) => `${number(state)} ${words[state]}`);
  byId("summary").hidden = states.length === 0;
  byId("counts").textContent = parts.join(" · ");
  byId("group").hidden = single.length < 2 || single.length > MAX_VIEWS;
  byId("group").textContent = `Judge ${single.length} as one car`;
}

for (const input of [byId("pick"), byId("camera")]) {
  input.addEventListener("change", () => {
    add(input.files);
    input.value = "";
  });
}
for (const name of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", name === "dragenter" || name === "dragover");
    if (name === "drop") add(event.dataTransfer.files);
  });
}
document.addEventListener("paste", (event) => add(event.clipboardData.files));
byId("group").addEventListener("click", groupAsCar);
byId("clear").addEventListener("click", () => {
  waiting.length = 0;
  single = [];
  results.replaceChildren();
  count();
});
access.addEventListener("submit", (event) => {
  event.preventDefault();
  access.hidden = true;
  work();
});

fetch("model")
  .then((response) => response.json())
  .then((model) => {
    const proof = model.certified ? "certified" : "not certified";
    byId("model").textContent = `${model.model} at ${model.image_size} px · clean from T = ${model.T_clean.toFixed(4)} (${proof})`;
  })
  .catch(() => {}); // the line stays empty
