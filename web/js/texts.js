// The painter's texts in the page's language: `locales/<language>/main.json` has them by their English.

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";

const KEY = "seadaPainter";
let table = {};

/** The page's language, such as "zh". */
function language() {
  const chosen = app.extensionManager?.setting?.get?.("Comfy.Locale");
  return typeof chosen === "string" && chosen ? chosen : navigator.language.split("-")[0];
}

/** Loads the texts; without them the painter speaks English. */
export async function load() {
  try {
    const texts = (await (await api.fetchApi("/i18n")).json())[language()]?.[KEY];
    if (texts !== null && typeof texts === "object") table = texts;
  } catch {
    // an older server has no translations
  }
}

/** A text in the page's language; {name} in it stands for values.name. */
export function t(text, values = {}) {
  const found = Object.hasOwn(table, text) && typeof table[text] === "string" ? table[text] : text;
  return found.replace(/\{(\w+)\}/g, (whole, name) => (Object.hasOwn(values, name) ? String(values[name]) : whole));
}
