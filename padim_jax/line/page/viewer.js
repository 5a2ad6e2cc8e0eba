// One decision: its photo with map and regions at any size, and what is known of it.

import { picture } from "/api.js";
import * as forgetting from "/forgetting.js";

const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const LARGEST = 40;
let scale = 1;
let fitted = true;
let current = null;
let natural = null;

export const number = (value, digits = 3) => (value === null ? "–" : Number(value.toPrecision(digits)).toString());

export function verdict(record, corrected = record.corrected_to) {
  const shown = document.createElement("span");
  for (const [text, was] of corrected ? [[record.verdict, true], [corrected, false]] : [[record.verdict, false]]) {
    const part = document.createElement("span");
    part.className = `verdict ${text}${was ? " was" : ""}`;
    part.textContent = text;
    shown.append(part, " ");
  }
  return shown;
}

export async function show(record) {
  const isOther = current?.id !== record.id || current.has_photo !== record.has_photo;
  current = record;
  $("shown").hidden = false;
  $("viewer-title").replaceChildren(verdict(record), record.item);
  $("reason").textContent = record.reason;
  const said = record.corrected_to;
  $("corrected").textContent = said
    ? `Corrected to ${said} by ${record.corrected_by}${record.correction_note ? `: ${record.correction_note}` : ""}`
    : "";
  $("undo").disabled = false;
  facts(record);
  forgetting.show(record);
  if (isOther) await photo(record);
}

function facts(record) {
  const shown = {
    Time: new Date(record.time).toLocaleString(), Source: record.source, Score: number(record.score, 4),
    "p-value": number(record.p_value), Model: `${record.model} (${record.model_digest.slice(0, 12)})`, Decision: record.id,
  };
  $("facts").replaceChildren(...Object.entries(shown).flatMap(([name, value]) => {
    const [term, text] = [document.createElement("dt"), document.createElement("dd")];
    term.textContent = name;
    text.textContent = value;
    return [term, text];
  }));
  const regions = record.regions ?? [];
  $("regions").hidden = regions.length === 0;
  $("regions").querySelector("tbody").replaceChildren(...regions.map((region) => {
    const row = document.createElement("tr");
    for (const value of [region.left, region.top, region.width, region.height, region.area, region.peak, region.p_value]) {
      const cell = document.createElement("td");
      cell.textContent = number(value, 4);
      row.append(cell);
    }
    return row;
  }));
}

async function photo(record) {
  natural = null;
  for (const id of ["photo", "overlay"]) {
    URL.revokeObjectURL($(id).src);
    $(id).removeAttribute("src");
    $(id).hidden = true;
  }
  $("boxes").replaceChildren();
  $("stage").hidden = true;
  $("no-photo").hidden = record.has_photo;
  if (!record.has_photo) return;
  const [image, overlay] = await Promise.all(["photo", "overlay"].map(
    (what) => picture(`/decisions/${record.id}/${what}`).catch(() => null)));
  if (current.id !== record.id) return; // another one was chosen meanwhile
  if (!image) {
    $("no-photo").hidden = false;
    return;
  }
  $("photo").src = image;
  await $("photo").decode().catch(() => {});
  if (current.id !== record.id) return;
  $("photo").alt = `Photo of ${record.item}`;
  $("photo").hidden = $("stage").hidden = false;
  natural = { width: $("photo").naturalWidth || 1, height: $("photo").naturalHeight || 1 };
  if (overlay) $("overlay").src = overlay;
  boxes(record);
  layers();
  fit();
}

function boxes(record) {
  $("boxes").setAttribute("viewBox", `0 0 ${natural.width} ${natural.height}`);
  $("boxes").replaceChildren(...(record.regions ?? []).flatMap((region) => ["under", "over"].map((kind) => {
    const box = document.createElementNS(SVG, "rect");
    box.setAttribute("class", kind);
    for (const [name, value] of [["x", region.left], ["y", region.top], ["width", region.width], ["height", region.height]]) {
      box.setAttribute(name, value);
    }
    return box;
  })));
}

function layers() {
  $("overlay").hidden = !$("overlay").src || !$("with-map").checked;
  $("boxes").style.display = $("with-regions").checked ? "" : "none";
}

function resize(wanted) {
  if (!natural) return;
  const view = $("view");
  const [x, y] = [(view.scrollLeft + view.clientWidth / 2) / scale, (view.scrollTop + view.clientHeight / 2) / scale];
  scale = Math.min(LARGEST, Math.max(0.02, wanted));
  $("stage").style.width = `${natural.width * scale}px`;
  $("stage").style.height = `${natural.height * scale}px`;
  $("stage").classList.toggle("large", scale > 2);
  view.scrollTo(x * scale - view.clientWidth / 2, y * scale - view.clientHeight / 2);
}

function fit() {
  fitted = true;
  const view = $("view");
  if (natural) resize(Math.min(view.clientWidth / natural.width, view.clientHeight / natural.height));
}

export function zoom(by) {
  fitted = false;
  resize(scale * by);
}

export function setUp() {
  const full = () => { fitted = false; resize(1); };
  $("in").addEventListener("click", () => zoom(1.5));
  $("out").addEventListener("click", () => zoom(1 / 1.5));
  $("fit").addEventListener("click", fit);
  $("full").addEventListener("click", full);
  for (const id of ["with-map", "with-regions"]) $(id).addEventListener("change", layers);
  new ResizeObserver(() => fitted && fit()).observe($("view"));
  $("view").addEventListener("wheel", (event) => {
    if (!event.ctrlKey) return;
    event.preventDefault();
    zoom(event.deltaY < 0 ? 1.2 : 1 / 1.2);
  }, { passive: false });
  let held = null;
  $("stage").addEventListener("pointerdown", (event) => {
    if (event.pointerType !== "mouse") return; // a finger scrolls by itself
    event.preventDefault();
    held = [event.clientX + $("view").scrollLeft, event.clientY + $("view").scrollTop];
    $("stage").setPointerCapture(event.pointerId);
  });
  $("stage").addEventListener("pointermove", (event) => held && $("view").scrollTo(held[0] - event.clientX, held[1] - event.clientY));
  $("stage").addEventListener("pointerup", () => { held = null; });
  return { "+": () => zoom(1.5), "-": () => zoom(1 / 1.5), 0: fit, 1: full, m: () => $("with-map").click() };
}
