// A change of the model that was computed and is looked at: done, or the last one undone.

import { get, post } from "/api.js";

const $ = (id) => document.getElementById(id);
const BUTTONS = ["propose", "without", "take-out"];
const PAUSE = 10000; // milliseconds between two looks at what undo would do: commands change models too
let proposal = null;
let undoable = null; // what undo would do, as it is told
let isActing = false;

export const plural = (count, what) => `${count} ${what}${count === 1 ? "" : "s"}`;
const number = (value, digits = 4) => Number(value.toPrecision(digits)).toString();
const address = (model, end) => `/models/${encodeURIComponent(model)}/learning/${end}`;

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

// the change that undo takes back, or makes again
function named({ change, brings_back: isBack, came, went }) {
  const images = came || went ? `${plural(came, "image")} would come in, ${went} would go out` : "no image comes in or goes out";
  if (!change) return `takes back a change that was not made on this page: ${images}`;
  const done = change.kind === "learn" ? "learned" : "taken out";
  const begun = change.after ? "" : " (whose end was not noted)";
  const what = `${plural(change.images, "image")} ${done} by ${change.who} on ${new Date(change.time).toLocaleString()}${begun}`;
  return `${isBack ? "makes again what was undone" : "takes back"}: ${what}`;
}

function ready() {
  for (const id of BUTTONS) $(id).disabled = isActing;
  $("learn").disabled = isActing || proposal === null;
  $("unlearn").disabled = isActing || undoable === null;
}

// looks at what undo would do to the model that is chosen
async function lookBack() {
  const model = $("rated").value;
  const { undo: found } = model ? await get(address(model, "undoable")).catch(() => ({ undo: null })) : { undo: null };
  if (model !== $("rated").value) return; // another one was chosen meanwhile
  undoable = found && { ...found, model };
  const text = found ? `In ${model}, undo ${named(found)}.` : "";
  if ($("undoable").textContent !== text) $("undoable").textContent = text;
  ready();
}

// what is proposed is about the model that is chosen
function choose(model) {
  if ($("rated").value === model || ![...$("rated").options].some((one) => one.value === model)) return;
  $("rated").value = model;
  $("rated").dispatchEvent(new Event("input", { bubbles: true }));
}

// computes a change, or makes one, while nothing else may be asked for
export async function act(work) {
  const who = $("who").value.trim();
  if (!who) {
    say("Enter your name first: the change carries it");
    $("who").focus();
    return;
  }
  isActing = true;
  ready();
  try {
    await work(who);
  } catch (error) {
    proposal = null;
    say(error.message);
  }
  await lookBack();
  isActing = false;
  ready();
}

// two thresholds, in as many digits as tell them apart
export function threshold({ threshold: before, threshold_after: after }, digits = 4) {
  const [from, to] = [before, after].map((one) => (one === null ? "none" : number(one, digits)));
  if (before === after) return `The threshold stays at ${from}.`;
  return from === to ? threshold({ threshold: before, threshold_after: after }, digits + 1) : `The threshold goes from ${from} to ${to}.`;
}

// verdicts that the change itself changes: the model as it is judges again, too, as decisions may be of an older one
export function effect({ judged, changed, changes }) {
  if (!judged) return "No other photo is kept that could be judged again.";
  const ways = changes.map((one) => `${one.count} from ${one.from} to ${one.to}`).join(", ");
  return `Of ${plural(judged, "decision")} judged again, as the model is and as it would be, ${changed} would change${ways ? `: ${ways}` : ""}.`;
}

// shows what a change would do, which "Do it" then makes
export async function propose(model, text, compute) {
  proposal = null;
  choose(model);
  say("Computing …");
  const found = await compute();
  proposal = { model, id: found.proposal };
  say(`${text(found)} ${threshold(found)} ${effect(found)}`, found);
}

async function make(who) {
  const done = await post(address(proposal.model, "apply"), { who, proposal: proposal.id });
  proposal = null;
  const what = done.kind === "learn" ? `${plural(done.added.length, "part")} added` : `${plural(done.removed.length, "image")} taken out`;
  say(`${what}; the next images are judged by the changed model.`, { remarks: done.remarks });
}

async function undo(who) {
  proposal = null;
  const { model, based_on } = undoable;
  const done = await post(address(model, "undo"), { who, based_on });
  say(`${model} is as it was before its last change. ${threshold(done)} Pressed again, this brings the change back.`, done);
}

// a change that was proposed is not one of another model that is chosen then
function leave() {
  if (proposal && proposal.model !== $("rated").value) {
    proposal = null;
    say("");
  }
  undoable = null;
  $("undoable").textContent = "";
  ready();
  lookBack();
}

export function setUp() {
  $("rated").addEventListener("input", leave);
  lookBack();
  setInterval(() => { if (!document.hidden && !isActing) lookBack(); }, PAUSE);
  $("learn").addEventListener("click", () => act(make));
  $("unlearn").addEventListener("click", () => act(undo));
}
