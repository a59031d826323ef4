// Choices are kept per photo: a photo may stand in several sections, and a reload must not lose an hour's work.
"use strict";
const KEY = `split_check ${document.body.dataset.version}`;
const cards = [...document.querySelectorAll(".card")].filter(card => card.querySelector("input"));
const blind = cards.filter(card => card.classList.contains("blind"));
const bar = document.getElementById("bar");
let choices;

function read() {
  try {
    choices = new Map(JSON.parse(localStorage.getItem(KEY) || "[]"));
  } catch { // a browser may refuse storage to local files, or hold what is no list: start anew
    choices = new Map();
  }
  show();
}

function show() {
  for (const card of cards) {
    const inputs = [...card.querySelectorAll("input")], choice = choices.get(card.dataset.path);
    const value = inputs.some(input => input.value === choice) ? choice : "keep"; // a photo may stand here with its label
    card.dataset.choice = value;
    for (const input of inputs) input.checked = input.value === value;
  }
  const answers = blind.map(card => [card.dataset.label, choices.get(card.dataset.path)]);
  if (answers.length && answers.every(([, answer]) => answer)) {
    const wrong = answers.filter(([label, answer]) => answer !== label).length;
    document.getElementById("agreement").textContent = `${wrong} of ${answers.length} labels are not what you see.`;
  }
  bar.hidden = choices.size === 0;
  document.getElementById("number").textContent = choices.size;
  document.getElementById("what").textContent = choices.size === 1 ? "answer" : "answers";
}

function keep() {
  show();
  try {
    localStorage.setItem(KEY, JSON.stringify([...choices]));
  } catch { /* then they last as long as the page is open */ }
}

function quoted(text) {
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function csv() {
  const rows = [...choices].sort(([a], [b]) => (a < b ? -1 : 1));
  return ["path,action", ...rows.map(row => row.map(quoted).join(","))].join("\n") + "\n";
}

document.addEventListener("change", event => {
  const card = event.target.closest(".card");
  if (!card) return;
  if (event.target.value === "keep") choices.delete(card.dataset.path);
  else choices.set(card.dataset.path, event.target.value);
  keep();
});
document.getElementById("clear").addEventListener("click", () => {
  choices.clear();
  keep();
});
document.getElementById("export").addEventListener("click", () => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
  link.download = "corrections.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
});
addEventListener("storage", event => event.key === KEY && read()); // of the same page in another tab
read();
