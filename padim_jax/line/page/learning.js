// What the model would be with the parts that people called good: looked at, done, undone.

import { post } from "/api.js";

const $ = (id) => document.getElementById(id);
let proposal = null;

const address = () => `/models/${encodeURIComponent(proposal?.model ?? $("rated").value)}/learning`;
const number = (value) => Number(value.toPrecision(4)).toString();
const plural = (count, what) => `${count} ${what}${count === 1 ? "" : "s"}`;

function say(text, remarks = []) {
  $("learned").textContent = text;
  $("remarks").replaceChildren(...remarks.map((remark) => {
    const item = document.createElement("li");
    item.textContent = remark;
    return item;
  }));
}

async function act(work) {
  const who = $("who").value.trim();
  if (!who) {
    say("Enter your name first: the log carries it");
    $("who").focus();
    return;
  }
  for (const id of ["propose", "learn", "unlearn"]) $(id).disabled = true;
  try {
    await work(who);
  } catch (error) {
    proposal = null;
    say(error.message);
  }
  for (const id of ["propose", "unlearn"]) $(id).disabled = false;
  $("learn").disabled = proposal === null;
}

async function propose(who) {
  proposal = null;
  say("Computing …");
  const model = $("rated").value;
  const found = await post(address(), { who });
  proposal = { model, id: found.proposal };
  const changes = found.changes.map((one) => `${one.count} from ${one.from} to ${one.to}`).join(", ");
  say(
    `${plural(found.added.length, "part")} would be added. The threshold stays at ${number(found.threshold)}. ` +
    `Of ${plural(found.judged, "decision")} whose photos are kept, ${found.changed} would ` +
    `change${changes ? `: ${changes}` : ""}.`,
    found.remarks,
  );
}

async function learn(who) {
  const done = await post(`${address()}/apply`, { who, proposal: proposal.id });
  proposal = null;
  say(`${plural(done.added.length, "part")} added; the next images are judged by the changed model.`);
}

async function unlearn(who) {
  proposal = null;
  await post(`${address()}/undo`, { who });
  say("The model is as it was before its last change. Pressed again, this brings the change back.");
}

export function setUp() {
  $("propose").addEventListener("click", () => act(propose));
  $("learn").addEventListener("click", () => act(learn));
  $("unlearn").addEventListener("click", () => act(unlearn));
}
