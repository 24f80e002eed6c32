// The photo on its canvas: position and zoom, drawing, and hit testing.

import { copyOf } from "./dom.js";
import { KEEP } from "./model.js";

const MAX_GREY_SIDE = 4096; // longest side of the grey copy, px
const MAX_SCALE = 64; // display pixels per pixel of the photo
const HIT = 9; // distance to a hint that counts as a hit, display pixels
const TAU = 2 * Math.PI;
const OUTLINE = [[3, "rgba(0,0,0,.6)"], [1.5, "#fff"]]; // width and style of lines that are visible on any photo

/** The luminance (BT.601, as on the server) of an image as a canvas. */
export function greyOf(image) {
  const canvas = copyOf(image, MAX_GREY_SIDE);
  const context = canvas.getContext("2d");
  context.globalCompositeOperation = "destination-over"; // transparent pixels become black
  context.fillRect(0, 0, canvas.width, canvas.height);
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height);
  const { data } = pixels;
  for (let i = 0; i < data.length; i += 4) {
    data[i] = data[i + 1] = data[i + 2] = 0.299 * data[i] + 0.587 * data[i + 1] + 0.114 * data[i + 2] + 0.5;
  }
  context.putImageData(pixels, 0, 0);
  return canvas;
}

const STRIPE = 3; // width of the stripes of what keeps its colour, display pixels
let stripes = null;

/** A hint's colour as a canvas's style; dark and light stripes for one that keeps the model's. */
function paintOf(context, color) {
  if (color !== KEEP) return color;
  if (!stripes) {
    stripes = document.createElement("canvas");
    stripes.width = stripes.height = 2 * STRIPE;
    const brush = stripes.getContext("2d");
    for (let y = 0; y < 2 * STRIPE; y++) {
      for (let x = 0; x < 2 * STRIPE; x++) {
        brush.fillStyle = (x + y) % (2 * STRIPE) < STRIPE ? "#fff" : "#444";
        brush.fillRect(x, y, 1, 1);
      }
    }
  }
  return context.createPattern(stripes, "repeat");
}

const pointsOf = (hint) => hint.points ?? [[hint.x, hint.y]];
const boxes = new WeakMap(); // of hints, which never change

/** [left, top, right, bottom] of a hint's points, px of the photo. */
function boxOf(hint) {
  let box = boxes.get(hint);
  if (!box) {
    box = [Infinity, Infinity, -Infinity, -Infinity];
    for (const [x, y] of pointsOf(hint)) {
      box = [Math.min(box[0], x), Math.min(box[1], y), Math.max(box[2], x), Math.max(box[3], y)];
    }
    boxes.set(hint, box);
  }
  return box;
}

export class View {
  canvas = document.createElement("canvas");
  photo = null; // {grey, width, height}: the canvas, and the photo's own size in pixels
  preview = null;
  region = null; // a Region
  scale = 1; // display pixels per pixel of the photo
  left = 0; // of the photo, display pixels
  top = 0;
  #fitted = true;

  setPhoto(photo) {
    this.photo = photo;
    this.preview = this.region = null;
    this.fit();
  }

  get width() {
    return this.canvas.clientWidth;
  }

  get height() {
    return this.canvas.clientHeight;
  }

  get #fitScale() {
    return Math.min((this.width - 16) / this.photo.width, (this.height - 16) / this.photo.height);
  }

  fit() {
    this.#fitted = true;
    if (!this.photo || !this.width) return;
    this.scale = Math.max(this.#fitScale, 1e-4);
    this.left = (this.width - this.photo.width * this.scale) / 2;
    this.top = (this.height - this.photo.height * this.scale) / 2;
  }

  /** Zooms by `factor` around the display pixel (x, y). */
  zoom(factor, x = this.width / 2, y = this.height / 2) {
    if (!this.photo) return;
    const least = Math.min(this.#fitScale, 1) / 2;
    const scale = Math.min(MAX_SCALE, Math.max(least, this.scale * factor));
    this.left = x - ((x - this.left) * scale) / this.scale;
    this.top = y - ((y - this.top) * scale) / this.scale;
    this.scale = scale;
    this.#fitted = false;
    this.#keep();
  }

  pan(dx, dy) {
    if (!this.photo) return;
    this.left += dx;
    this.top += dy;
    this.#fitted = false;
    this.#keep();
  }

  /** Keeps part of the photo visible. */
  #keep() {
    const margin = 40;
    const keep = (at, length, room) => Math.min(room - margin, Math.max(margin - length * this.scale, at));
    this.left = keep(this.left, this.photo.width, this.width);
    this.top = keep(this.top, this.photo.height, this.height);
  }

  /** Moves the photo so that its pixel (x, y) is visible. */
  reveal(x, y) {
    const [cx, cy] = this.toDisplay(x, y);
    const margin = 24;
    const dx = Math.max(0, margin - cx) - Math.max(0, cx - this.width + margin);
    const dy = Math.max(0, margin - cy) - Math.max(0, cy - this.height + margin);
    if (dx || dy) this.pan(dx, dy);
  }

  /** An event's position in display pixels; the element may be zoomed together with ComfyUI's canvas. */
  place(event) {
    const box = this.canvas.getBoundingClientRect();
    const zoom = box.width / this.width || 1;
    return [(event.clientX - box.left) / zoom, (event.clientY - box.top) / zoom];
  }

  /** Display coordinates to the photo's, not rounded: floor gives the pixel. */
  toPhoto(x, y) {
    return [(x - this.left) / this.scale, (y - this.top) / this.scale];
  }

  /** The centre of a pixel of the photo in display pixels. */
  toDisplay(x, y) {
    return [this.left + (Math.floor(x) + 0.5) * this.scale, this.top + (Math.floor(y) + 0.5) * this.scale];
  }

  isInside(x, y) {
    return this.photo !== null && x >= 0 && y >= 0 && x < this.photo.width && y < this.photo.height;
  }

  /** Whether a hint, with a margin, may touch the rectangle from (x0, y0) to (x1, y1); all in display pixels. */
  #isNear(hint, margin, x0, y0, x1, y1) {
    const [left, top, right, bottom] = boxOf(hint);
    const [a, b] = this.toDisplay(left, top);
    const [c, d] = this.toDisplay(right, bottom);
    return a - margin <= x1 && b - margin <= y1 && c + margin >= x0 && d + margin >= y0;
  }

  /** The index of the topmost hint at the display pixel (x, y), or -1. */
  hit(hints, x, y) {
    for (let i = hints.length - 1; i >= 0; i--) {
      const hint = hints[i];
      const reach = Math.max(HIT, hint.radius * this.scale);
      if (!this.#isNear(hint, reach, x, y, x, y)) continue;
      const points = pointsOf(hint);
      for (let j = 0; j < points.length; j++) {
        const [ax, ay] = this.toDisplay(...points[j]);
        const [bx, by] = this.toDisplay(...points[Math.min(j + 1, points.length - 1)]);
        const length = (bx - ax) ** 2 + (by - ay) ** 2;
        const t = length ? Math.min(1, Math.max(0, ((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / length)) : 0;
        if (Math.hypot(x - ax - t * (bx - ax), y - ay - t * (by - ay)) <= reach) return i;
      }
    }
    return -1;
  }

  /** Resizes the backing store to the element's size on the screen. */
  resize() {
    const box = this.canvas.getBoundingClientRect();
    if (!this.width || !box.width) return false;
    const ratio = Math.min(3, Math.max(1, (window.devicePixelRatio * box.width) / this.width));
    const [width, height] = [Math.round(this.width * ratio), Math.round(this.height * ratio)];
    if (this.canvas.width === width && this.canvas.height === height) return false;
    this.canvas.width = width;
    this.canvas.height = height;
    if (this.#fitted) this.fit();
    return true;
  }

  /** state: {hints, draft, hover, brush, cursor, look, tool, showHints, showPreview}. */
  draw(state) {
    this.resize();
    const context = this.canvas.getContext("2d");
    const ratio = this.canvas.width / (this.width || 1);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, this.width, this.height);
    if (!this.photo) return;
    const box = [this.left, this.top, this.photo.width * this.scale, this.photo.height * this.scale];
    context.imageSmoothingEnabled = this.scale < 4;
    context.imageSmoothingQuality = "high";
    context.drawImage(this.photo.grey, ...box);
    if (state.showPreview && this.preview) {
      context.imageSmoothingEnabled = true;
      context.globalCompositeOperation = "color"; // hue and chroma of the preview, luminance of the photo
      context.drawImage(this.preview, ...box);
      context.globalCompositeOperation = "source-over";
    }
    this.canvas.dataset.region = this.region ? this.region.share.toFixed(3) : ""; // of the photo, for tests
    if (this.region) this.region.draw(context, box, state.hints[state.hover]?.color ?? state.look.color);
    if (state.showHints) {
      state.hints.forEach((hint, i) => this.#drawHint(context, hint, i === state.hover));
    }
    if (state.draft) this.#drawHint(context, state.draft, true);
    if (state.brush) this.#drawBrush(context, state.brush, state);
    if (state.cursor) this.#drawCursor(context, state.cursor, state);
  }

  /** A shape filled with the hint's colour, with a dark and a light outline that are visible on any photo. */
  #drawHint(context, hint, strong) {
    const width = Math.min(1e5, Math.max(hint.points ? 3 : 8, 2 * hint.radius * this.scale));
    if (!this.#isNear(hint, width / 2 + 6, 0, 0, this.width, this.height)) return;
    const [first, ...rest] = pointsOf(hint).map(([x, y]) => this.toDisplay(x, y));
    const isDot = rest.every(([x, y]) => x === first[0] && y === first[1]); // a line of zero length draws nothing
    const path = new Path2D();
    path.moveTo(...first);
    for (const point of rest) path.lineTo(...point);
    context.lineCap = context.lineJoin = "round";
    const line = (extra, style, alpha) => {
      context.globalAlpha = alpha;
      if (isDot) {
        const dot = new Path2D();
        dot.arc(...first, (width + extra) / 2, 0, TAU);
        context.fillStyle = style;
        context.fill(dot);
        return;
      }
      context.lineWidth = width + extra;
      context.strokeStyle = style;
      context.stroke(path);
    };
    line(strong ? 6 : 4, "#000", 0.55);
    line(strong ? 4 : 2, "#fff", strong ? 1 : 0.85);
    line(0, paintOf(context, hint.color), 1);
    context.globalAlpha = 1;
  }

  #outline(context, path) {
    for (const [width, style] of OUTLINE) {
      context.lineWidth = width;
      context.strokeStyle = style;
      context.stroke(path);
    }
  }

  #brushSize(radius) {
    return Math.max(4, (radius + 0.5) * this.scale);
  }

  #drawBrush(context, [x, y], { look, tool }) {
    const path = new Path2D();
    const paints = tool === "paint" || tool === "lock";
    path.arc(x, y, paints ? this.#brushSize(look.radius) : HIT, 0, TAU);
    if (paints) {
      context.fillStyle = paintOf(context, look.color);
      context.globalAlpha = 0.45;
      context.fill(path);
      context.globalAlpha = 1;
    }
    this.#outline(context, path);
  }

  #drawCursor(context, place, { look }) {
    const [x, y] = this.toDisplay(...place);
    const size = this.#brushSize(look.radius);
    const path = new Path2D();
    path.arc(x, y, size, 0, TAU);
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      path.moveTo(x + dx * size, y + dy * size);
      path.lineTo(x + dx * (size + 8), y + dy * (size + 8));
    }
    this.#outline(context, path);
  }
}
