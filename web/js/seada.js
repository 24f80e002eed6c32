// Adds the painter to the SeAda Hints node.

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { make } from "./dom.js";
import { Painter } from "./painter.js";
import { PhotoSource } from "./photo.js";
import { load, t } from "./texts.js";

const NODE = "SeAdaHints";
const NODE_SIZE = [480, 560];
const MIN_HEIGHT = 320;
const WATCH_MS = 300; // polling interval for links and the text; ComfyUI does not have events for all changes
const KEEP_MS = 10_000; // for how long a removed node's painter waits for the node to be made again
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

/** ComfyUI's history of the open workflow. */
const tracker = () => app.extensionManager?.workflow?.activeWorkflow?.changeTracker;

/** Tells ComfyUI that the workflow has changed: it does not notice keys and touches. */
function noteChange() {
  const history = tracker();
  (history?.captureCanvasState ?? history?.checkState)?.call(history);
}

// ComfyUI's undo makes all nodes again. So a painter outlives its node for a while, and serves the node that then has its
// place in the graph. The hints themselves are in the node's widget alone.
const seats = new Map(); // "graph id/node id" → {painter, photo, owner, history, timer}

const orphans = new Set(); // elements of removed nodes: Nodes 2.0 goes on showing them for new nodes of the same ids

/** The element on the page that shows a node: its own, or the one of a node before it; null if none does. */
function placeOf(node, host) {
  if (host.isConnected) return host;
  for (const orphan of orphans) if (!orphan.isConnected) orphans.delete(orphan);
  if (app.canvas?.graph !== node.graph) return null;
  return [...orphans].find((orphan) => orphan.dataset.node === String(node.id)) ?? null;
}

function makeSeat(key, owner) {
  const seat = { key, history: tracker() };
  seat.painter = new Painter(owner.points.value, {
    commit: (text) => seat.owner?.commit(text),
    fetchApi: (path, options) => api.fetchApi(path, options),
    toggleText: () => seat.owner?.toggleText(),
    askPhoto: () => seat.photo.ask(),
  });
  let shown = null;
  const showPhoto = ({ url, width, height }) => {
    shown = url;
    if (!url) return seat.painter.setPhoto(null);
    const image = new Image();
    const fail = () => {
      if (shown !== url) return;
      seat.painter.setPhoto(null);
      seat.photo.failed(url);
    };
    image.onload = () => {
      if (shown !== url) return;
      const { naturalWidth, naturalHeight } = image;
      try {
        seat.painter.setPhoto({ width: width ?? naturalWidth, height: height ?? naturalHeight, image });
      } catch {
        fail(); // a picture of another origin, whose pixels cannot be read
      }
    };
    image.onerror = fail;
    image.src = url;
  };
  seat.photo = new PhotoSource((state) => {
    seat.painter.setSource(state);
    if (state.url !== shown) showPhoto(state);
  });
  return seat;
}

/** The seat of a node in the graph; `owner` is what its painter then works for. */
function takeSeat(owner) {
  const { node } = owner;
  const key = `${node.graph.id}/${node.id}`;
  let seat = seats.get(key);
  const before = seat?.owner?.node;
  if (!seat || (before && before.graph?.getNodeById(before.id) === before)) seats.set(key, (seat = makeSeat(key, owner)));
  clearTimeout(seat.timer);
  seat.owner = owner;
  seat.photo.node = node;
  return seat;
}

function leaveSeat(seat, owner) {
  if (seat.owner !== owner) return;
  seat.owner = null;
  seat.timer = setTimeout(() => {
    seat.painter.stop();
    if (seats.get(seat.key) === seat) seats.delete(seat.key);
  }, KEEP_MS);
}

function attach(node) {
  const points = node.widgets?.find((widget) => widget.name === "points");
  if (!points) return;
  makeHideable(points);

  const host = make("div", { className: "seada-host" });
  const widget = node.addDOMWidget("painter", "seada_painter", host, {
    serialize: false,
    hideOnZoom: false,
    margin: 8,
    getMinHeight: () => MIN_HEIGHT,
  });
  widget.serialize = false; // the hints are in `points`
  node.setSize([Math.max(node.size[0], NODE_SIZE[0]), Math.max(node.size[1], NODE_SIZE[1])]);

  let seat = null;
  let wired = false; // whether the text input is connected
  const showText = (visible) => {
    if (points.hidden !== visible) return;
    setHidden(points, !visible);
    node.setDirtyCanvas(true, true);
  };
  const owner = {
    node,
    points,
    commit(text) {
      points.value = text;
      node.graph?.setDirtyCanvas(true, true);
      noteChange();
    },
    toggleText: () => showText(points.hidden),
  };

  /** Puts the painter where the page shows the node. */
  const settle = () => {
    const place = seat?.owner === owner ? placeOf(node, host) : null;
    if (place && seat.painter.element.parentNode !== place) place.replaceChildren(seat.painter.element);
  };

  const watch = () => {
    if (!node.graph) return;
    if (!seat) {
      seat = takeSeat(owner);
      if (!seat.painter.element.isConnected) host.append(seat.painter.element);
    }
    settle();
    const { painter, photo } = seat;
    if (seat.owner !== owner || !painter.element.isConnected) return;
    painter.load(points.value);
    if (seat.history !== tracker()) {
      seat.history = tracker(); // another workflow with nodes of the same ids
      painter.forget();
      photo.forget();
    }
    const socket = node.inputs?.findIndex((input) => input.widget?.name === "points") ?? -1;
    const isWired = socket >= 0 && node.getInputLink(socket) !== null;
    if (wired !== isWired) {
      wired = isWired;
      showText(wired); // the position of the link's end
    }
    painter.lock(wired ? t(WIRED) : null);
    if (painter.view.resize()) painter.draw();
    photo.look();
  };
  const timer = setInterval(watch, WATCH_MS);
  new ResizeObserver(settle).observe(host);

  const { onAdded, onConfigure, onExecuted, onRemoved } = node;
  node.onAdded = function () {
    onAdded?.apply(this, arguments);
    if (Number(node.id) >= 0) watch();
  };
  node.onConfigure = function () {
    onConfigure?.apply(this, arguments);
    seat?.painter.load(points.value, true);
  };
  node.onExecuted = function (output) {
    onExecuted?.apply(this, arguments);
    const [photo] = output?.seada_photo ?? [];
    if (photo && seat?.owner === owner) seat.photo.ran(photo);
  };
  node.onRemoved = function () {
    onRemoved?.apply(this, arguments);
    clearInterval(timer);
    host.dataset.node = node.id;
    orphans.add(host);
    if (seat) leaveSeat(seat, owner);
  };
}

app.registerExtension({
  name: "SeAda.HintPainter",
  init: load,
  nodeCreated(node) {
    if (node.comfyClass === NODE) attach(node);
  },
});
