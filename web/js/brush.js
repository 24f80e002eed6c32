// What the next hint will be: its radius, how far it spreads, and whether it is a colour or a lock.

import { KEEP, MAX_SPREAD } from "./model.js";

const LEAST_RADIUS = 6; // minimum initial radius, px; otherwise a hundredth of the photo's long side
const SPREAD_STEP = 0.1;

/** A spread on the grid of the slider, within its limits. */
const onGrid = (spread) => Math.min(MAX_SPREAD, Math.max(-MAX_SPREAD, Math.round(spread / SPREAD_STEP) * SPREAD_STEP));
const rounded = (spread) => Number(onGrid(spread).toFixed(2));

export class Brush {
  tool = "paint"; // "paint", "lock", "erase" or "pick"
  radius = LEAST_RADIUS; // px of the photo
  spread = 0;
  #side = 0; // the photo's longer one
  #chosen = false;

  setPhoto(photo) {
    this.#side = Math.max(photo?.width ?? 0, photo?.height ?? 0);
    if (photo && !this.#chosen) this.radius = Math.max(LEAST_RADIUS, Math.round(this.#side / 100));
  }

  get paints() {
    return this.tool === "paint" || this.tool === "lock";
  }

  /** The look of the next hint. */
  look(color) {
    return { color: this.tool === "lock" ? KEEP : color, radius: this.radius, spread: this.spread };
  }

  /** Radii go from 0 to a sixth of the photo's long side, finer where they are small. */
  get #maxRadius() {
    return Math.max(32, Math.round(this.#side / 6));
  }

  get share() {
    return Math.sqrt(this.radius / this.#maxRadius);
  }

  set share(share) {
    this.setRadius(this.#maxRadius * share ** 2);
  }

  setRadius(radius) {
    this.#chosen = true;
    this.radius = Math.min(this.#maxRadius, Math.max(0, Math.round(radius)));
  }

  stepRadius(sign) {
    this.setRadius(this.radius + sign * Math.max(1, Math.round(this.radius / 6)));
  }

  setSpread(spread) {
    this.spread = rounded(spread);
  }
}

/** A spread one step further (sign 1) or nearer (-1). */
export const stepped = (spread, sign) => rounded(spread + sign * SPREAD_STEP);
