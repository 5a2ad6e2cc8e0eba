// The stream of decisions, what is chosen in it, and what people say of it.

import { get, post } from "/api.js";
import * as changing from "/changing.js";
import * as drift from "/drift.js";
import * as forgetting from "/forgetting.js";
import * as learning from "/learning.js";
import * as rates from "/rates.js";
import * as viewer from "/viewer.js";

const $ = (id) => document.getElementById(id);
const PAGE = 50;
const PAUSE = 2000; // milliseconds between two looks for new decisions
const READING = 10000; // milliseconds that it takes to read why nothing was done
const SETTLED = 1000; // milliseconds that a part must have been shown for a key to be about it
const found = new Map(); // decisions shown, by id
const rows = new Map(); // what shows them, so that focus stays while others come
const made = []; // corrections of this visit with their items, the last one last
let chosen = null;
let changed = -Infinity; // when another part was shown that nobody chose
let newest = 0;
let asked = 0;
let mayHaveMore = false;
let quiet = 0; // until when news of the line does not take the place of what somebody has to read
let isSaying = false; // what somebody said of a part is on its way
let cursor = null; // rows from here up were asked for again

const say = (text, { stays = 0 } = {}) => {
  quiet = performance.now() + stays;
  if ($("state").textContent !== text) $("state").textContent = text;
};
const ordered = () => [...found.values()].sort((a, b) => b.sequence - a.sequence);

function query() {
  const day = $("day").value ? new Date(`${$("day").value}T00:00:00`) : null;
  const next = day && new Date(day.getFullYear(), day.getMonth(), day.getDate() + 1);
  const isQueue = $("queue").checked;
  return {
    verdict: isQueue ? "look" : $("verdict").value, corrected: isQueue ? "false" : "", model: $("model").value,
    since: day?.toISOString(), until: next?.toISOString(), limit: PAGE,
  };
}

function row(record) {
  let item = rows.get(record.id);
  if (!item) {
    item = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    button.append(...Array.from({ length: 3 }, () => document.createElement("span")));
    button.addEventListener("click", () => {
      choose(record.id, { follow: false });
      if (matchMedia("(max-width: 800px)").matches) $("viewer").scrollIntoView();
    });
    item.append(button);
    rows.set(record.id, item);
  }
  const [said, name, when] = item.firstChild.children;
  const text = `${record.verdict} ${record.corrected_to ?? ""}`;
  if (said.dataset.text !== text) {
    said.dataset.text = text;
    said.replaceChildren(viewer.verdict(record));
  }
  name.textContent = record.item;
  when.textContent = new Date(record.time).toLocaleTimeString();
  item.firstChild.setAttribute("aria-current", String(record.id === chosen));
  return item;
}

function render() {
  const records = ordered();
  const list = records.map(row);
  if (list.length !== $("list").children.length || list.some((item, index) => $("list").children[index] !== item)) {
    const focused = document.activeElement;
    const top = $("list").scrollTop;
    $("list").replaceChildren(...list);
    $("list").scrollTop = top;
    if (focused?.closest?.("#list")) focused.focus({ preventScroll: true });
  }
  for (const id of rows.keys()) if (!found.has(id)) rows.delete(id);
  $("none").hidden = records.length > 0;
  $("older").hidden = !mayHaveMore;
}

function choose(id, { follow = $("follow").checked, focus = false } = {}) {
  chosen = id;
  $("follow").checked = follow;
  render();
  const record = found.get(id);
  if (record) viewer.show(record);
  if (focus) rows.get(id)?.firstChild.focus();
}

const add = (page) => { for (const one of page) found.set(one.id, one); };

// what is shown from one sequence up to another, if it is not among what matches there now
function drop(page, low, high = Infinity) {
  const ids = new Set(page.map((one) => one.id));
  for (const [id, one] of found) if (one.sequence >= low && one.sequence < high && !ids.has(id)) found.delete(id);
}

function takeNewest(answer) {
  const page = answer.decisions;
  drop(page, page.length < PAGE ? 0 : page.at(-1).sequence);
  if (page.length < PAGE) mayHaveMore = false;
  else if (!found.size) mayHaveMore = true;
  add(page);
  const counts = Object.entries(answer.counts).map(([verdict, count]) => `${count} ${verdict}`);
  $("counts").textContent = `${$("model").value || "All models"}: ${counts.join(", ")}`;
}

function announce(records) {
  const fresh = records.filter((one) => one.sequence > newest);
  const isFirst = newest === 0;
  newest = Math.max(newest, ...records.map((one) => one.sequence));
  if (fresh.length && !isFirst) rates.soon();
  if (performance.now() < quiet) return undefined;
  if (isFirst || !fresh.length) return say(records.length ? "Up to date" : "Waiting for decisions");
  const bad = fresh.filter((one) => one.verdict === "bad").length;
  return say(`${fresh.length} new${bad ? `, ${bad} of them bad` : ""}`);
}

// asks again for rows beyond the newest, a page at a look, as other people say something of them, too
async function lookFurther(isCurrent) {
  const order = ordered();
  if (order.length <= PAGE) return;
  const lowest = order.at(-1).sequence;
  if (cursor === null || cursor <= lowest) cursor = order[PAGE - 1].sequence;
  const high = cursor;
  const { decisions: page } = await get("/decisions", { ...query(), after: lowest - 1, before: high });
  if (!isCurrent()) return;
  cursor = page.length < PAGE ? lowest : page.at(-1).sequence;
  drop(page, cursor, high);
  add(page);
}

async function look({ isAsked = false } = {}) {
  asked += 1;
  const mine = asked;
  try {
    const answer = await get("/decisions", query());
    if (mine !== asked) return; // the filter was changed meanwhile
    takeNewest(answer);
    await lookFurther(() => mine === asked);
    if (mine !== asked) return;
    announce(answer.decisions);
    const first = ordered()[0];
    const wanted = found.has(chosen) && !$("follow").checked ? chosen : first?.id ?? chosen;
    if (chosen && wanted !== chosen && !isAsked) changed = performance.now();
    if (wanted) choose(wanted);
    else render();
  } catch (error) {
    say(`No connection: ${error.message}`);
  }
}

async function older() {
  const last = ordered().at(-1);
  const wanted = query();
  const { decisions: page } = await get("/decisions", { ...wanted, before: last.sequence });
  if (JSON.stringify(query()) !== JSON.stringify(wanted)) return; // the filter was changed meanwhile
  mayHaveMore = page.length === PAGE;
  add(page);
  render();
}

function filter() {
  found.clear();
  newest = 0;
  cursor = null;
  mayHaveMore = false;
  $("verdict").disabled = $("queue").checked;
  look({ isAsked: true });
}

function hold() { // who works on a part goes on seeing it
  $("follow").checked = false;
}

function mayCorrect() {
  if (!$("who").value.trim()) {
    say("Enter your name first: corrections carry it");
    $("who").focus();
    return false;
  }
  if (performance.now() - changed < SETTLED) {
    say("Another part came just now: look at it first");
    return false;
  }
  if (isSaying) {
    say("What you said before is on its way: say it again");
    return false;
  }
  return true;
}

// says something of a part; where somebody else did meanwhile, shows what it was
async function tell(id, address, body) {
  isSaying = true;
  try {
    return await post(address, { who: $("who").value.trim(), ...body });
  } catch (error) {
    if (error.status === 409 && found.has(id)) {
      const fresh = await get(`/decisions/${id}`);
      if (found.has(id)) found.set(id, fresh);
      await look();
    }
    throw error;
  } finally {
    isSaying = false;
  }
}

async function correct(verdict) {
  const record = found.get(chosen);
  if (!record || !mayCorrect()) return;
  try {
    const order = ordered();
    const next = order[order.findIndex((one) => one.id === record.id) + 1];
    const body = { verdict, note: $("note").value, seen: record.correction ?? 0 };
    const done = await tell(record.id, `/decisions/${record.id}/corrections`, body);
    made.push({ number: done.number, id: record.id, item: record.item });
    const said = { correction: done.number, corrected_to: verdict, corrected_by: done.who, correction_note: done.note };
    if (found.has(record.id)) found.set(record.id, { ...found.get(record.id), ...said });
    $("note").value = "";
    if ($("queue").checked && next) {
      found.delete(record.id);
      choose(next.id, { follow: false });
    }
    await look();
    say(`${record.item} corrected to ${verdict}`);
  } catch (error) {
    say(error.message, { stays: READING });
  }
}

async function undo() {
  const record = found.get(chosen);
  const last = record?.correction ? { number: record.correction, id: record.id, item: record.item } : made.at(-1);
  if (!last) return say("Nothing to undo");
  if (!mayCorrect()) return undefined;
  try {
    await tell(last.id, `/corrections/${last.number}/undo`, {});
    const at = made.findIndex((one) => one.number === last.number);
    if (at >= 0) made.splice(at, 1);
    await look();
    return say(`The correction of ${last.item} is undone`);
  } catch (error) {
    return say(error.message, { stays: READING });
  }
}

function step(by) {
  const order = ordered();
  const at = order.findIndex((one) => one.id === chosen) + by;
  if (order[at]) choose(order[at].id, { follow: false, focus: true });
}

function listen() {
  const keys = { g: () => correct("good"), b: () => correct("bad"), u: undo, j: () => step(1), k: () => step(-1), ...viewer.setUp() };
  document.addEventListener("keydown", (event) => {
    const isTyping = event.target.closest("input:not([type=checkbox], [type=range]), select, dialog");
    if (isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
    const inList = event.target.closest("#list");
    const act = inList && event.key === "ArrowDown" ? keys.j : inList && event.key === "ArrowUp" ? keys.k : keys[event.key];
    if (!act || event.repeat && "gbu".includes(event.key)) return;
    event.preventDefault();
    hold();
    act();
  });
  for (const kind of ["pointerdown", "keydown"]) $("viewer").addEventListener(kind, hold);
  $("good").addEventListener("click", keys.g);
  $("bad").addEventListener("click", keys.b);
  $("undo").addEventListener("click", undo);
  $("older").addEventListener("click", older);
  $("filters").addEventListener("change", (event) => event.target.id === "follow" ? look({ isAsked: true }) : filter());
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  $("who").value = localStorage.getItem("padim-who") ?? "";
  $("who").addEventListener("change", () => localStorage.setItem("padim-who", $("who").value));
}

async function start() {
  listen();
  const { models } = await get("/models");
  $("model").append(...models.map((one) => new Option(one.name)));
  rates.setUp(models);
  changing.setUp();
  learning.setUp();
  forgetting.setUp();
  drift.setUp();
  for (;;) {
    if (!document.hidden) await look();
    await new Promise((resolve) => { setTimeout(resolve, PAUSE); });
  }
}

start().catch((error) => say(error.message));
