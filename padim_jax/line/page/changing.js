// A change of the model that was computed and is looked at: done, or the last one undone.

import { post } from "/api.js";

const $ = (id) => document.getElementById(id);
const BUTTONS = ["propose", "without", "take-out", "unlearn"];
let proposal = null;

export const plural = (count, what) => `${count} ${what}${count === 1 ? "" : "s"}`;
export const number = (value) => Number(value.toPrecision(4)).toString();
const address = (end) => `/models/${encodeURIComponent(proposal?.model ?? $("rated").value)}/learning/${end}`;

function cells(name, texts) {
  return texts.map((text) => {
    const made = document.createElement(name);
    made.append(text);
    return made;
  });
}

function row(one) {
  const made = document.createElement("tr");
  const [name] = cells("th", [one.name]);
  name.scope = "row";
  const verdict = document.createElement("span");
  verdict.className = `verdict ${one.verdict_after}`;
  verdict.textContent = one.verdict_after;
  made.append(name, ...cells("td", [number(one.score), number(one.score_after), verdict]));
  return made;
}

export function say(text, { remarks = [], removed = [] } = {}) {
  $("learned").textContent = text;
  $("remarks").replaceChildren(...cells("li", remarks));
  $("removed").hidden = removed.length === 0;
  $("removed").querySelector("tbody").replaceChildren(...removed.map(row));
}

// computes a change, or makes one, while nothing else may be asked for
export async function act(work) {
  const who = $("who").value.trim();
  if (!who) {
    say("Enter your name first: the change carries it");
    $("who").focus();
    return;
  }
  for (const id of [...BUTTONS, "learn"]) $(id).disabled = true;
  try {
    await work(who);
  } catch (error) {
    proposal = null;
    say(error.message);
  }
  for (const id of BUTTONS) $(id).disabled = false;
  $("learn").disabled = proposal === null;
}

// shows what a change would do, which "Do it" then makes
export async function propose(model, text, compute) {
  proposal = null;
  say("Computing …");
  const found = await compute();
  proposal = { model, id: found.proposal };
  const changes = found.changes.map((one) => `${one.count} from ${one.from} to ${one.to}`).join(", ");
  const [before, after] = [number(found.threshold), number(found.threshold_after)];
  const threshold = before === after ? `stays at ${before}` : `goes from ${before} to ${after}`;
  say(
    `${text(found)} The threshold ${threshold}. Of ${plural(found.judged, "decision")} whose photos are kept, ` +
    `${found.changed} would change${changes ? `: ${changes}` : ""}.`,
    found,
  );
}

async function make(who) {
  const done = await post(address("apply"), { who, proposal: proposal.id });
  proposal = null;
  const what = done.kind === "learn" ? `${plural(done.added.length, "part")} added` : `${plural(done.removed.length, "image")} taken out`;
  say(`${what}; the next images are judged by the changed model.`);
}

async function undo(who) {
  const where = address("undo");
  proposal = null;
  await post(where, { who });
  say("The model is as it was before its last change. Pressed again, this brings the change back.");
}

export function setUp() {
  $("learn").addEventListener("click", () => act(make));
  $("unlearn").addEventListener("click", () => act(undo));
}
