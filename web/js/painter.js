// The hint painter: connects gestures, keys and buttons to the hints and the display.

import { Brush, stepped } from "./brush.js";
import { Colors, Reference, colorAt } from "./colors.js";
import { make } from "./dom.js";
import { listen as listenToFiles } from "./files.js";
import { listen as listenToInput } from "./input.js";
import { MAX_STROKE_POINTS, Model } from "./model.js";
import { Panel, statusOf } from "./panel.js";
import { Preview } from "./preview.js";
import { t } from "./texts.js";
import { View, greyOf } from "./view.js";

const MESSAGE_MS = 4000;

export class Painter {
  view = new View();
  brush = new Brush();
  draft = null; // the hint being drawn
  #pointer = null; // display pixels
  #cursor = null; // of the keyboard, px of the photo
  #shows = { showHints: true, showPreview: true };
  #locked = null; // the reason why painting is disabled
  #message = null;
  #previewMessage = null;
  #source = { message: null, action: null }; // why there is no photo, or not the newest, and what can be done
  #frame = 0;

  /** commit(text) stores the hints, fetchApi sends requests to the server, toggleText shows or hides the raw text,
   * askPhoto() does what `setSource` named. */
  constructor(text, { commit, fetchApi, toggleText, askPhoto }) {
    Object.assign(this, { toggleText, askPhoto });
    this.model = new Model(text, () => {
      commit(this.model.text);
      this.#changed();
    });
    this.colors = new Colors(() => this.draw());
    this.reference = new Reference((color, done) => this.#picked(color, done));
    this.serverPreview = new Preview(fetchApi, (shown) => {
      Object.assign(this.view, { preview: shown.picture, region: shown.region });
      this.#previewMessage = shown.message;
      this.draw();
    });
    this.panel = new Panel(this);
    const { canvas } = this.view;
    Object.assign(canvas, {
      className: "seada-photo",
      tabIndex: 0,
      // ComfyUI ignores keys in text fields, including Ctrl+Z: this canvas has its own undo
      type: "textarea", // by which frontends up to 1.49 know a text field
    });
    Object.defineProperty(canvas, "isContentEditable", { value: true }); // by which later ones do
    canvas.dataset.captureWheel = "true"; // ComfyUI's Vue nodes do not handle the wheel over such an element in focus
    canvas.setAttribute("role", "application");
    canvas.setAttribute("aria-label", t("Hint painter: arrow keys move, Enter places a colour, Delete removes one"));
    this.empty = make("div", { className: "seada-empty" });
    const stage = make("div", { className: "seada-stage" }, canvas, this.empty, this.reference.element);
    this.element = make("div", { className: "seada-painter" }, this.panel.top, this.panel.middle, stage, this.panel.bottom);
    for (const type of ["pointerdown", "wheel", "dblclick"]) {
      this.element.addEventListener(type, (event) => event.stopPropagation(), { passive: true });
    }
    listenToInput(this);
    listenToFiles(this);
    new ResizeObserver(() => this.draw()).observe(stage);
    this.draw();
  }

  get text() {
    return this.model.text;
  }

  /** Loads the node's text, which something else may have changed. */
  load(text, fresh = false) {
    if (text === this.text) return;
    this.draft = null;
    this.model.load(text, fresh);
    this.#changed();
  }

  /** Empties the undo history. */
  forget() {
    this.model.forget();
    this.draw();
  }

  lock(reason) {
    if (this.#locked === reason) return;
    this.#locked = reason;
    this.draft = null;
    this.draw();
  }

  /** photo: {image, width, height}, the size being the photo's own; null if none is known. */
  setPhoto(photo) {
    const grey = photo && greyOf(photo.image);
    this.view.setPhoto(photo && { grey, width: photo.width, height: photo.height });
    this.serverPreview.setPhoto(grey, photo?.width, photo?.height);
    this.brush.setPhoto(photo);
    this.setCursor(null);
    this.#changed();
  }

  /** message: why there is no photo, or not the newest one; null if all is well. action: what `askPhoto` does, or null. */
  setSource({ message, action }) {
    this.#source = { message, action };
    const ask = () => make("button", { type: "button", className: "seada-text-button", onclick: () => this.askPhoto() }, action);
    this.empty.replaceChildren(make("span", {}, message ?? ""), ...(action ? [ask()] : []));
    this.draw();
  }

  stop() {
    this.serverPreview.stop();
    clearTimeout(this.#message?.timer);
  }

  focus() {
    this.view.canvas.focus({ preventScroll: true });
  }

  /** Shows a message for a few seconds. */
  say(message) {
    clearTimeout(this.#message?.timer);
    const timer = setTimeout(() => {
      this.#message = null;
      this.draw();
    }, MESSAGE_MS);
    this.#message = { message, timer };
    this.draw();
  }

  // --- hints ---------------------------------------------------------------------------------------------------------

  get #canPaint() {
    return this.view.photo !== null && this.model.error === null && this.#locked === null;
  }

  #changed() {
    this.serverPreview.update(this.draft ? [...this.model.hints, this.draft] : this.model.hints);
    this.#hover();
    this.draw();
  }

  #pixel(x, y) {
    const [px, py] = this.view.toPhoto(x, y);
    return [Math.floor(px), Math.floor(py)];
  }

  /** Whether a hint can begin at the display pixel (x, y). */
  startDraft(x, y) {
    const [px, py] = this.#pixel(x, y);
    if (!this.#canPaint || !this.view.isInside(px, py)) return false;
    this.draft = { x: px, y: py, ...this.brush.look(this.colors.color) };
    this.#changed();
    return true;
  }

  /** Turns the draft into a stroke and extends it to the display pixel (x, y). */
  extendDraft(x, y) {
    if (!this.draft) return;
    const [px, py] = this.#pixel(x, y);
    const { x: startX, y: startY, points = [[startX, startY]], ...look } = this.draft;
    const [lastX, lastY] = points.at(-1);
    const apart = Math.max(1, look.radius / 3, 1.5 / this.view.scale);
    if (Math.hypot(px - lastX, py - lastY) < apart || points.length >= MAX_STROKE_POINTS) return;
    this.draft = { points: [...points, [px, py]], ...look };
    this.#changed();
  }

  finishDraft() {
    const { draft } = this;
    this.draft = null;
    if (draft) this.#add(draft);
  }

  cancelDraft() {
    if (!this.draft) return;
    this.draft = null;
    this.#changed();
  }

  #add(hint) {
    if (this.model.add(hint)) this.colors.used(hint.color);
    else this.say(t("no more hints fit into one list"));
  }

  /** Removes the topmost hint at the display pixel (x, y). */
  eraseAt(x, y) {
    if (!this.#canPaint) return;
    const index = this.view.hit(this.model.hints, x, y);
    if (index >= 0) this.model.remove(index);
  }

  clear() {
    if (this.#locked === null) this.model.clear();
  }

  undo() {
    if (this.#locked !== null) return;
    if (this.model.canUndo) this.model.undo();
    else this.say(t("nothing to undo here; click the graph to undo there"));
  }

  redo() {
    if (this.#locked === null) this.model.redo();
  }

  importText(text) {
    if (this.#locked !== null) return this.say(this.#locked);
    try {
      this.model.replace(text);
      this.say(t("{count} hints loaded", { count: this.model.hints.length }));
    } catch (error) {
      this.say(t("not valid hints: {reason}", { reason: error.message }));
    }
  }

  // --- colours -------------------------------------------------------------------------------------------------------

  #picked(color, done) {
    this.colors.set(color);
    if (done) this.colors.used(color);
  }

  /** The colour of the hint at the display pixel (x, y), else the previewed one. */
  pickAt(x, y) {
    const { view } = this;
    const index = view.hit(this.model.hints, x, y);
    const [px, py] = view.toPhoto(x, y);
    if (index >= 0) this.colors.set(this.model.hints[index].color);
    else if (view.preview && view.isInside(px, py)) {
      const scale = view.preview.width / view.photo.width;
      this.colors.set(colorAt(view.preview, px * scale, py * scale));
    }
  }

  finishPick() {
    this.colors.used();
    this.setTool("paint");
  }

  chooseColor() {
    this.colors.open();
  }

  async openReference(file) {
    await this.reference.open(file);
    this.say(t("click the reference picture to take a colour"));
  }

  // --- tools and view ------------------------------------------------------------------------------------------------

  get tool() {
    return this.brush.tool;
  }

  setTool(tool) {
    this.#rebrush(() => (this.brush.tool = tool));
  }

  setShare(share) {
    this.#rebrush(() => (this.brush.share = share));
  }

  stepRadius(sign) {
    this.#rebrush(() => this.brush.stepRadius(sign));
  }

  setSpread(spread) {
    this.#rebrush(() => this.brush.setSpread(spread));
  }

  /** Makes the hint under the pointer reach one step further (sign 1) or less far (-1), or else those to come. */
  stepSpread(sign) {
    const index = this.#pointer ? this.view.hit(this.model.hints, ...this.#pointer) : -1;
    if (index < 0) this.setSpread(stepped(this.brush.spread, sign));
    else if (this.#canPaint) this.model.change(index, { spread: stepped(this.model.hints[index].spread ?? 0, sign) });
  }

  #rebrush(change) {
    change();
    this.#hover();
    this.draw();
  }

  toggle(name) {
    this.#shows[name] = !this.#shows[name];
    this.draw();
  }

  fit() {
    this.view.fit();
    this.draw();
  }

  zoom(factor) {
    const center = this.#cursor ? this.view.toDisplay(...this.#cursor) : [];
    this.view.zoom(factor, ...center);
    this.draw();
  }

  // --- pointer and cursor --------------------------------------------------------------------------------------------

  setPointer(place) {
    this.#pointer = place;
    this.#hover();
    this.draw();
  }

  setCursor(place) {
    this.#cursor = place;
    this.#hover();
    this.draw();
  }

  /** Asks for the region of the hint under the pointer, or of the one that a click would place there. */
  #hover() {
    const { brush, view } = this;
    const place = this.#cursor ? view.toDisplay(...this.#cursor) : this.#pointer;
    const at = place && view.photo ? this.#pixel(...place) : null;
    const { hints } = this.model;
    const index = at ? view.hit(hints, ...place) : -1;
    const shows = at && !this.draft && this.#canPaint && this.#shows.showPreview && view.isInside(...at);
    if (!shows || (index < 0 ? !brush.paints : brush.tool === "pick")) return this.serverPreview.leave();
    const next = hints[index] ?? { x: at[0], y: at[1], ...brush.look(this.colors.color) };
    this.serverPreview.hover(hints.filter((one) => one !== next), next, place);
  }

  moveCursor(dx, dy) {
    const { photo } = this.view;
    if (!photo) return;
    const [x, y] = this.#cursor ?? [Math.floor(photo.width / 2), Math.floor(photo.height / 2)];
    const within = (value, size) => Math.min(size - 1, Math.max(0, value));
    this.#pointer = null;
    this.setCursor(this.#cursor ? [within(x + dx, photo.width), within(y + dy, photo.height)] : [x, y]);
    this.view.reveal(...this.#cursor);
  }

  placeAtCursor() {
    if (!this.#cursor || !this.#canPaint) return;
    const [x, y] = this.#cursor;
    this.#add({ x, y, ...this.brush.look(this.colors.color) });
  }

  removeAtCursor() {
    const place = this.#cursor ? this.view.toDisplay(...this.#cursor) : this.#pointer;
    if (place) this.eraseAt(...place);
  }

  // --- display -------------------------------------------------------------------------------------------------------

  /** Schedules one redraw before the next frame, however often it is called. */
  draw() {
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      this.#drawNow();
    });
  }

  #drawNow() {
    const { brush, view, model } = this;
    const at = this.#pointer && view.photo ? this.#pixel(...this.#pointer) : this.#cursor;
    const inside = at && view.isInside(...at);
    view.draw({
      ...this.#shows,
      hints: model.hints,
      draft: this.draft,
      hover: this.#pointer && !this.draft ? view.hit(model.hints, ...this.#pointer) : -1,
      brush: inside && this.#canPaint ? this.#pointer : null,
      cursor: this.#cursor,
      look: brush.look(this.colors.color),
      tool: brush.tool,
    });
    this.empty.hidden = view.photo !== null;
    view.canvas.dataset.tool = this.tool;
    this.panel?.show({
      ...this.#shows,
      ...statusOf({
        locked: this.#locked,
        error: model.error,
        message: this.#message?.message ?? null,
        source: this.#source.message,
        preview: this.#previewMessage,
        hints: model.hints,
        photo: view.photo,
      }),
      tool: brush.tool,
      radius: brush.radius,
      share: brush.share,
      spread: brush.spread,
      canUndo: model.canUndo && this.#locked === null,
      canRedo: model.canRedo && this.#locked === null,
      broken: model.error !== null && this.#locked === null,
      ask: view.photo ? this.#source.action : null,
      place: inside ? `${at[0]}, ${at[1]}` : view.photo ? `${view.photo.width} × ${view.photo.height}` : "",
    });
  }
}
