// What the model would be with the parts that people called good.

import { post } from "/api.js";
import { act, plural, propose } from "/changing.js";

const $ = (id) => document.getElementById(id);

function learn(who) {
  const model = $("rated").value;
  const text = (found) => `${plural(found.added.length, "part")} would be added.`;
  return propose(model, text, () => post(`/models/${encodeURIComponent(model)}/learning`, { who }));
}

export function setUp() {
  $("propose").addEventListener("click", () => act(learn));
}
