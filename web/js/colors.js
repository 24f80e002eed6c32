// The current colour: picker, hex text, recent colours; and the reference picture to pick colours from.

import { button, copyOf, make } from "./dom.js";
import { isColor } from "./model.js";
import { t } from "./texts.js";

const STORE = "SeAda.recentColors";
// skin, hair and wood, brick, foliage, sky, denim, sand, grey
const FIRST = ["#d9a282", "#7a5238", "#a8503c", "#5f8f4f", "#6f9fd8", "#3d5a8c", "#d8c08c", "#808080"];
const RECENT = 16; // kept; as many are shown as fit
const REFERENCE_SIDE = 1024; // longest side of the kept copy, px

const hex = (r, g, b) => `#${[r, g, b].map((n) => n.toString(16).padStart(2, "0")).join("")}`;

/** Any CSS colour without transparency as "#rrggbb"; null for anything else. */
function codeOf(text) {
  if (!CSS.supports("color", text)) return null;
  const context = document.createElement("canvas").getContext("2d");
  context.fillStyle = text;
  return isColor(context.fillStyle) ? context.fillStyle : null;
}

/** The mean colour of the 3 x 3 pixels around (x, y) of a canvas. */
export function colorAt(canvas, x, y) {
  const [left, top] = [Math.max(0, Math.floor(x) - 1), Math.max(0, Math.floor(y) - 1)];
  const width = Math.max(1, Math.min(3, canvas.width - left));
  const height = Math.max(1, Math.min(3, canvas.height - top));
  const { data } = canvas.getContext("2d", { willReadFrequently: true }).getImageData(left, top, width, height);
  const mean = (k) => {
    let sum = 0;
    for (let i = k; i < data.length; i += 4) sum += data[i];
    return Math.round(sum / (data.length / 4));
  };
  return hex(mean(0), mean(1), mean(2));
}

function stored() {
  try {
    const colors = JSON.parse(localStorage.getItem(STORE));
    if (Array.isArray(colors)) return colors.filter(isColor).slice(0, RECENT);
  } catch {
    // no storage, or not our data
  }
  return [];
}

export class Colors {
  #recent = [...new Set([...stored(), ...FIRST])].slice(0, RECENT);
  #onChoose;
  #swatches = make("div", { className: "seada-recent", attributes: { role: "group", "aria-label": t("Recent colours") } });
  #picker = make("input", { type: "color", title: t("Colour (C)"), attributes: { "aria-label": t("Colour") } });
  #text = make("input", {
    type: "text",
    className: "seada-hex",
    spellcheck: false,
    title: t("Colour: #rrggbb, or a name such as teal"),
    attributes: { "aria-label": t("Colour as #rrggbb or by name") },
  });

  /** onChoose(color) is called for each new colour. */
  constructor(onChoose) {
    this.#onChoose = onChoose;
    this.color = this.#recent[0];
    this.#picker.oninput = () => this.set(this.#picker.value);
    this.#text.oninput = () => {
      const color = codeOf(this.#text.value.trim());
      this.#text.classList.toggle("seada-bad", color === null);
      if (color) this.set(color);
    };
    this.#text.onblur = () => this.#show();
    this.element = make("div", { className: "seada-colors" }, this.#picker, this.#text, this.#swatches);
    this.#show();
  }

  set(color) {
    if (!isColor(color)) return;
    this.color = color.toLowerCase();
    this.#show();
    this.#onChoose(this.color);
  }

  open() {
    this.#picker.focus();
    this.#picker.showPicker?.();
  }

  /** Called when the colour is used: it becomes the newest recent colour, unless it is one already. */
  used(color = this.color) {
    if (!isColor(color) || this.#recent.includes(color)) return;
    this.#recent = [color, ...this.#recent].slice(0, RECENT);
    try {
      localStorage.setItem(STORE, JSON.stringify(this.#recent));
    } catch {
      // a private window: recent colours last as long as the page
    }
    this.#show();
  }

  #show() {
    this.#picker.value = this.color;
    if (document.activeElement !== this.#text || isColor(this.#text.value)) {
      this.#text.value = this.color;
      this.#text.classList.remove("seada-bad");
    }
    this.#swatches.replaceChildren(
      ...this.#recent.map((color) => {
        const swatch = make("button", {
          type: "button",
          title: color,
          onclick: () => this.set(color),
          attributes: { "aria-label": t("Colour {color}", { color }), "aria-pressed": String(color === this.color) },
        });
        swatch.style.backgroundColor = color; // checked by isColor
        return swatch;
      }),
    );
  }
}

/** A small pane with a picture of the user's, kept only in the page; a click picks its colour. */
export class Reference {
  #canvas = make("canvas", { title: t("Click to take a colour") });
  #chip = make("span", { className: "seada-chip" });

  /** onPick(color, done): done is false while the pointer is held. */
  constructor(onPick) {
    const pick = (event, done) => {
      event.stopPropagation();
      const color = this.#at(event);
      this.#chip.style.backgroundColor = color;
      if (event.buttons || done) onPick(color, done);
    };
    this.#canvas.onpointerdown = (event) => pick(event, false);
    this.#canvas.onpointermove = (event) => pick(event, false);
    this.#canvas.onpointerup = (event) => pick(event, true);
    const close = button("close", t("Close the reference picture"), () => this.close());
    this.element = make(
      "div",
      { className: "seada-reference", hidden: true },
      make("div", { className: "seada-reference-bar" }, this.#chip, make("span", {}, t("Reference")), close),
      this.#canvas,
    );
  }

  /** Shows a picture file. Rejects with a readable Error if it is not a picture. */
  async open(file) {
    let bitmap;
    try {
      bitmap = await createImageBitmap(file);
    } catch {
      throw new Error(t("the reference is not a picture that this browser reads"));
    }
    copyOf(bitmap, REFERENCE_SIDE, this.#canvas);
    this.element.hidden = false;
  }

  close() {
    this.element.hidden = true;
  }

  #at(event) {
    const box = this.#canvas.getBoundingClientRect();
    const along = (at, start, length, size) => Math.min(size - 1, Math.max(0, ((at - start) / length) * size));
    const x = along(event.clientX, box.left, box.width, this.#canvas.width);
    const y = along(event.clientY, box.top, box.height, this.#canvas.height);
    return colorAt(this.#canvas, x, y);
  }
}
