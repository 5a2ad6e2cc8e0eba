// From the pixels of a photo to what the network sees: the resize of Pillow to the last bit, then the crop of the middle.

const PRECISION = 22; // bits after the binary point of a weight
const FILTERS = {
  bilinear: { support: 1, weight: (x) => Math.max(0, 1 - Math.abs(x)) },
  bicubic: { support: 2, weight: cubic },
};

function cubic(x) {
  const a = -0.5;
  x = Math.abs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

/**
 * The image that the network sees, RGB of the crop's size.
 *
 * photo: {data, width, height, channels}, data being bytes, upright, row by row; of channels, the first three are used.
 * settings: {image: [rows, columns], crop: [rows, columns], resize, interpolation}.
 * Throws an Error for a photo that is smaller than the crop.
 */
export function readPixels(photo, settings) {
  const [cropRows, cropColumns] = settings.crop;
  const isShort = photo.height < cropRows;
  const isNarrow = photo.width < cropColumns;
  if (settings.resize === "pad" ? isShort && isNarrow : isShort || isNarrow) {
    throw new Error(
      `it has ${photo.width}×${photo.height} pixels, smaller than the crop of ${cropColumns}×${cropRows}; ` +
        "what the network sees would be made up",
    );
  }
  const { box, target } = place(photo.width, photo.height, settings);
  const [left, top, right, bottom] = target;
  const resized = resample(photo, box, right - left, bottom - top, settings.interpolation);
  const [cropTop, cropLeft] = cropCorner(settings);
  const pixels = new Uint8Array(cropRows * cropColumns * 3);
  for (let row = 0; row < cropRows; row++) {
    const from = row + cropTop - top;
    if (from < 0 || from >= bottom - top) continue; // a black border
    for (let column = 0; column < cropColumns; column++) {
      const source = column + cropLeft - left;
      if (source < 0 || source >= right - left) continue;
      for (let channel = 0; channel < 3; channel++) {
        pixels[(row * cropColumns + column) * 3 + channel] = resized[(from * (right - left) + source) * 3 + channel];
      }
    }
  }
  return pixels;
}

/** Which box of a photo (left, top, right, bottom) fills which pixels of the resized image. */
export function place(width, height, { image: [rows, columns], resize }) {
  let box = [0, 0, width, height];
  let target = [0, 0, columns, rows];
  const isWide = rows * width >= columns * height;
  if (resize === "shorter-side" && isWide) {
    const length = (columns * height) / rows;
    box = [(width - length) / 2, 0, (width + length) / 2, height];
  } else if (resize === "shorter-side") {
    const length = (rows * width) / columns;
    box = [0, (height - length) / 2, width, (height + length) / 2];
  } else if (resize === "pad" && isWide) {
    const length = Math.max(1, roundToEven((columns * height) / width));
    const top = Math.floor((rows - length) / 2);
    target = [0, top, columns, top + length];
  } else if (resize === "pad") {
    const length = Math.max(1, roundToEven((rows * width) / height));
    const left = Math.floor((columns - length) / 2);
    target = [left, 0, left + length, rows];
  } else if (resize !== "stretch") {
    throw new Error(`resize is ${resize}, wanted stretch, shorter-side or pad`);
  }
  return { box, target };
}

/** First row and column of the crop in the resized image. */
export function cropCorner({ image, crop }) {
  return [0, 1].map((axis) => Math.floor((image[axis] - crop[axis]) / 2));
}

/** The part of a photo that the crop shows, and where it lies in the crop, each as left, top, right, bottom. */
export function seenPart(width, height, settings) {
  const { box, target } = place(width, height, settings);
  const [cropTop, cropLeft] = cropCorner(settings);
  const original = [];
  const crop = [];
  [[0, cropLeft, settings.crop[1]], [1, cropTop, settings.crop[0]]].forEach(([axis, first, length]) => {
    const [start, end] = [target[axis], target[axis + 2]];
    const [low, high] = [Math.max(start, first), Math.min(end, first + length)];
    const scale = (box[axis + 2] - box[axis]) / (end - start);
    original[axis] = box[axis] + (low - start) * scale;
    original[axis + 2] = box[axis] + (high - start) * scale;
    crop[axis] = low - first;
    crop[axis + 2] = high - first;
  });
  return { original, crop };
}

function roundToEven(value) {
  const low = Math.floor(value);
  if (value - low !== 0.5) return Math.round(value);
  return low % 2 === 0 ? low : low + 1;
}

/** RGB of columns × rows: along one axis, rounded to bytes, then along the other. */
export function resample(photo, box, columns, rows, interpolation) {
  const filter = FILTERS[interpolation];
  if (filter === undefined) throw new Error(`interpolation is ${interpolation}, wanted bilinear or bicubic`);
  const { width, height } = photo;
  const [left, top, right, bottom] = box.map(Math.fround); // Pillow has the box in single precision
  const across = weights(width, left, right, columns, filter);
  const down = weights(height, top, bottom, rows, filter);
  const isAcross = columns !== width || left !== 0 || right !== width;
  const isDown = rows !== height || top !== 0 || bottom !== height;
  // the order that Pillow takes; rounding in between makes it matter
  if (height > rows && height - rows > (width - columns) * 2) {
    const half = isDown ? passDown(photo, down, rows) : photo;
    return isAcross ? passAcross(half, across, columns, 0, rows).data : toRgb(half);
  }
  if (!isAcross) return isDown ? toRgb(passDown(photo, down, rows)) : toRgb(photo);
  if (!isDown) return passAcross(photo, across, columns, 0, height).data;
  const first = down.starts[0];
  const last = down.starts[rows - 1] + down.counts[rows - 1];
  const half = passAcross(photo, across, columns, first, last);
  const shifted = { ...down, starts: down.starts.map((start) => start - first) };
  return passDown(half, shifted, rows).data;
}

/** Some rows of a photo, first to last, at another width. */
function passAcross({ data, width, channels }, across, columns, first, last) {
  const found = new Uint8Array((last - first) * columns * 3);
  for (let row = first; row < last; row++) {
    for (let column = 0; column < columns; column++) {
      const from = (row * width + across.starts[column]) * channels;
      weigh(data, from, channels, across, column, found, ((row - first) * columns + column) * 3);
    }
  }
  return { data: found, width: columns, height: last - first, channels: 3 };
}

/** A photo at another height. */
function passDown({ data, width, channels }, down, rows) {
  const found = new Uint8Array(rows * width * 3);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < width; column++) {
      const from = (down.starts[row] * width + column) * channels;
      weigh(data, from, width * channels, down, row, found, (row * width + column) * 3);
    }
  }
  return { data: found, width, height: rows, channels: 3 };
}

/** The first three channels of a photo, without a resize. */
export function toRgb({ data, width, height, channels }) {
  if (channels === 3) return data;
  return Uint8Array.from({ length: width * height * 3 }, (_, at) => data[Math.floor(at / 3) * channels + (at % 3)]);
}

/** One pixel of three channels: the weighted sum of pixels that lie step apart. */
function weigh(data, from, step, { size, values, counts }, index, found, to) {
  const half = 1 << (PRECISION - 1);
  let [red, green, blue] = [half, half, half];
  for (let tap = 0, at = from; tap < counts[index]; tap++, at += step) {
    const weight = values[index * size + tap];
    red += data[at] * weight;
    green += data[at + 1] * weight;
    blue += data[at + 2] * weight;
  }
  found[to] = clip(red >> PRECISION);
  found[to + 1] = clip(green >> PRECISION);
  found[to + 2] = clip(blue >> PRECISION);
}

function clip(value) {
  return value < 0 ? 0 : value > 255 ? 255 : value;
}

/** For every pixel along an axis: the first pixel of the photo that counts, how many do, and their weights. */
function weights(length, low, high, pixels, { support, weight }) {
  const scale = Math.fround(high - low) / pixels; // of single precision in Pillow too
  const stretch = Math.max(1, scale); // a photo that is made smaller is averaged
  const reach = support * stretch;
  const size = Math.ceil(reach) * 2 + 1;
  const values = new Int32Array(pixels * size);
  const starts = new Int32Array(pixels);
  const counts = new Int32Array(pixels);
  for (let pixel = 0; pixel < pixels; pixel++) {
    const centre = low + (pixel + 0.5) * scale;
    const start = Math.max(0, Math.trunc(centre - reach + 0.5));
    const count = Math.min(length, Math.trunc(centre + reach + 0.5)) - start;
    const own = [];
    let sum = 0;
    for (let tap = 0; tap < count; tap++) {
      own[tap] = weight((tap + start - centre + 0.5) * (1 / stretch));
      sum += own[tap];
    }
    own.forEach((value, tap) => {
      const scaled = (value / sum) * 2 ** PRECISION;
      values[pixel * size + tap] = Math.trunc(scaled < 0 ? scaled - 0.5 : scaled + 0.5);
    });
    starts[pixel] = start;
    counts[pixel] = count;
  }
  return { size, values, starts, counts };
}
