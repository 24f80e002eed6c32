// Adds the painter to the SeAda Hints node.

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { make } from "./dom.js";
import { Painter } from "./painter.js";
import { findPhoto, photoKey } from "./photo.js";

const NODE = "SeAdaHints";
const NODE_SIZE = [480, 560];
const MIN_HEIGHT = 320;
const WATCH_MS = 300; // polling interval for links and the text; ComfyUI does not have events for all changes
const OUT_OF_REACH = -10_000; // above the node, px
const WIRED = "The hints come from the node connected to “points”; disconnect it to paint here.";

document.head.append(make("link", { rel: "stylesheet", href: new URL("./painter.css", import.meta.url).href }));

function setHidden(widget, hidden) {
  widget.hidden = hidden;
  widget.options.hidden = hidden;
}

/** Makes the text's own widget hideable: it would take the photo's space. */
function makeHideable(widget) {
  const layout = widget.computeLayoutSize;
  widget.computeLayoutSize = function (...given) {
    return this.hidden ? { minHeight: 0, maxHeight: 0, minWidth: 0 } : layout.apply(this, given);
  };
  let { y } = widget;
  Object.defineProperty(widget, "y", {
    configurable: true,
    get: () => (widget.hidden ? OUT_OF_REACH : y), // its socket must not overlap the next widget's
    set: (value) => (y = value),
  });
  setHidden(widget, true);
}

function attach(node) {
  const points = node.widgets?.find((widget) => widget.name === "points");
  if (!points) return;
  makeHideable(points);

  const showText = (shown) => {
    if (points.hidden !== shown) return;
    setHidden(points, !shown);
    node.setDirtyCanvas(true, true);
  };
  const painter = new Painter(points.value, {
    commit: (text) => {
      points.value = text;
      node.graph?.setDirtyCanvas(true, true);
      // ComfyUI does not detect changes of the workflow made by keys and touches
      app.extensionManager?.workflow?.activeWorkflow?.changeTracker?.checkState?.();
    },
    fetchApi: (path, options) => api.fetchApi(path, options),
    toggleText: () => showText(points.hidden),
  });
  const widget = node.addDOMWidget("painter", "seada_painter", painter.element, {
    serialize: false,
    hideOnZoom: false,
    margin: 8,
    getMinHeight: () => MIN_HEIGHT,
  });
  widget.serialize = false; // the hints are in `points`
  node.setSize([Math.max(node.size[0], NODE_SIZE[0]), Math.max(node.size[1], NODE_SIZE[1])]);

  let wired = false; // whether the text input is connected
  let shown = null; // the url of the photo
  const watch = () => {
    if (!node.graph || !painter.element.isConnected) return;
    if (points.value !== painter.text) painter.load(points.value);
    const socket = node.inputs?.find((input) => input.widget?.name === "points");
    if (wired !== (socket?.link != null)) {
      wired = !wired;
      showText(wired); // the position of the link's end
      painter.lock(wired ? WIRED : null);
    }
    if (painter.view.resize()) painter.draw();
    const photo = findPhoto(node);
    const key = photo?.url ?? null;
    if (key === shown) return;
    shown = key;
    if (!photo) return painter.setPhoto(null);
    const image = new Image();
    image.onload = () => {
      if (shown !== key) return;
      const { naturalWidth: width, naturalHeight: height } = image;
      try {
        painter.setPhoto({ width, height, ...photo, image });
      } catch {
        painter.setPhoto(null); // a picture of another origin, whose pixels cannot be read
      }
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
