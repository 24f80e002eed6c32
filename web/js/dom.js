// Builds elements without HTML strings, so that text is never parsed as markup.

/** An element with properties, attributes ("aria-label", "role", but not "style") and children. */
export function make(tag, { className = "", attributes = {}, ...properties } = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  if (className) element.className = className;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Draws a picture on a canvas of its size, scaled down to at most `longest` px a side. Returns the canvas. */
export function copyOf(picture, longest = Infinity, canvas = document.createElement("canvas")) {
  const width = picture.naturalWidth ?? picture.width;
  const height = picture.naturalHeight ?? picture.height;
  const scale = Math.min(1, longest / Math.max(width, height));
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.drawImage(picture, 0, 0, canvas.width, canvas.height);
  return canvas;
}

const PATHS = {
  brush: "M14 3l7 7-8 8-5-1-1-5zM7 17l-4 4M12 8l4 4",
  eraser: "M8 20h13M4 14l9-10 7 7-9 9H8z M9 9l7 7",
  picker: "M14 6l4 4M12 8l4 4-8 8H4v-4zM15 5a3 3 0 1 1 4 4",
  lock: "M6 11h12v9H6z M8.5 11V8a3.5 3.5 0 0 1 7 0v3M12 15v2",
  undo: "M4 9h10a6 6 0 0 1 0 12h-3M8 5L4 9l4 4",
  redo: "M20 9H10a6 6 0 0 0 0 12h3M16 5l4 4-4 4",
  fit: "M4 9V4h5M15 4h5v5M20 15v5h-5M9 20H4v-5",
  eye: "M2 12s4-7 10-7 10 7 10 7-4 7-10 7S2 12 2 12zM12 9a3 3 0 1 0 0 6 3 3 0 0 0 0-6z",
  dots: "M7 7a2 2 0 1 0 .1 0M17 6a2 2 0 1 0 .1 0M12 15a2 2 0 1 0 .1 0",
  more: "M4 7h16M4 12h16M4 17h16",
  trash: "M4 7h16M9 7V4h6v3M6 7l1 13h10l1-13",
  close: "M6 6l12 12M18 6L6 18",
};

export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", PATHS[name]);
  svg.append(path);
  return svg;
}

/** A button with an icon; its title is also its accessible name. */
export function button(name, title, onclick) {
  return make("button", { type: "button", title, onclick, attributes: { "aria-label": title } }, icon(name));
}
