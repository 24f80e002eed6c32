// Mouse, pen, touch and keyboard on the painter's canvas.

const DRAG = 4; // display pixels a pointer moves before a click becomes a stroke
const LONG_PRESS_MS = 550;
const STEP = 8; // display pixels of an arrow key

// ComfyUI zooms its graph with two fingers anywhere; on a photo the painter handles them through pointer events
for (const type of ["touchstart", "touchmove", "touchend", "touchcancel"]) {
  const keep = (event) => event.target.closest?.(".seada-stage") && event.stopPropagation();
  window.addEventListener(type, keep, { capture: true, passive: true });
}

/** Adds listeners to `painter`'s canvas that call `painter`'s methods; they are removed with the element. */
export function listen(painter) {
  const { view } = painter;
  const { canvas } = view;
  const pointers = new Map(); // id: [x, y] of pressed pointers
  let gesture = null; // {kind: "draw" | "pan" | "erase" | "pick" | "pinch" | "done", ...} of the first pointer
  let space = false;

  const stopPress = () => clearTimeout(gesture?.press);

  const pinch = () => {
    const [a, b] = [...pointers.values()];
    return { x: (a[0] + b[0]) / 2, y: (a[1] + b[1]) / 2, distance: Math.max(1, Math.hypot(a[0] - b[0], a[1] - b[1])) };
  };

  const start = (event, [x, y]) => {
    if (event.button === 1 || (event.button === 0 && space)) return { kind: "pan" };
    if (event.button === 2) return { kind: "erase" };
    if (event.button !== 0) return { kind: "done" };
    if (painter.tool === "pick" || event.altKey) return { kind: "pick" };
    if (painter.tool === "erase") return { kind: "erase" };
    const made = { kind: "draw", x, y, moved: false };
    if (event.pointerType === "touch") {
      made.press = setTimeout(() => {
        if (gesture !== made || made.moved) return;
        painter.cancelDraft();
        painter.eraseAt(x, y);
        made.kind = "done";
      }, LONG_PRESS_MS);
    }
    return made;
  };

  canvas.addEventListener("pointerdown", (event) => {
    event.stopPropagation();
    canvas.focus({ preventScroll: true });
    const place = view.place(event);
    pointers.set(event.pointerId, place);
    try {
      canvas.setPointerCapture(event.pointerId);
    } catch {
      // the pointer no longer exists
    }
    painter.setCursor(null);
    if (pointers.size === 2) {
      stopPress();
      painter.cancelDraft();
      gesture = { kind: "pinch", ...pinch() };
      return;
    }
    if (pointers.size > 2) return;
    gesture = start(event, place);
    if (gesture.kind === "draw" && !painter.startDraft(...place)) gesture.kind = "pan";
    if (gesture.kind === "erase") painter.eraseAt(...place);
    if (gesture.kind === "pick") painter.pickAt(...place);
    gesture.last = place;
  });

  canvas.addEventListener("pointermove", (event) => {
    const place = view.place(event);
    painter.setPointer(event.pointerType === "touch" ? null : place);
    if (!pointers.has(event.pointerId) || !gesture) return;
    event.stopPropagation();
    pointers.set(event.pointerId, place);
    if (gesture.kind === "pinch" && pointers.size === 2) {
      const now = pinch();
      view.pan(now.x - gesture.x, now.y - gesture.y);
      view.zoom(now.distance / gesture.distance, now.x, now.y);
      Object.assign(gesture, now);
      painter.draw();
    } else if (gesture.kind === "draw") {
      gesture.moved ||= Math.hypot(place[0] - gesture.x, place[1] - gesture.y) >= DRAG;
      if (!gesture.moved) return;
      stopPress();
      for (const one of event.getCoalescedEvents?.() ?? []) painter.extendDraft(...view.place(one));
      painter.extendDraft(...place);
    } else if (gesture.kind === "pan") {
      view.pan(place[0] - gesture.last[0], place[1] - gesture.last[1]);
      painter.draw();
    } else if (gesture.kind === "erase" && Math.hypot(place[0] - gesture.last[0], place[1] - gesture.last[1]) > DRAG) {
      painter.eraseAt(...place);
    } else if (gesture.kind === "pick") painter.pickAt(...place);
    gesture.last = place;
  });

  const end = (event) => {
    if (!pointers.delete(event.pointerId) || !gesture) return;
    stopPress();
    if (event.type === "pointercancel") painter.cancelDraft();
    else if (gesture.kind === "draw") painter.finishDraft();
    else if (gesture.kind === "pick") painter.finishPick();
    // the fingers of a pinch are lifted one by one: the last one must not paint
    gesture = pointers.size ? { kind: "done" } : null;
  };
  canvas.addEventListener("pointerup", end);
  canvas.addEventListener("pointercancel", end);
  canvas.addEventListener("pointerleave", () => painter.setPointer(null));
  canvas.addEventListener("contextmenu", (event) => {
    event.preventDefault();
    event.stopPropagation();
  });
  canvas.addEventListener("mousedown", (event) => event.button === 1 && event.preventDefault()); // no autoscroll
  canvas.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      event.stopPropagation();
      if (event.shiftKey) {
        const along = event.deltaY || event.deltaX; // with Shift, some browsers turn the wheel sideways
        if (along) painter.stepSpread(along < 0 ? 1 : -1);
        return;
      }
      const lines = event.deltaMode === 1 ? 20 : 1;
      view.zoom(Math.exp(-event.deltaY * lines * (event.ctrlKey ? 0.01 : 0.0015)), ...view.place(event));
      painter.draw();
    },
    { passive: false },
  );
  canvas.addEventListener("blur", () => {
    space = false;
    painter.setCursor(null);
  });
  canvas.addEventListener("keyup", (event) => {
    if (event.key === " ") space = false;
    canvas.classList.toggle("seada-grab", space);
  });

  const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const keys = {
    Enter: () => painter.placeAtCursor(),
    Delete: () => painter.removeAtCursor(),
    Backspace: () => painter.removeAtCursor(),
    Escape: () => (painter.draft ? painter.cancelDraft() : painter.setCursor(null)),
    "[": () => painter.stepRadius(-1),
    "]": () => painter.stepRadius(1),
    ",": () => painter.stepSpread(-1),
    ".": () => painter.stepSpread(1),
    "+": () => painter.zoom(1.25),
    "=": () => painter.zoom(1.25),
    "-": () => painter.zoom(0.8),
    0: () => painter.fit(),
    b: () => painter.setTool("paint"),
    e: () => painter.setTool("erase"),
    l: () => painter.setTool("lock"),
    i: () => painter.setTool("pick"),
    c: () => painter.chooseColor(),
    h: () => painter.toggle("showHints"),
    p: () => painter.toggle("showPreview"),
  };

  canvas.addEventListener("keydown", (event) => {
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const control = event.ctrlKey || event.metaKey;
    let action;
    if (control && !event.altKey) {
      if (key === "z") action = () => (event.shiftKey ? painter.redo() : painter.undo());
      else if (key === "y" && !event.shiftKey) action = () => painter.redo();
    } else if (key === " ") {
      action = () => canvas.classList.toggle("seada-grab", (space = true));
    } else if (Object.hasOwn(arrows, key)) {
      const step = event.shiftKey ? 1 : Math.max(1, Math.round(STEP / view.scale));
      action = () => painter.moveCursor(arrows[key][0] * step, arrows[key][1] * step);
    } else if (!event.altKey && Object.hasOwn(keys, key)) action = keys[key];
    // the page's own shortcuts (Ctrl+Enter, Ctrl+S) keep working
    if (!action) {
      if (!control && event.key !== "Tab") event.stopPropagation();
      return;
    }
    event.preventDefault();
    event.stopPropagation();
    action();
  });
}
