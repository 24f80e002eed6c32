// Import and export of hints and reference pictures: clipboard, files, drag and drop.

import { make } from "./dom.js";
import { t } from "./texts.js";

const MAX_FILE = 64_000_000; // bytes; the largest allowed list of hints is far smaller
const FILE_NAME = "hints.json";

const isPicture = (file) => file.type.startsWith("image/");

/** Asks for a file and resolves to it; never resolves if the user cancels. */
export function chooseFile(accept) {
  return new Promise((resolve) => {
    const input = make("input", { type: "file", accept, onchange: () => input.files[0] && resolve(input.files[0]) });
    input.click();
  });
}

export function download(text) {
  const url = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  make("a", { href: url, download: FILE_NAME }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/** Copies text, also on pages without HTTPS, which have no clipboard API. */
export async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = make("textarea", { value: text });
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}

/** Handles a dropped or pasted file: a picture becomes the reference, anything else must be hints. */
export async function take(painter, file) {
  try {
    if (isPicture(file)) await painter.openReference(file);
    else if (file.size > MAX_FILE) throw new Error(t("the file is too large for hints"));
    else painter.importText(await file.text());
  } catch (error) {
    painter.say(error.message);
  }
}

/** Drag and drop, copy and paste on the painter's element. */
export function listen(painter) {
  const { element } = painter;
  element.addEventListener("dragover", (event) => {
    event.preventDefault();
    event.stopPropagation();
    element.classList.add("seada-drop");
  });
  element.addEventListener("dragleave", () => element.classList.remove("seada-drop"));
  element.addEventListener("drop", (event) => {
    event.preventDefault();
    event.stopPropagation();
    element.classList.remove("seada-drop");
    const [file] = event.dataTransfer.files;
    if (file) take(painter, file);
    else painter.say(t("drop a picture file for reference, or a hints file"));
  });
  element.addEventListener("copy", (event) => {
    if (event.target.matches("input, textarea")) return;
    event.preventDefault();
    event.stopPropagation();
    event.clipboardData.setData("text/plain", painter.text);
    painter.say(t("hints copied"));
  });
  element.addEventListener("paste", (event) => {
    if (event.target.matches("input, textarea")) return;
    event.preventDefault();
    event.stopPropagation();
    const [file] = event.clipboardData.files;
    const text = event.clipboardData.getData("text/plain");
    if (file) take(painter, file);
    else if (text) painter.importText(text);
  });
}
