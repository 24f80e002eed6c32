// The painter's toolbar, menu and status line.

import { button, make } from "./dom.js";
import { chooseFile, copy, download, take } from "./files.js";
import { t } from "./texts.js";

const TOOLS = {
  paint: ["brush", "Paint (B)"],
  lock: ["lock", "Keep a place as it is (L)"],
  erase: ["eraser", "Erase (E)"],
  pick: ["picker", "Pick a colour (I)"],
};
const SPREADS = 10; // steps of the slider on either side

/** {message, bad} of the status line: errors take precedence over messages, and messages over the number of hints. */
export function statusOf({ locked, error, message, source, preview, hints, photo }) {
  const count = hints.length === 1 ? t("1 hint") : t("{count} hints", { count: hints.length });
  if (locked !== null) return { message: locked, bad: false };
  if (error !== null) return { message: t("The hints cannot be read ({error}). The text is kept.", { error }), bad: true };
  if (message !== null) return { message, bad: false };
  if (photo && source) return { message: source, bad: false };
  if (preview) return { message: `${count}; ${preview}`, bad: true };
  if (!photo || hints.length) return { message: count, bad: false };
  return { message: t("Click to place a colour, drag to paint, right-click to remove"), bad: false };
}

/** The toolbar of `painter`; `show()` updates it. */
export class Panel {
  #painter;
  #tools = {};
  #radius = make("input", {
    type: "range",
    min: 0,
    max: 100,
    title: t("Radius ([ and ])"),
    attributes: { "aria-label": t("Radius in pixels of the photo") },
  });
  #size = make("output", { className: "seada-size" });
  #spread = make("input", {
    type: "range",
    min: -SPREADS,
    max: SPREADS,
    title: t("How far colours spread (, and . or Shift and the wheel; over a hint: how far that one does)"),
    attributes: { "aria-label": t("How far colours spread") },
  });
  #reach = make("output", { className: "seada-size" });
  #message = make("span", { className: "seada-message", attributes: { role: "status", "aria-live": "polite" } });
  #place = make("span", { className: "seada-place" });
  #repair = make("button", { type: "button", className: "seada-text-button", hidden: true }, t("Start over"));
  #ask = make("button", { type: "button", className: "seada-text-button", hidden: true });
  #menu;

  constructor(painter) {
    this.#painter = painter;
    // after a click on the toolbar, the picture keeps the keyboard focus
    const act = (action) => () => {
      action();
      painter.focus();
    };
    for (const [tool, [icon, title]] of Object.entries(TOOLS)) {
      this.#tools[tool] = button(icon, t(title), act(() => painter.setTool(tool)));
    }
    this.#radius.oninput = () => painter.setShare(Number(this.#radius.value) / 100);
    this.#spread.oninput = () => painter.setSpread(Number(this.#spread.value) / SPREADS);
    this.#radius.onchange = this.#spread.onchange = () => painter.focus();
    this.undo = button("undo", t("Undo (Ctrl+Z)"), act(() => painter.undo()));
    this.redo = button("redo", t("Redo (Ctrl+Shift+Z)"), act(() => painter.redo()));
    this.preview = button("eye", t("Preview of the colours (P)"), act(() => painter.toggle("showPreview")));
    this.hints = button("dots", t("Show hints (H)"), act(() => painter.toggle("showHints")));
    const fit = button("fit", t("Whole photo (0)"), act(() => painter.fit()));
    const clear = button("trash", t("Remove all hints"), act(() => painter.clear()));
    this.#repair.onclick = act(() => painter.clear());
    this.#ask.onclick = act(() => painter.askPhoto());
    this.#menu = this.#makeMenu();
    const group = (...items) => make("div", { className: "seada-group" }, ...items);
    this.top = make(
      "div",
      { className: "seada-bar" },
      painter.colors.element,
      make("div", { className: "seada-radius" }, this.#radius, this.#size),
    );
    this.middle = make(
      "div",
      { className: "seada-bar" },
      group(...Object.values(this.#tools)),
      group(this.undo, this.redo, clear),
      group(this.preview, this.hints, fit),
      make("div", { className: "seada-radius seada-spread" }, this.#spread, this.#reach),
      this.#menu,
    );
    this.bottom = make("div", { className: "seada-status" }, this.#message, this.#repair, this.#ask, this.#place);
  }

  #makeMenu() {
    const painter = this.#painter;
    const entries = {
      "Reference picture…": async () => take(painter, await chooseFile("image/*")),
      "Copy hints": async () => {
        await copy(painter.text);
        painter.say(t("hints copied"));
      },
      "Paste hints": async () => {
        if (!navigator.clipboard?.readText) throw new Error(t("press Ctrl+V on the photo to paste here"));
        painter.importText(await navigator.clipboard.readText());
      },
      "Save hints as a file": () => download(painter.text),
      "Open a hints file…": async () => take(painter, await chooseFile(".json,application/json")),
      "Show or hide the JSON text": () => painter.toggleText(),
    };
    const list = make("div", { className: "seada-menu", hidden: true, attributes: { role: "menu" } });
    const opener = button("more", t("More"), () => setOpen(list.hidden));
    const setOpen = (open) => {
      list.hidden = !open;
      opener.setAttribute("aria-expanded", String(open));
      if (open) list.firstChild.focus();
      else painter.focus();
    };
    opener.setAttribute("aria-haspopup", "menu");
    for (const [name, action] of Object.entries(entries)) {
      const run = async () => {
        setOpen(false);
        try {
          await action();
        } catch (error) {
          painter.say(error.message);
        }
      };
      list.append(make("button", { type: "button", onclick: run, attributes: { role: "menuitem" } }, t(name)));
    }
    list.addEventListener("keydown", (event) => {
      const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
      const items = [...list.children];
      if (step) items.at((items.indexOf(document.activeElement) + step) % items.length).focus();
      else if (event.key === "Escape") setOpen(false);
      else return;
      event.preventDefault();
    });
    const wrapper = make("div", { className: "seada-group seada-menu-place" }, opener, list);
    wrapper.addEventListener("focusout", (event) => {
      if (!wrapper.contains(event.relatedTarget)) list.hidden = true;
    });
    return wrapper;
  }

  /** state: {tool, radius, share, spread, canUndo, canRedo, showHints, showPreview, message, bad, broken, ask, place}. */
  show(state) {
    for (const [tool, element] of Object.entries(this.#tools)) {
      element.setAttribute("aria-pressed", String(tool === state.tool));
    }
    this.preview.setAttribute("aria-pressed", String(state.showPreview));
    this.hints.setAttribute("aria-pressed", String(state.showHints));
    this.undo.disabled = !state.canUndo;
    this.redo.disabled = !state.canRedo;
    this.#radius.value = String(Math.round(100 * state.share));
    this.#size.value = `${state.radius} px`;
    this.#spread.value = String(Math.round(SPREADS * state.spread));
    this.#reach.value = `${state.spread > 0 ? "+" : ""}${state.spread.toFixed(1)}`;
    this.#message.textContent = state.message;
    this.#message.title = state.message;
    this.#message.classList.toggle("seada-bad", state.bad);
    this.#repair.hidden = !state.broken;
    this.#ask.hidden = state.ask === null;
    this.#ask.textContent = state.ask ?? "";
    this.#place.textContent = state.place;
  }
}
