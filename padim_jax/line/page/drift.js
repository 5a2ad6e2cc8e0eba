// Whether images have drifted, in what and where, as the service found it at its last look.

import { get } from "/api.js";

const $ = (id) => document.getElementById(id);
const PAUSE = 15000; // milliseconds between two looks
const NAMES = {
  score: "score", brightness: "brightness", contrast: "contrast", sharpness: "sharpness",
  row: "shift up or down", column: "shift left or right", turn: "turn",
};
let answer = null;
let chosen = null; // by the person

// two digits, rounded down: what is shown to reach an alarm has reached it
export function number(value) {
  if (value < 0.001) return "0";
  if (value >= 10000) return "over 10000";
  const nearest = Number(value.toPrecision(2));
  const step = 10 ** (Math.floor(Math.log10(value)) - 1);
  return Number((nearest > value ? nearest - step : nearest).toPrecision(2)).toString();
}

const times = (finding) => (finding.change > 1 ? ` (change ${finding.change})` : "");
const change = (finding) => (finding.alarm ? `${finding.is_higher ? "▲ higher" : "▼ lower"}${times(finding)}` : "none");
const key = (one) => JSON.stringify([one.model, one.source]);
const label = (one) => `${one.model}, ${one.source_name}${one.has_drifted ? ": drifted" : ""}`;

function cell(text, { name = "td", className = "" } = {}) {
  const made = document.createElement(name);
  if (name === "th") made.scope = "row";
  made.className = className;
  made.textContent = text;
  return made;
}

function line(cells) {
  const made = document.createElement("tr");
  made.append(...cells);
  return made;
}

function kinds(findings) {
  return findings.filter((one) => one.kind !== "place").map((one) => {
    const className = one.alarm ? "moved" : "";
    const since = one.since ? new Date(one.since.time).toLocaleString() : "";
    const texts = one.images ? [change(one), number(one.value), since] : ["not known", "", ""];
    return line([cell(NAMES[one.kind], { name: "th" }), ...texts.map((text) => cell(text, { className }))]);
  });
}

function places(findings) {
  const found = findings.filter((one) => one.kind === "place");
  const side = Math.sqrt(found.length);
  return Array.from({ length: side }, (_, row) => line(found.slice(row * side, (row + 1) * side).map((one) => {
    const made = cell(one.alarm ? change(one) : "–", { className: one.alarm ? "moved" : "" });
    made.setAttribute("aria-label", `Row ${one.place[0] + 1}, column ${one.place[1] + 1}: ${one.alarm ? change(one).slice(2) : "no change"}`);
    made.title = `Evidence ${number(one.value)}`;
    return made;
  })));
}

// What the person chose; else one that has drifted, where there is one, and it stays the same from look to look.
function wanted() {
  const { models } = answer;
  const moved = models.filter((one) => one.has_drifted);
  const last = moved.find((one) => key(one) === $("drifted").value);
  return models.find((one) => key(one) === chosen) ?? last ?? moved[0] ?? models[0];
}

function show() {
  const found = wanted();
  const options = [...$("drifted").options].map((one) => one.text).join("\n");
  if (options !== answer.models.map(label).join("\n")) {
    $("drifted").replaceChildren(...answer.models.map((one) => new Option(label(one), key(one))));
  }
  if (found) $("drifted").value = key(found);
  $("drift-found").hidden = !found;
  $("drift-offer").hidden = !found?.has_drifted;
  if (!found) return;
  const images = `${found.images} image${found.images === 1 ? "" : "s"}`;
  const text = found.has_drifted ? `Drift in ${images}; ${answer.causes}.` : `No drift in ${images}.`;
  if ($("drift-text").textContent !== text) $("drift-text").textContent = text;
  $("drift-words").replaceChildren(...found.words.map((words) => cell(words, { name: "li" })));
  $("drift-kinds").querySelector("tbody").replaceChildren(...kinds(found.findings));
  $("drift-places").querySelector("tbody").replaceChildren(...places(found.findings));
  $("drift-limit").textContent = `Evidence of ${number(1 / answer.rate)} is an alarm. As long as nothing changes, the probability of one, ever, is at most ${100 * answer.rate} %, for all of it together, if there is one image of each part, in the order of the parts. After an alarm, what it was for is followed anew. The service looks every ${answer.every} seconds${answer.looked ? `, last at ${new Date(answer.looked).toLocaleTimeString()}` : ""}.`;
  $("drift-calibrate").textContent = found.offer.calibrate ?? "";
  $("drift-update").textContent = found.offer.update ?? "";
}

async function look() {
  try {
    answer = await get("/drift");
    show();
  } catch (error) {
    $("drift-text").textContent = error.message;
  }
}

export async function setUp() {
  $("drifted").addEventListener("change", () => {
    chosen = $("drifted").value;
    if (answer) show();
  });
  $("drifting").addEventListener("submit", (event) => event.preventDefault());
  for (;;) {
    if (!document.hidden) await look();
    await new Promise((resolve) => { setTimeout(resolve, PAUSE); });
  }
}
