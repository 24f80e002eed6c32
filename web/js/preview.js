// What the server says of the hints: the photo in their colours, and the region that one more would take.

import { copyOf } from "./dom.js";
import { Region } from "./region.js";
import { t } from "./texts.js";

const LONG_SIDE = 256; // px, the server's maximum
const RETRY_MS = 150; // after another request has taken precedence
const REST_MS = 50; // for which the pointer rests before a region is asked for
const NEAR = 6; // display pixels that the pointer moves before the region of its last place disappears

/** Sends one request at a time; what is wanted meanwhile is sent once, in its newest state, after the answer. Answers to
 * what is no longer wanted are dropped. */
class Requests {
  #fetch;
  #onResult;
  #name = crypto.getRandomValues(new Uint32Array(4)).join("-");
  #photo = null;
  #wanted = null;
  #busy = false;
  #stopped = false;
  #generation = 0;

  /** fetchApi(path, options) sends a request; onResult(canvas or null, message or null) is called with the result. */
  constructor(fetchApi, onResult) {
    this.#fetch = fetchApi;
    this.#onResult = onResult;
  }

  /** photo: {picture, size} as the server wants them; null if there is none. */
  setPhoto(photo) {
    this.#photo = photo;
    this.drop();
  }

  /** Nothing is wanted any more. */
  drop() {
    this.#generation++;
    this.#wanted = null;
    this.#onResult(null, null);
  }

  /** wanted: {hints} or {hints, next}. */
  want(wanted) {
    if (!this.#photo) return;
    this.#wanted = wanted;
    if (!this.#busy) this.#run();
  }

  stop() {
    this.#stopped = true;
    this.#wanted = null;
  }

  async #run() {
    this.#busy = true;
    while (this.#wanted && !this.#stopped) {
      const wanted = this.#wanted;
      const generation = this.#generation;
      this.#wanted = null;
      let result;
      try {
        result = await this.#ask(wanted);
      } catch {
        result = [null, t("no preview: the server does not answer")];
      }
      if (generation !== this.#generation || this.#stopped) continue;
      if (result) this.#onResult(...result);
      else {
        this.#wanted ??= wanted;
        await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
        if (generation !== this.#generation) this.#wanted = null;
      }
    }
    this.#busy = false;
  }

  /** [canvas, null], [null, message], or null to ask again. */
  async #ask(wanted) {
    const answer = await this.#fetch("/seada/propagate", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ painter: this.#name, ...wanted, ...this.#photo }),
    });
    if (answer.status === 409) return null;
    if (!answer.ok) {
      const { error } = await answer.json().catch(() => ({}));
      const reason = typeof error === "string" ? error.slice(0, 300) : `status ${answer.status}`;
      return [null, t("no preview: {reason}", { reason })];
    }
    return [copyOf(await createImageBitmap(await answer.blob())), null];
  }
}

export class Preview {
  #colors;
  #regions;
  #next = null; // the hint whose region is shown or asked for
  #asked = [0, 0]; // the display pixel where it was asked for
  #rest = 0;

  /** fetchApi(path, options) sends a request. onShow({picture, message, region}) is called when any of these changes: the
   * photo in the hints' colours, or why there is none, and the Region of `hover`; each may be null. */
  constructor(fetchApi, onShow) {
    const shown = { picture: null, message: null, region: null };
    const show = (changes) => onShow(Object.assign(shown, changes));
    this.#colors = new Requests(fetchApi, (picture, message) => show({ picture, message }));
    this.#regions = new Requests(fetchApi, (picture) => show({ region: picture && new Region(picture) }));
  }

  /** The grey photo as a canvas, and its own size in pixels; null if there is none. */
  setPhoto(grey, width, height) {
    const photo = grey && { picture: copyOf(grey, LONG_SIDE).toDataURL("image/png").split(",")[1], size: [width, height] };
    this.leave();
    for (const requests of [this.#colors, this.#regions]) requests.setPhoto(photo);
  }

  update(hints) {
    this.leave();
    if (hints.length) this.#colors.want({ hints });
    else this.#colors.drop();
  }

  /** Shows the region of a hint that could come next, for the pointer at a display pixel [x, y]. */
  hover(hints, next, place) {
    const key = JSON.stringify(next);
    if (key === this.#next) return;
    if (Math.hypot(place[0] - this.#asked[0], place[1] - this.#asked[1]) > NEAR) {
      this.leave();
      this.#asked = place;
    }
    this.#next = key;
    clearTimeout(this.#rest);
    this.#rest = setTimeout(() => this.#regions.want({ hints, next }), REST_MS);
  }

  /** Shows no region. */
  leave() {
    clearTimeout(this.#rest);
    if (this.#next === null) return;
    this.#next = null;
    this.#regions.drop();
  }

  stop() {
    clearTimeout(this.#rest);
    this.#colors.stop();
    this.#regions.stop();
  }
}
