// The region that a click would take: an outline on the photo, drawn before the click.

import { KEEP } from "./model.js";

const HALF = 128; // of 255: the outline is where half of the colour arrives
const TINT = 0.75;
const LINES = [[3, "rgba(0,0,0,.55)"], [1.4, "#fff"]]; // width and style
const DASHES = [5, 4]; // of what keeps its colour

/** The line along which a picture (width x height, values 0 to 255) passes `level`, by marching squares, as a Path2D in
 * its pixels. */
export function contour(values, width, height, level = HALF) {
  const path = new Path2D();
  const cross = (a, b) => (level - a) / (b - a);
  for (let y = 0; y + 1 < height; y++) {
    for (let x = 0; x + 1 < width; x++) {
      const at = y * width + x;
      const [a, b, c, d] = [values[at], values[at + 1], values[at + width + 1], values[at + width]]; // clockwise
      const kind = (a >= level) + 2 * (b >= level) + 4 * (c >= level) + 8 * (d >= level);
      if (kind === 0 || kind === 15) continue;
      const ends = [];
      if (a >= level !== b >= level) ends.push([x + 0.5 + cross(a, b), y + 0.5]);
      if (b >= level !== c >= level) ends.push([x + 1.5, y + 0.5 + cross(b, c)]);
      if (c >= level !== d >= level) ends.push([x + 0.5 + cross(d, c), y + 1.5]);
      if (d >= level !== a >= level) ends.push([x + 0.5, y + 0.5 + cross(a, d)]);
      for (let i = 0; i + 1 < ends.length; i += 2) {
        path.moveTo(...ends[i]);
        path.lineTo(...ends[i + 1]);
      }
    }
  }
  return path;
}

export class Region {
  /** picture: a canvas, white where the colour arrives and black elsewhere. */
  constructor(picture) {
    const { width, height } = picture;
    const context = picture.getContext("2d");
    const pixels = context.getImageData(0, 0, width, height);
    const values = new Uint8Array(width * height);
    for (let i = 0; i < values.length; i++) {
      values[i] = pixels.data[4 * i];
      pixels.data[4 * i + 3] = values[i]; // from now on as opacity
    }
    context.putImageData(pixels, 0, 0);
    Object.assign(this, { mask: picture, width, height, outline: contour(values, width, height) });
    this.share = values.reduce((sum, value) => sum + (value >= HALF), 0) / values.length;
  }

  /** Draws it in a box [left, top, width, height] of a context in the colour that it would get. */
  draw(context, box, color) {
    const [left, top, width, height] = box;
    context.save();
    if (color !== KEEP) {
      const tint = document.createElement("canvas");
      [tint.width, tint.height] = [this.width, this.height];
      const brush = tint.getContext("2d");
      brush.drawImage(this.mask, 0, 0);
      brush.globalCompositeOperation = "source-in";
      brush.fillStyle = color;
      brush.fillRect(0, 0, this.width, this.height);
      context.globalAlpha = TINT;
      context.globalCompositeOperation = "color";
      context.imageSmoothingEnabled = true;
      context.drawImage(tint, ...box);
      context.globalAlpha = 1;
      context.globalCompositeOperation = "source-over";
    }
    const path = new Path2D();
    path.addPath(this.outline, new DOMMatrix([width / this.width, 0, 0, height / this.height, left, top]));
    if (color === KEEP) context.setLineDash(DASHES);
    for (const [line, style] of LINES) {
      context.lineWidth = line;
      context.strokeStyle = style;
      context.stroke(path);
    }
    context.restore();
  }
}
