// Hints as data: strict parsing of the node's text, editing, undo. Parses as parse_hints in seada_core/files/hint_format.py does.

const MAX_HINTS = 10_000;
export const MAX_STROKE_POINTS = 10_000;
const MAX_POINTS = 100_000; // of all hints
const MAX_COORDINATE = 1_000_000; // of a stroke's points
const MAX_UNDO = 200;

/** In place of a hint's colour: the place keeps what the model gives it. */
export const KEEP = "keep";
export const MAX_SPREAD = 1;

/** Whether `text` is "#rrggbb": checked before any text is used as a CSS colour. */
export const isColor = (text) => typeof text === "string" && /^#[0-9a-fA-F]{6}$/.test(text);

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
const isPlace = (value) => isNumber(value) && Math.abs(value) <= MAX_COORDINATE;
const brief = (value) => (JSON.stringify(value) ?? "nothing").slice(0, 40);

/** One entry with only the known fields. Throws an Error that says what is wrong. */
function readEntry(entry) {
  if (entry === null || typeof entry !== "object" || Array.isArray(entry)) {
    throw new Error(`expected {"x": .., "y": .., "color": "#rrggbb"}, got ${brief(entry)}`);
  }
  const stroke = Object.hasOwn(entry, "points");
  const fields = [...(stroke ? ["points"] : ["x", "y"]), "color"];
  for (const name of fields) {
    if (!Object.hasOwn(entry, name)) throw new Error(`no ${name}`);
  }
  for (const name of Object.keys(entry)) {
    if (name !== "radius" && name !== "spread" && !fields.includes(name)) throw new Error(`unknown field ${brief(name)}`);
  }
  const { color } = entry;
  if (!isColor(color) && color !== KEEP) throw new Error(`bad colour ${brief(color)}, expected #rrggbb`);
  const radius = Object.hasOwn(entry, "radius") ? entry.radius : 0;
  if (!isNumber(radius) || radius < 0) throw new Error(`bad radius ${brief(radius)}`);
  const spread = Object.hasOwn(entry, "spread") ? entry.spread : 0;
  if (!isNumber(spread) || Math.abs(spread) > MAX_SPREAD) throw new Error(`bad spread ${brief(spread)}, expected -1 to 1`);
  const look = { color, radius, ...(spread ? { spread } : {}) }; // 0 is not written: older versions do not know it
  if (!stroke) {
    if (!isNumber(entry.x) || !isNumber(entry.y)) throw new Error(`bad place ${brief([entry.x, entry.y])}`);
    return Object.freeze({ x: entry.x, y: entry.y, ...look });
  }
  const { points } = entry;
  if (!Array.isArray(points) || points.length === 0 || points.length > MAX_STROKE_POINTS) {
    throw new Error(`expected a list of 1 to ${MAX_STROKE_POINTS} points`);
  }
  const bad = points.find((point) => !Array.isArray(point) || point.length !== 2 || !point.every(isPlace));
  if (bad !== undefined) throw new Error(`bad point ${brief(bad)}, expected [x, y]`);
  return Object.freeze({ points: points.map(([x, y]) => [x, y]), ...look });
}

/** The hints of a JSON text: a list, or {"hints": list}; empty text is an empty list. Throws a readable Error. */
export function parse(text) {
  if (typeof text !== "string") throw new Error("expected text");
  if (text.trim() === "") return [];
  let data;
  try {
    data = JSON.parse(text);
  } catch {
    throw new Error("this is not JSON");
  }
  if (data !== null && typeof data === "object" && Object.hasOwn(data, "hints")) data = data.hints;
  if (!Array.isArray(data)) throw new Error("expected a list of hints");
  if (data.length > MAX_HINTS) throw new Error(`${data.length} hints, expected at most ${MAX_HINTS}`);
  let points = 0;
  return data.map((entry, i) => {
    try {
      const hint = readEntry(entry);
      points += hint.points?.length ?? 1;
      if (points > MAX_POINTS) throw new Error(`more than ${MAX_POINTS} points in all`);
      return hint;
    } catch (error) {
      throw new Error(`hint ${i + 1}: ${error.message}`);
    }
  });
}

/** The hints with their undo history. If the text cannot be read, `error` says why and the text is kept. */
export class Model {
  #past = [];
  #future = [];
  #state;
  #changing = null; // the state that `change` made last

  /** onChange() is called after each change by the user, not after `load`. */
  constructor(text, onChange) {
    this.onChange = onChange;
    this.load(text, true);
  }

  get text() {
    return this.#state.text;
  }

  get hints() {
    return this.#state.hints;
  }

  get error() {
    return this.#state.error;
  }

  get canUndo() {
    return this.#past.length > 0;
  }

  get canRedo() {
    return this.#future.length > 0;
  }

  /** Loads a text from outside. If the history has it, as after ComfyUI's own undo, that is where the history then
   * stands; otherwise undo restores the state before, or the history is forgotten if the text is `fresh`. */
  load(text, fresh = false) {
    if (this.#state?.text === text) return;
    for (const [from, to] of [[this.#past, this.#future], [this.#future, this.#past]]) {
      const index = from.findLastIndex((state) => state.text === text);
      if (index < 0) continue;
      const [state, ...skipped] = from.splice(index);
      to.push(this.#state, ...skipped.reverse());
      this.#state = state;
      return;
    }
    const before = this.#state;
    try {
      this.#state = { text, hints: parse(text), error: null };
    } catch (error) {
      this.#state = { text, hints: [], error: error.message };
    }
    if (fresh) this.forget();
    else this.#remember(before);
  }

  /** Empties the history. */
  forget() {
    [this.#past, this.#future] = [[], []];
  }

  #remember(state) {
    this.#past.push(state);
    if (this.#past.length > MAX_UNDO) this.#past.shift();
    this.#future = [];
  }

  #set(hints) {
    this.#remember(this.#state);
    this.#state = { text: JSON.stringify(hints), hints, error: null };
    this.onChange();
  }

  /** Whether the hint could be added. */
  add(hint) {
    const points = this.hints.reduce((sum, one) => sum + (one.points?.length ?? 1), hint.points?.length ?? 1);
    if (this.error !== null || this.hints.length >= MAX_HINTS || points > MAX_POINTS) return false;
    this.#set([...this.hints, readEntry(hint)]);
    return true;
  }

  /** Changes some fields of a hint. Changes of one hint that follow each other are undone together. */
  change(index, fields) {
    if (!(index in this.hints)) return;
    const hints = this.hints.with(index, readEntry({ ...this.hints[index], ...fields }));
    if (this.#changing === this.#state) this.#state = this.#past.pop();
    this.#set(hints);
    this.#changing = this.#state;
  }

  remove(index) {
    if (index in this.hints) this.#set(this.hints.filter((_, i) => i !== index));
  }

  /** Replaces all hints by those of a user's text. Throws an Error and changes nothing if it is bad. */
  replace(text) {
    this.#set(parse(text));
  }

  clear() {
    if (this.hints.length || this.error !== null) this.#set([]);
  }

  undo() {
    this.#step(this.#past, this.#future);
  }

  redo() {
    this.#step(this.#future, this.#past);
  }

  #step(from, to) {
    if (!from.length) return;
    to.push(this.#state);
    this.#state = from.pop();
    this.onChange();
  }
}
