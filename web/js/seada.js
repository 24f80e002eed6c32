// Puts the painter on ComfyUI's SeAda Hints node.

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { make } from "./dom.js";
import { Painter } from "./painter.js";
import { findPhoto, photoKey } from "./photo.js";

const NODE = "SeAdaHints";
const NODE_SIZE = [480, 560];
const MIN_HEIGHT = 320;
const WATCH_MS = 300; // how often wires and the text are looked at; ComfyUI has no events for all of them
const WIRED = "The hints come from a wire to “points”; unplug it to paint here.";

document.head.append(make("link", { rel: "stylesheet", href: new URL("./painter.css", import.meta.url).href }));

/** Hides the text's own widget, which would take the room of the photo. */
function setHidden(widget, hidden) {
  widget.hidden = hidden;
  widget.options.hidden = hidden;
}

function attach(node) {
  const points = node.widgets?.find((widget) => widget.name === "points");
  if (!points) return;
  const layout = points.computeLayoutSize;
  points.computeLayoutSize = function (...given) {
    return this.hidden ? { minHeight: 0, maxHeight: 0, minWidth: 0 } : layout.apply(this, given);
  };
  setHidden(points, true);

  const painter = new Painter(points.value, {
    commit: (text) => {
      points.value = text;
      node.graph?.setDirtyCanvas(true, true);
      // keys and touches are not among what ComfyUI watches for changes of the workflow
      app.extensionManager?.workflow?.activeWorkflow?.changeTracker?.checkState?.();
    },
    fetchApi: (path, options) => api.fetchApi(path, options),
    toggleText: () => {
      setHidden(points, !points.hidden);
      node.setDirtyCanvas(true, true);
    },
  });
  const widget = node.addDOMWidget("painter", "seada_painter", painter.element, {
    serialize: false,
    hideOnZoom: false,
    margin: 8,
    getMinHeight: () => MIN_HEIGHT,
  });
  widget.serialize = false; // the hints are in `points`
  node.setSize([Math.max(node.size[0], NODE_SIZE[0]), Math.max(node.size[1], NODE_SIZE[1])]);

  let shown = null; // the url of the photo
  const watch = () => {
    if (!node.graph || !painter.element.isConnected) return;
    if (points.value !== painter.text) painter.load(points.value);
    const socket = node.inputs?.find((input) => input.widget?.name === "points");
    painter.lock(socket?.link != null ? WIRED : null);
    if (painter.view.resize()) painter.draw();
    const photo = findPhoto(node);
    const key = photo && photo.url;
    if (key === shown) return;
    shown = key;
    if (!photo) return painter.setPhoto(null);
    const image = new Image();
    image.onload = () => {
      const { naturalWidth, naturalHeight } = image;
      if (shown === key) painter.setPhoto({ image, width: photo.width ?? naturalWidth, height: photo.height ?? naturalHeight });
    };
    image.onerror = () => shown === key && painter.setPhoto(null);
    image.src = photo.url;
  };
  const timer = setInterval(watch, WATCH_MS);

  const { onConfigure, onExecuted, onRemoved } = node;
  node.onConfigure = function () {
    onConfigure?.apply(this, arguments);
    painter.load(points.value, true);
  };
  node.onExecuted = function (output) {
    onExecuted?.apply(this, arguments);
    const [photo] = output?.seada_photo ?? [];
    if (photo) node.seadaPhoto = { ...photo, key: photoKey(node) };
  };
  node.onRemoved = function () {
    onRemoved?.apply(this, arguments);
    clearInterval(timer);
    painter.stop();
  };
}

app.registerExtension({
  name: "SeAda.HintPainter",
  nodeCreated(node) {
    if (node.comfyClass === NODE) attach(node);
  },
});
