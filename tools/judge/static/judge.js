"use strict";

const byId = (id) => document.getElementById(id);
const [who, work, photo, message, status, back] = ["who", "work", "photo", "message", "status", "back"].map(byId);
const KEYS = { c: "clean", ArrowLeft: "clean", d: "dirty", ArrowRight: "dirty", u: "unsure", ArrowDown: "unsure" };
let judge = localStorage.getItem("judge");
let current = null;
let last = null;
let judged = 0;
let busy;

const buttons = document.querySelectorAll("nav button");
const address = (name) => "photo/" + name.split("/").map(encodeURIComponent).join("/");

function begin() {
  who.hidden = Boolean(judge);
  work.hidden = !judge;
  if (judge) next();
  else byId("name").focus();
}

// No verdict is taken before its photo is seen: a second click must not judge the next one unseen.
const mayBe = (verdict) => !busy && current && (!photo.hidden || verdict === "unsure");

function hold(state) {
  busy = state;
  buttons.forEach((button) => { button.disabled = !mayBe(button.dataset.verdict); });
}

function say(words) {
  message.textContent = words;
  message.hidden = !words;
  photo.hidden = Boolean(words);
}

function show(name, left) {
  current = name;
  status.textContent = `${judge} · ${judged} judged now · ${left} left`;
  back.hidden = last === null;
  hold(true);
  if (!name) return say("No photo is left to judge. New ones appear when this page is loaded again.");
  say("");
  photo.src = address(name);
}

async function ask(path, options) {
  const answer = await fetch(path, options);
  if (!answer.ok) throw new Error(answer.status === 503 ? await answer.text() : answer.status);
  return answer.json();
}

async function next() {
  try {
    const { photos, left } = await ask(`next?judge=${encodeURIComponent(judge)}`);
    show(photos[0] || null, left);
    for (const name of photos.slice(1)) new Image().src = address(name);
  } catch (error) {
    status.textContent = `No next photo (${error.message}); load this page again`;
  }
}

async function decide(verdict) {
  if (!mayBe(verdict)) return;
  hold(true);
  try {
    const body = JSON.stringify({ photo: current, judge, verdict });
    await ask("judgement", { method: "POST", headers: { "Content-Type": "application/json" }, body });
  } catch (error) {
    status.textContent = `Not saved (${error.message}); try again`;
    return hold(false);
  }
  last = current;
  judged += 1;
  next();
}

function again() {
  if (busy || last === null) return;
  const name = last;
  last = null;
  judged -= 1;
  show(name, "?");
}

photo.addEventListener("load", () => hold(false));
photo.addEventListener("error", () => {
  if (!current) return;
  say("This photo cannot be shown; say “can’t tell”.");
  hold(false);
});
buttons.forEach((button) => {
  button.addEventListener("click", () => decide(button.dataset.verdict));
});
back.addEventListener("click", again);
document.addEventListener("keydown", (event) => {
  if (work.hidden || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (KEYS[key]) decide(KEYS[key]);
  else if (key === "z" || key === "Backspace") again();
});
who.addEventListener("submit", (event) => {
  event.preventDefault();
  judge = byId("name").value.trim();
  if (!judge) return;
  localStorage.setItem("judge", judge);
  begin();
});
begin();
