// What the model would be without some images: the photo of the decision that is shown, or files that somebody chooses.

import { get, post, upload } from "/api.js";
import { act, plural, propose, say } from "/changing.js";

const $ = (id) => document.getElementById(id);
const DONE = { learn: "learned", forget: "taken out", undo: "a change of it undone" };
const WAYS = { in: "put in", out: "taken out" };
const text = (found) => `${plural(found.removed.length, "image")} would be taken out.`;
const address = (model) => `/models/${encodeURIComponent(model)}/forgetting`;
let shown = null;

// one change that the image of a decision came in or went out by, in words
function told(change) {
  if (change.kind === "elsewhere") return `Then ${WAYS[change.way]} by a change that was not made on this page`;
  const done = change.kind === "undo" && change.way ? `${WAYS[change.way]} again, as a change was undone` : DONE[change.kind];
  return `${new Date(change.time).toLocaleString()}: ${change.after ? done : `${done}, or only begun,`} by ${change.who}`;
}

// what is known of the image of a decision: whether it is part of the model, and who made it so
export async function show(record) {
  const state = `${record.id} ${record.is_in_model} ${record.model_digest}`;
  if (shown?.state === state) return;
  shown = { state, record };
  $("known").hidden = !record.is_in_model;
  $("take-out").hidden = !record.is_in_model || !record.has_photo;
  $("history").replaceChildren();
  const { changes } = await get(`/decisions/${record.id}`).catch(() => ({ changes: [] }));
  if (shown.state !== state) return; // another one was chosen meanwhile
  $("history").replaceChildren(...changes.map((change) => {
    const item = document.createElement("li");
    item.textContent = told(change);
    return item;
  }));
}

function takeOut(who) {
  const { id, model } = shown.record;
  $("learning").scrollIntoView();
  return propose(model, text, () => post(address(model), { who, decisions: [id] }));
}

async function without(who) {
  const { files } = $("files");
  if (!files.length) return say("Choose the files of the images first");
  const model = $("rated").value;
  return propose(model, text, () => upload(`${address(model)}/files`, { who }, files));
}

export function setUp() {
  $("take-out").addEventListener("click", () => act(takeOut));
  $("without").addEventListener("click", () => act(without));
  const drop = $("drop");
  for (const kind of ["dragenter", "dragover"]) {
    drop.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.add("over"); });
  }
  for (const kind of ["dragleave", "drop"]) drop.addEventListener(kind, () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    if (event.dataTransfer.files.length) $("files").files = event.dataTransfer.files;
  });
}
