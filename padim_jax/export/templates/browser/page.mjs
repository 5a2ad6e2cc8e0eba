// The page: photos from files or a camera, scored by the model that lies in it.

const SETTINGS = JSON.parse(find("settings").textContent);
const INFERNO = [
  [0, 0, 4], [31, 12, 72], [85, 15, 109], [136, 34, 106], [186, 54, 85],
  [227, 89, 51], [249, 140, 10], [249, 201, 50], [252, 255, 164],
]; // prettier-ignore
const LONGEST = 1280; // pixels of the picture that is shown
const ROWS = 200; // of the table
let score; // of an image, once the model is open
let shown; // the photo in view and what the model says about it
let queue = Promise.resolve(); // one image at a time

function find(id) {
  return document.getElementById(id);
}

/** Bytes of a block of this page, and the block itself is let go of. */
async function unpack(id) {
  const text = find(id).textContent;
  find(id).remove();
  const step = 2 ** 20; // a whole number of groups of four letters
  const parts = [];
  for (let at = 0; at < text.length; at += step) {
    const letters = atob(text.slice(at, at + step));
    parts.push(Uint8Array.from(letters, (letter) => letter.charCodeAt(0)));
  }
  const stream = new Blob(parts).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function openRuntime(name, provider, model) {
  const code = await unpack(`${name}-code`);
  const binary = await unpack(`${name}-binary`);
  const address = URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
  const ort = await import(address);
  URL.revokeObjectURL(address);
  ort.env.logLevel = "fatal";
  ort.env.wasm.numThreads = 1; // more need headers that no file on disk has
  ort.env.wasm.wasmBinary = binary;
  const session = await ort.InferenceSession.create(model, { executionProviders: [provider], logSeverityLevel: 3 });
  const names = session.outputNames;
  return async (pixels) => {
    const images = new ort.Tensor("uint8", pixels, [1, ...SETTINGS.crop, 3]);
    const found = await session.run({ images });
    return Object.fromEntries(names.map((output) => [output, found[output].data]));
  };
}

/** The largest difference from what the model says about the examples, relative to their maps' scales. */
async function compare(run) {
  let largest = 0;
  for (const { png, scale, image_score: wanted } of SETTINGS.examples) {
    const bytes = Uint8Array.from(atob(png), (letter) => letter.charCodeAt(0));
    const photo = await decode(new Blob([bytes], { type: "image/png" }));
    const found = (await run(toRgb(photo))).image_score[0]; // they are of the crop's size
    const gap = Math.abs(found - wanted) / scale;
    largest = Number.isFinite(gap) ? Math.max(largest, gap) : Infinity;
  }
  return largest;
}

/** The first runtime that works here and gives what the model gives. */
async function open() {
  const model = await unpack("model");
  const known = [["webgpu", "webgpu", "WebGPU"], ["wasm", "wasm", "WebAssembly"]].filter(([name]) => find(`${name}-code`));
  const faults = [];
  for (const [name, provider, words] of known) {
    if (name === "webgpu" && !(await navigator.gpu?.requestAdapter().catch(() => null))) continue;
    try {
      const run = await openRuntime(name, provider, model);
      const gap = await compare(run);
      if (gap > SETTINGS.bound) throw new Error(`it is off by ${gap.toExponential(1)} of the maps' scale`);
      return { run, words, gap };
    } catch (error) {
      faults.push(`${words}: ${error.message}`);
    }
  }
  throw new Error(`This browser can't run the model as it should. ${faults.join("; ")}`);
}

/** Pixels of an image file or a video's picture as they are stored, upright. */
async function decode(source) {
  let note = "";
  if (source instanceof Blob) {
    const head = new Uint8Array(await source.slice(0, 25).arrayBuffer());
    const isPng = String.fromCharCode(...head.slice(1, 4)) === "PNG";
    if (isPng && head[24] === 16) throw new Error("it has 16 bits a channel, and the model is for 8");
  }
  let bitmap;
  try {
    bitmap = await createImageBitmap(source, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  } catch {
    throw new Error("this browser can't read it; save it as PNG or JPEG");
  }
  const { width, height } = bitmap;
  const context = canvasOf(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const { data } = context.getImageData(0, 0, width, height);
  for (let at = 3; at < data.length; at += 4) {
    if (data[at] === 255) continue;
    note = "transparent pixels laid on black";
    for (let channel = at - 3; channel < at; channel++) data[channel] = Math.round((data[channel] * data[at]) / 255);
    data[at] = 255;
  }
  return { data, width, height, channels: 4, note };
}

function canvasOf(width, height) {
  return Object.assign(document.createElement("canvas"), { width, height });
}

async function judge(source, name, isKept) {
  try {
    const photo = await decode(source);
    const start = performance.now();
    const found = await score(readPixels(photo, SETTINGS));
    shown = { photo, found, name, seconds: (performance.now() - start) / 1000 };
    find("fault").hidden = true;
    show();
    if (isKept) addRow();
  } catch (error) {
    find("fault").textContent = `${name}: ${error.message}`;
    find("fault").hidden = false;
  }
}

function verdictOf({ anomalous }) {
  if (anomalous === undefined) return ["no verdict", ""];
  return anomalous[0] ? ["anomalous", "anomalous"] : ["normal", "normal"];
}

function number(value) {
  return Number(value.toPrecision(4)).toString();
}

function show() {
  const { photo, found, name, seconds } = shown;
  const [verdict, kind] = verdictOf(found);
  find("result").hidden = false;
  Object.assign(find("verdict"), { textContent: verdict, className: kind });
  Object.assign(find("score"), { textContent: number(found.image_score[0]) });
  find("result").dataset.score = found.image_score[0];
  find("threshold").textContent =
    SETTINGS.threshold === null ? "the model is not calibrated" : `anomalous above ${number(SETTINGS.threshold)}`;
  if (found.match !== undefined) {
    const least = SETTINGS.least_match === null ? "" : `, anomalous below ${number(SETTINGS.least_match)}`;
    find("threshold").textContent += `; it matches the reference by ${number(found.match[0])}${least}`;
  }
  find("p-card").hidden = found.p_value === undefined;
  if (found.p_value !== undefined) find("p").textContent = number(found.p_value[0]);
  const words = [`${name}, ${photo.width}×${photo.height}`, `scored in ${seconds.toFixed(2)} s`, photo.note];
  find("about").textContent = `· ${words.filter(Boolean).join(" · ")}`;
  find("picture").setAttribute("aria-label", `${name}: ${verdict}, score ${number(found.image_score[0])}`);
  draw();
}

function draw() {
  const { photo, found } = shown;
  const factor = Math.min(1, LONGEST / Math.max(photo.width, photo.height)) || 1;
  const grow = Math.max(factor, Math.min(4, Math.ceil(480 / Math.max(photo.width, photo.height))) * factor);
  const canvas = find("picture");
  canvas.width = Math.max(1, Math.round(photo.width * grow));
  canvas.height = Math.max(1, Math.round(photo.height * grow));
  const context = canvas.getContext("2d");
  const source = canvasOf(photo.width, photo.height);
  source.getContext("2d").putImageData(new ImageData(photo.data, photo.width, photo.height), 0, 0);
  context.drawImage(source, 0, 0, canvas.width, canvas.height);
  if (!find("heat").checked) return;
  const [across, down] = [canvas.width / photo.width, canvas.height / photo.height];
  const { original, crop } = seenPart(photo.width, photo.height, SETTINGS);
  const [left, top] = [original[0] * across, original[1] * down];
  const [width, height] = [original[2] * across - left, original[3] * down - top];
  context.drawImage(heatMap(found.anomaly_map), crop[0], crop[1], crop[2] - crop[0], crop[3] - crop[1], left, top, width, height);
  if (width < canvas.width - 1 || height < canvas.height - 1) {
    context.fillStyle = "rgb(0 0 0 / 55%)"; // where the model does not look
    context.beginPath();
    context.rect(0, 0, canvas.width, canvas.height);
    context.rect(left, top, width, height);
    context.fill("evenodd");
  }
  if (found.mask !== undefined) outline(context, found.mask, { left, top, width, height, crop });
}

/** A map in colours, the more opaque the higher. */
function heatMap(map) {
  const [rows, columns] = SETTINGS.crop;
  const [low, high] = SETTINGS.colour_scale ?? [0, map.reduce((most, value) => Math.max(most, value), 1e-30)];
  const image = new ImageData(columns, rows);
  map.forEach((value, at) => {
    const level = Math.min(1, Math.max(0, (value - low) / (high - low)));
    const step = Math.min(INFERNO.length - 2, Math.floor(level * (INFERNO.length - 1)));
    const share = level * (INFERNO.length - 1) - step;
    for (let channel = 0; channel < 3; channel++) {
      image.data[at * 4 + channel] = INFERNO[step][channel] * (1 - share) + INFERNO[step + 1][channel] * share;
    }
    image.data[at * 4 + 3] = 255 * 0.6 * Math.min(1, 2 * level);
  });
  const canvas = canvasOf(columns, rows);
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

/** Draw the border of the pixels that are above the pixel threshold. */
function outline(context, mask, { left, top, width, height, crop }) {
  const [rows, columns] = SETTINGS.crop;
  const x = (column) => left + ((column - crop[0]) * width) / (crop[2] - crop[0]);
  const y = (row) => top + ((row - crop[1]) * height) / (crop[3] - crop[1]);
  const isAbove = (row, column) =>
    row >= 0 && row < rows && column >= 0 && column < columns && Boolean(mask[row * columns + column]);
  context.beginPath();
  for (let row = 0; row <= rows; row++) {
    for (let column = 0; column <= columns; column++) {
      if (isAbove(row, column) !== isAbove(row - 1, column)) {
        context.moveTo(x(column), y(row));
        context.lineTo(x(column + 1), y(row));
      }
      if (isAbove(row, column) !== isAbove(row, column - 1)) {
        context.moveTo(x(column), y(row));
        context.lineTo(x(column), y(row + 1));
      }
    }
  }
  const { clientWidth, width: pixels } = context.canvas;
  const grow = Math.max(1, pixels / (clientWidth || pixels)); // lines are as wide on the screen of a phone
  for (const [colour, thickness] of [["black", 3], ["white", 1.5]]) {
    Object.assign(context, { strokeStyle: colour, lineWidth: thickness * grow });
    context.stroke();
  }
}

function addRow() {
  const { found, name } = shown;
  const [verdict, kind] = verdictOf(found);
  const row = find("rows").insertRow(0);
  const cells = [name, number(found.image_score[0]), found.p_value ? number(found.p_value[0]) : "", verdict];
  cells.forEach((text) => Object.assign(row.insertCell(), { textContent: text }));
  row.lastChild.className = kind;
  row.dataset.score = found.image_score[0];
  if (find("rows").rows.length > ROWS) find("rows").deleteRow(ROWS);
  find("list").hidden = false;
}

function judgeFiles(files) {
  for (const file of files) queue = queue.then(() => judge(file, file.name, true));
}

function picture() {
  return createImageBitmap(find("video"));
}

async function toggleCamera() {
  const video = find("video");
  if (video.srcObject) {
    video.srcObject.getTracks().forEach((track) => track.stop());
    video.srcObject = null;
    find("view").hidden = true;
    find("camera").textContent = "Use the camera";
    return;
  }
  try {
    if (!navigator.mediaDevices) throw new Error("a browser gives it to a page from https, localhost or a file alone");
    const size = { width: { ideal: 1920 }, height: { ideal: 1080 } };
    video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment", ...size } });
    await video.play();
    find("view").hidden = false;
    find("camera").textContent = "Close the camera";
  } catch (error) {
    find("fault").textContent = `There is no camera to use: ${error.message}`;
    find("fault").hidden = false;
  }
}

async function shoot(isKept) {
  const name = new Date().toLocaleTimeString();
  queue = queue.then(async () => find("video").srcObject && judge(await picture(), name, isKept));
  await queue;
}

async function watch() {
  while (find("live").checked && find("video").srcObject) {
    await shoot(false);
    await new Promise(requestAnimationFrame);
  }
}

async function save() {
  const { photo } = shown ?? {};
  if (!photo) return;
  const canvas = canvasOf(photo.width, photo.height);
  canvas.getContext("2d").putImageData(new ImageData(photo.data, photo.width, photo.height), 0, 0);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = `${shown.name.replaceAll(/[^\w.-]+/g, "-")}.png`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

find("title").textContent = SETTINGS.title;
find("files").addEventListener("change", ({ target }) => {
  judgeFiles([...target.files]);
  target.value = ""; // the same file can be chosen again
});
find("camera").addEventListener("click", toggleCamera);
find("shoot").addEventListener("click", () => shoot(true));
find("live").addEventListener("change", watch);
find("save").addEventListener("click", save);
find("heat").addEventListener("change", () => shown && draw());
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    find("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop" && score) judgeFiles([...event.dataTransfer.files]);
  });
}
try {
  const { run, words, gap } = await open();
  score = run;
  find("status").textContent =
    `Ready. ${words} in this browser gives what the model gave for ${SETTINGS.examples.length} examples, ` +
    `within ${gap.toExponential(0)} of their maps' scale.`;
  find("status").dataset.gap = gap;
  find("files").disabled = find("camera").disabled = false;
} catch (error) {
  find("status").textContent = "The model is not ready.";
  find("fault").textContent = error.message;
  find("fault").hidden = false;
}
find("facts-of-model").textContent =
  `Model ${SETTINGS.model.slice(0, 12)}, exported by padim_jax ${SETTINGS.padim_jax}; ` +
  `ONNX Runtime Web ${SETTINGS.ort} (MIT licence, Microsoft Corporation).`;
