// The live preview: sends hints and a small grey picture to the server, and gets the small picture back in colour.

import { copyOf } from "./dom.js";

const LONG_SIDE = 256; // px, the server's maximum
const RETRY_MS = 150; // after another request has taken precedence

/** Sends one request at a time; changes made meanwhile are sent once, in their newest state, after the answer. */
export class Preview {
  #fetch;
  #onResult;
  #name = crypto.getRandomValues(new Uint32Array(4)).join("-");
  #photo = null;
  #wanted = null;
  #busy = false;
  #stopped = false;
  #generation = 0; // answers for an earlier photo are dropped

  /** fetchApi(path, options) sends a request; onResult(canvas or null, message or null) is called with the result. */
  constructor(fetchApi, onResult) {
    this.#fetch = fetchApi;
    this.#onResult = onResult;
  }

  /** The grey photo as a canvas, and its own size in pixels; null if there is none. */
  setPhoto(grey, width, height) {
    this.#generation++;
    this.#wanted = null;
    this.#photo = null;
    this.#onResult(null, null);
    if (!grey) return;
    this.#photo = { picture: copyOf(grey, LONG_SIDE).toDataURL("image/png").split(",")[1], size: [width, height] };
  }

  update(hints) {
    if (!this.#photo) return;
    if (!hints.length) {
      this.#generation++;
      this.#wanted = null;
      this.#onResult(null, null);
      return;
    }
    this.#wanted = hints;
    if (!this.#busy) this.#run();
  }

  stop() {
    this.#stopped = true;
    this.#wanted = null;
  }

  async #run() {
    this.#busy = true;
    while (this.#wanted && !this.#stopped) {
      const hints = this.#wanted;
      const generation = this.#generation;
      this.#wanted = null;
      let result;
      try {
        result = await this.#ask(hints);
      } catch {
        result = [null, "no preview: the server does not answer"];
      }
      if (generation !== this.#generation || this.#stopped) continue;
      if (result) this.#onResult(...result);
      else {
        this.#wanted ??= hints;
        await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
        if (generation !== this.#generation) this.#wanted = null;
      }
    }
    this.#busy = false;
  }

  /** [canvas, null], [null, message], or null to ask again. */
  async #ask(hints) {
    const answer = await this.#fetch("/seada/propagate", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ painter: this.#name, hints, ...this.#photo }),
    });
    if (answer.status === 409) return null;
    if (!answer.ok) {
      const { error } = await answer.json().catch(() => ({}));
      return [null, `no preview: ${typeof error === "string" ? error.slice(0, 300) : `status ${answer.status}`}`];
    }
    return [copyOf(await createImageBitmap(await answer.blob())), null];
  }
}
