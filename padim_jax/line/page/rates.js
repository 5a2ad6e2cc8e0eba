// What two other rates would have made of the last decisions of a model.

import { get } from "/api.js";

const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const VERDICTS = ["good", "look", "bad", "unreadable"];
const [LEFT, RIGHT, TOP, BOTTOM] = [34, 474, 12, 168];
let waiting = null;
let asked = 0;

// three digits, never less than the slider says: a rate counts as the step of p-values below it
const rate = (id) => Number((10 ** Number($(id).value) * 1.005).toPrecision(3));
const place = (value) => Math.ceil(200 * Math.log10(value)) / 200; // on the slider
const percent = (value) => `${Number((100 * value).toPrecision(2))} %`;
const plural = (count, what) => `${count} ${what}${count === 1 ? "" : "s"}`;

function draw(shape, attributes, text = "") {
  const made = document.createElementNS(SVG, shape);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.textContent = text;
  return made;
}

function histogram(found) {
  const bins = Object.values(found.histogram)[0]?.length ?? 20;
  const sums = Array.from({ length: bins }, (_, bin) => VERDICTS.reduce((sum, one) => sum + (found.histogram[one]?.[bin] ?? 0), 0));
  const total = sums.reduce((a, b) => a + b, 0);
  const most = Math.max(1, ...sums);
  const [width, height] = [(RIGHT - LEFT) / bins, BOTTOM - TOP];
  const shapes = [];
  for (let bin = 0; bin < bins; bin += 1) {
    let y = BOTTOM;
    for (const verdict of ["bad", "look", "good"]) {
      const tall = (height * (found.histogram[verdict]?.[bin] ?? 0)) / most;
      y -= tall;
      if (tall) shapes.push(draw("rect", { class: verdict, x: LEFT + bin * width + 1, y, width: width - 2, height: tall }));
    }
  }
  const even = BOTTOM - (height * total) / bins / most;
  const at = (p) => LEFT + (RIGHT - LEFT) * Math.min(1, p);
  shapes.push(
    draw("line", { class: "axis", x1: LEFT, x2: RIGHT, y1: BOTTOM, y2: BOTTOM }),
    draw("line", { class: "even", x1: LEFT, x2: RIGHT, y1: even, y2: even }),
    draw("text", { x: LEFT - 4, y: TOP + 4, "text-anchor": "end" }, most),
    draw("text", { x: LEFT, y: BOTTOM + 16 }, "0"),
    draw("text", { x: (LEFT + RIGHT) / 2, y: BOTTOM + 30, "text-anchor": "middle" }, "p-value"),
    draw("text", { x: RIGHT, y: BOTTOM + 16, "text-anchor": "end" }, "1"),
  );
  for (const p of [found.bad_up_to, found.look_up_to]) {
    const x = at(p + found.step / 2); // between two steps
    shapes.push(draw("line", { class: "cut", x1: x, x2: x, y1: TOP - 4, y2: BOTTOM }));
  }
  $("histogram").replaceChildren(...shapes);
  $("histogram-text").textContent = `p-values of ${plural(total, "decision")}: ${sums[0]} of them at most ${1 / bins}. Good parts alone would reach about the dashed line; the upright lines are the two rates.`;
}

function table(found) {
  $("then").querySelector("tbody").replaceChildren(...VERDICTS.map((verdict) => {
    const row = document.createElement("tr");
    const name = document.createElement("th");
    name.scope = "row";
    name.className = `verdict ${verdict}`;
    name.textContent = verdict;
    row.append(name, ...[found.now[verdict], found.then[verdict]].map((count) => {
      const cell = document.createElement("td");
      cell.textContent = count;
      return cell;
    }));
    return row;
  }));
  const { decisions, agree_now: now, agree_then: then } = found.corrected;
  $("agreed").textContent = decisions
    ? `Of ${plural(decisions, "decision")} that people corrected, ${now} agree with them as they are, and ${then} with these rates.`
    : "";
}

async function preview() {
  const [falseAlarms, looks, model] = [rate("false-alarm-rate"), rate("look-rate"), $("rated").value];
  for (const [id, value] of [["false-alarm", falseAlarms], ["look", looks]]) {
    $(`${id}-text`).textContent = percent(value);
    $(`${id}-rate`).setAttribute("aria-valuetext", percent(value));
  }
  const options = `--false-alarm-rate ${falseAlarms} --look-rate ${looks}`;
  $("command").textContent = `padim serve … ${options}`;
  if (!model) return;
  asked += 1;
  const mine = asked;
  try {
    const query = { false_alarm_rate: falseAlarms, look_rate: looks };
    const found = await get(`/models/${encodeURIComponent(model)}/preview`, query);
    if (mine !== asked) return; // the rates were moved meanwhile
    const changed = found.changed ? `${plural(found.changed, "verdict")} of ${found.decisions} would change` : `no verdict of ${found.decisions} would change`;
    const others = found.left_out ? ` Of the last ${found.decisions + found.left_out} decisions, ${found.left_out} by other states of the model are left out.` : "";
    const cuts = `Bad up to p = ${Number(found.bad_up_to.toPrecision(3))}, to look at up to ${Number(found.look_up_to.toPrecision(3))}`;
    $("rated-text").textContent = `${cuts}: ${changed}.${others} ${found.remark}`;
    histogram(found);
    table(found);
  } catch (error) {
    if (mine === asked) $("rated-text").textContent = error.message;
  }
}

export function soon() {
  clearTimeout(waiting);
  waiting = setTimeout(preview, 150);
}

export function setUp(models) {
  $("rated").replaceChildren(...models.map((one) => new Option(one.name)));
  const state = models[0];
  if (state?.bad_up_to) $("false-alarm-rate").value = place(state.bad_up_to);
  if (state?.look_up_to) $("look-rate").value = place(state.look_up_to);
  for (const id of ["rated", "false-alarm-rate", "look-rate"]) $(id).addEventListener("input", soon);
  $("sliders").addEventListener("submit", (event) => event.preventDefault());
  preview();
}
