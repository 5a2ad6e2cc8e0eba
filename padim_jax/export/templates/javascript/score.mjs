// Score PNG photos by the model of this export: one line of JSON for each.

import { readFileSync, realpathSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import ort from "onnxruntime-node";
import { PNG } from "pngjs";
import { readPixels, toRgb } from "./reading.mjs";

const HERE = dirname(fileURLToPath(import.meta.url));
const USAGE = "usage: node score.mjs [--model MODEL.onnx] [--cropped] PHOTO.png...\n       node score.mjs --check EXAMPLES";
export const SETTINGS = JSON.parse(readFileSync(join(HERE, "settings.json"), "utf-8"));

/** Open the model; the score of an image is what `score` below gives. */
export async function openModel(path = join(HERE, "..", "model.onnx")) {
  return ort.InferenceSession.create(path);
}

/** Pixels of a PNG file, upright, as `readPixels` takes them; throws an Error that says what it can't read. */
export function decode(content) {
  const signature = Buffer.from([137, 80, 78, 71, 13, 10, 26, 10]);
  if (!content.subarray(0, 8).equals(signature)) throw new Error("it is no PNG; save it as one");
  if (content[24] === 16) throw new Error("it has 16 bits a channel, and the model is for 8");
  const { data, width, height } = PNG.sync.read(content);
  for (let at = 3; at < data.length; at += 4) {
    if (data[at] !== 255) throw new Error("it has transparent pixels; put it on a background first");
  }
  return { data, width, height, channels: 4 };
}

/**
 * What the model says about a photo: image_score and, of a calibrated model, p_value and anomalous; match, of one that
 * aligns images.
 *
 * With isCropped, the photo is what the network sees already, and is not resized.
 */
export async function score(session, photo, { isCropped = false, settings = SETTINGS } = {}) {
  const [rows, columns] = settings.crop;
  if (isCropped && (photo.height !== rows || photo.width !== columns)) {
    throw new Error(`it has ${photo.width}×${photo.height} pixels, wanted the crop's ${columns}×${rows}`);
  }
  const pixels = isCropped ? toRgb(photo) : readPixels(photo, settings);
  const images = new ort.Tensor("uint8", pixels, [1, ...settings.crop, 3]);
  const names = ["image_score", "p_value", "anomalous", "match"].filter((name) => session.outputNames.includes(name));
  const found = await session.run({ images }, names);
  const values = names.map((name) => [name, name === "anomalous" ? Boolean(found[name].data[0]) : found[name].data[0]]);
  return Object.fromEntries(values);
}

async function check(session, folder) {
  const { bound, examples } = JSON.parse(readFileSync(join(folder, "expected.json"), "utf-8"));
  for (const { file, scale, image_score: wanted } of examples) {
    const { image_score: found } = await score(session, decode(readFileSync(join(folder, file))), { isCropped: true });
    const gap = Math.abs(found - wanted);
    if (!(gap <= bound * scale)) throw new Error(`${file} scores ${found}, and its model says ${wanted}`);
  }
  console.log(JSON.stringify({ checked: examples.length, bound }));
}

async function main(words) {
  let model;
  if (words[0] === "--model") [, model] = words.splice(0, 2);
  if (words.length === 0 || (words[0] === "--check" && words.length !== 2)) throw new Error(USAGE);
  const isCropped = words[0] === "--cropped";
  const session = await openModel(model);
  if (words[0] === "--check") return check(session, words[1]);
  for (const file of words.slice(isCropped ? 1 : 0)) {
    try {
      console.log(JSON.stringify({ file, ...(await score(session, decode(readFileSync(file)), { isCropped })) }));
    } catch (error) {
      throw new Error(`${file}: ${error.message}`);
    }
  }
}

if (process.argv[1] && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  try {
    await main(process.argv.slice(2));
  } catch (error) {
    console.error(error.message);
    process.exitCode = 1;
  }
}
