// Paints in ComfyUI's own page with real mouse, touch and key events. Usage:
// node painter.cjs CHROMIUM URL SETTINGS, where SETTINGS is JSON: {workflow, photo: [W, H], clicks: [[x, y, color], ...],
// stroke: [[x, y], ...], hostile: [text, ...], markup: text, name: of a photo, screenshot: PATH or null}. Prints JSON:
// what was seen at each step.
const fs = require("fs");
const { chromium } = require("playwright-core");

const [executablePath, url, given] = process.argv.slice(2);
const settings = JSON.parse(given);
const [width, height] = settings.photo;

(async () => {
  const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
  const context = await browser.newContext({ viewport: { width: 1400, height: 950 }, hasTouch: true });
  const page = await context.newPage();
  const report = { errors: [], steps: {} };
  page.on("pageerror", (error) => report.errors.push(String(error)));
  page.on("console", (message) => message.type() === "error" && report.errors.push(message.text()));
  await page.goto(url, { timeout: 240000 });
  await page.waitForFunction(() => window.app?.graph && window.app.extensionManager, null, { timeout: 240000 });
  await page.waitForTimeout(3000);
  report.errors.length = 0; // the page's own, before anything of ours

  const workflow = JSON.parse(fs.readFileSync(settings.workflow, "utf8"));
  const load = async (graph, scale = 1, settle = 1500) => {
    await page.evaluate((data) => window.app.loadGraphData(data), graph);
    await page.evaluate((zoom) => {
      const node = window.app.graph.nodes.find((one) => one.type === "SeAdaHints");
      window.hintsNode = node;
      const { ds } = window.app.canvas;
      ds.scale = zoom;
      ds.offset = [120 / zoom - node.pos[0], 100 / zoom - node.pos[1]];
      window.app.canvas.setDirty(true, true);
    }, scale);
    await page.locator(".seada-photo").waitFor();
    await page.waitForTimeout(settle);
  };
  const text = () => page.evaluate(() => window.hintsNode.widgets.find((widget) => widget.name === "points").value);
  const note = async (name) => (report.steps[name] = JSON.parse(await text()));
  const message = () => page.locator(".seada-message").textContent();
  const status = () => page.locator(".seada-place").textContent();

  /** A pixel of the photo on the screen: the photo lies in the middle, 8 px from the edge, in the node's own scale. */
  const onScreen = async (x, y, view = { zoom: 1 }) => {
    const canvas = page.locator(".seada-photo");
    const box = await canvas.boundingBox();
    const own = await canvas.evaluate((element) => [element.clientWidth, element.clientHeight]);
    const zoom = box.width / own[0];
    const scale = Math.min((own[0] - 16) / width, (own[1] - 16) / height) * view.zoom;
    const left = (own[0] - width * scale) / 2;
    const top = (own[1] - height * scale) / 2;
    return [box.x + (left + (x + 0.5) * scale) * zoom, box.y + (top + (y + 0.5) * scale) * zoom];
  };
  const choose = async (color) => {
    await page.locator(".seada-hex").fill(color);
    await page.locator(".seada-hex").blur();
  };

  // --- the mouse, on a node that the page shows larger
  await load(workflow, 1.2);
  report.shown = await status();
  await page.getByTitle("Remove all hints").click();
  await note("cleared");
  for (const [x, y, color] of settings.clicks) {
    await choose(color);
    await page.mouse.click(...(await onScreen(x, y)));
  }
  await note("clicked");
  const [first, ...rest] = settings.stroke;
  await page.mouse.move(...(await onScreen(...first)));
  await page.mouse.down();
  for (const place of rest) await page.mouse.move(...(await onScreen(...place)), { steps: 5 });
  await page.mouse.up();
  await note("stroked");
  await page.keyboard.press("Control+z");
  await page.waitForTimeout(500);
  await note("stroke undone");
  await page.keyboard.press("Control+Shift+Z");
  await note("stroke redone");
  await page.getByTitle("Undo (Ctrl+Z)").click();
  const [x, y] = settings.clicks[2];
  await page.mouse.click(...(await onScreen(x, y)), { button: "right" });
  await note("third removed");
  await page.keyboard.press("Control+z");
  await note("third back");
  await page.keyboard.press("Control+y");
  await note("third removed again");
  await page.keyboard.press("Control+z");
  await page.waitForTimeout(500);
  report.sameNode = await page.evaluate(() => window.app.graph.nodes.includes(window.hintsNode));

  const chromaAt = async (px, py) => {
    const [cx, cy] = await onScreen(px, py);
    return page.locator(".seada-photo").evaluate((canvas, [sx, sy]) => {
      const box = canvas.getBoundingClientRect();
      const at = [((sx - box.x) / box.width) * canvas.width, ((sy - box.y) / box.height) * canvas.height];
      return [...canvas.getContext("2d").getImageData(Math.round(at[0]), Math.round(at[1]), 1, 1).data];
    }, [cx, cy]);
  };

  // --- the hints, then the preview: colour where the hints are, on the canvas itself
  await page.mouse.move(5, 5);
  await page.locator(".seada-photo").focus();
  await page.waitForTimeout(300);
  report.dots = [];
  for (const [px, py] of settings.clicks) report.dots.push(await chromaAt(px, py));
  await page.keyboard.press("h");
  await page.waitForTimeout(4000);
  report.preview = [];
  for (const [px, py] of settings.clicks) report.preview.push(await chromaAt(px, py));
  await page.keyboard.press("p");
  await page.waitForTimeout(300);
  report.withoutPreview = await chromaAt(...settings.clicks[0]);
  await page.keyboard.press("p");
  await page.keyboard.press("h");
  if (settings.screenshot) await page.screenshot({ path: settings.screenshot });

  // --- queue
  /** Runs the workflow. Gives the saved picture's address; the page itself loads it only where the node is in sight. */
  const queue = () =>
    page.evaluate(async () => {
      const { api } = await import("/scripts/api.js");
      const { app } = window;
      const save = app.graph.nodes.find((node) => node.type === "SeAdaSavePhoto");
      return new Promise((resolve) => {
        const done = ({ detail }) => {
          if (detail.node !== String(save.id)) return;
          api.removeEventListener("executed", done);
          resolve(`/view?${new URLSearchParams(detail.output.images[0])}`);
        };
        api.addEventListener("executed", done);
        app.queuePrompt(0);
      });
    });
  report.result = await queue();

  // --- saving, loading, copies
  const saved = await page.evaluate(() => window.app.graph.serialize());
  report.saved = saved.nodes.find((node) => node.type === "SeAdaHints").widgets_values;
  report.copied = await page.evaluate(async () => {
    const { canvas, graph } = window.app;
    canvas.copyToClipboard([window.hintsNode]);
    canvas.pasteFromClipboard();
    const nodes = graph.nodes.filter((node) => node.type === "SeAdaHints");
    const copy = nodes.find((node) => node !== window.hintsNode);
    const values = copy.widgets.find((widget) => widget.name === "points").value;
    graph.remove(copy);
    return [nodes.length, values];
  });
  await load(saved);
  report.loaded = await text();
  report.undoAfterLoading = await page.getByTitle("Undo (Ctrl+Z)").isEnabled();

  // --- keys
  await page.getByTitle("Remove all hints").click();
  await page.keyboard.press("ArrowRight"); // the cursor appears in the middle
  for (let i = 0; i < 5; i++) await page.keyboard.press("Shift+ArrowLeft");
  await page.keyboard.press("Shift+ArrowDown");
  await page.keyboard.press("]");
  await page.keyboard.press("]");
  await page.keyboard.press("Enter");
  await note("placed by keys");
  await page.keyboard.press("Delete");
  await note("deleted by keys");
  report.nodeStillThere = await page.evaluate(() => window.app.graph.nodes.includes(window.hintsNode));

  // --- wheel and middle button: the place under the pointer stays
  const [mx, my] = await onScreen(width / 2 - 0.5, height / 2 - 0.5);
  await page.mouse.move(mx, my);
  await page.mouse.wheel(0, -700);
  await page.mouse.click(mx, my);
  await page.mouse.down({ button: "middle" });
  await page.mouse.move(mx + 40, my + 30, { steps: 4 });
  await page.mouse.up({ button: "middle" });
  await page.mouse.click(mx + 40, my + 30);
  await note("zoomed");
  await page.getByTitle("Whole photo (0)").click();
  await page.getByTitle("Remove all hints").click();

  // --- touch
  const touch = await context.newCDPSession(page);
  const fingers = (type, places) =>
    touch.send("Input.dispatchTouchEvent", { type, touchPoints: places.map(([a, b], id) => ({ x: a, y: b, id })) });
  const tap = async (place, hold = 30) => {
    await fingers("touchStart", [place]);
    await page.waitForTimeout(hold);
    await fingers("touchEnd", []);
    await page.waitForTimeout(100);
  };
  await tap(await onScreen(30, 40));
  await note("tapped");
  const [tx, ty] = await onScreen(60, 60);
  await fingers("touchStart", [[tx, ty]]);
  for (let i = 1; i <= 6; i++) await fingers("touchMove", [[tx + 12 * i, ty]]);
  await fingers("touchEnd", []);
  await note("dragged by touch");
  await tap(await onScreen(30, 40), 900);
  await note("long pressed");
  await fingers("touchStart", [[mx - 40, my]]);
  await fingers("touchStart", [[mx - 40, my], [mx + 40, my]]);
  for (let i = 1; i <= 5; i++) await fingers("touchMove", [[mx - 40 - 8 * i, my], [mx + 40 + 8 * i, my]]);
  await fingers("touchEnd", []);
  await note("pinched");
  await tap(await onScreen(width / 2 + 10, height / 2, { zoom: 2 }));
  await note("tapped after pinch");

  // --- a reference picture
  await page.evaluate(async () => {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [40, 20];
    const brush = canvas.getContext("2d");
    brush.fillStyle = "#c02040";
    brush.fillRect(0, 0, 20, 20);
    brush.fillStyle = "#20a060";
    brush.fillRect(20, 0, 20, 20);
    const blob = await new Promise((resolve) => canvas.toBlob(resolve));
    const data = new DataTransfer();
    data.items.add(new File([blob], "reference.png", { type: "image/png" }));
    const event = new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true });
    document.querySelector(".seada-photo").dispatchEvent(event);
  });
  const reference = page.locator(".seada-reference canvas");
  await reference.waitFor();
  const pane = await reference.boundingBox();
  await page.mouse.click(pane.x + pane.width * 0.75, pane.y + pane.height * 0.5);
  report.picked = await page.locator('.seada-colors input[type="color"]').inputValue();
  report.nodes = await page.evaluate(() => window.app.graph.nodes.length);

  // --- hints from a file and the clipboard, and to them
  const transfer = (type, name, content) =>
    page.evaluate(([kind, file, body]) => {
      const data = new DataTransfer();
      if (file) data.items.add(new File([body], file));
      else data.setData("text/plain", body);
      const options = { bubbles: true, cancelable: true };
      const event = kind === "drop"
        ? new DragEvent(kind, { ...options, dataTransfer: data })
        : new ClipboardEvent(kind, { ...options, clipboardData: data });
      document.querySelector(".seada-photo").dispatchEvent(event);
      return data.getData("text/plain");
    }, [type, name, content]);
  await transfer("drop", "hints.json", JSON.stringify({ hints: [{ x: 1, y: 2, color: "#112233" }] }));
  await page.waitForTimeout(300);
  await note("dropped");
  await transfer("paste", null, '[{"points": [[1, 2], [3, 4]], "color": "#445566", "radius": 2}]');
  await note("pasted");
  await transfer("paste", null, "<b>no hints</b>");
  for (let tries = 0; tries < 400 && !(await message()).includes("JSON"); tries++) await page.waitForTimeout(50);
  report.badPaste = await message();
  await note("bad paste");
  report.clipboard = await transfer("copy", null, "");

  // --- hostile text
  const marks = () =>
    page.evaluate(() => [typeof window.pwned, typeof {}.pwned, document.querySelectorAll("[onerror], [onload]").length]);
  report.hostile = [];
  for (const bad of settings.hostile) {
    const graph = structuredClone(workflow);
    graph.nodes.find((node) => node.type === "SeAdaHints").widgets_values[0] = bad;
    await load(graph, 1, 300);
    await page.mouse.click(...(await onScreen(width / 2, height / 2)));
    report.hostile.push({
      message: await message(),
      kept: (await text()) === bad,
      marks: await marks(),
    });
  }
  await page.getByText("Start over").click();
  report.afresh = await text();
  await page.keyboard.press("Control+z");
  report.hostileBack = (await text()) === settings.hostile.at(-1);

  // --- a photo that only a run knows
  await load(workflow);
  await page.evaluate(() => {
    const { app, LiteGraph, hintsNode } = window;
    const slow = LiteGraph.createNode("SeAdaColorize"); // quick nodes run without being asked
    app.graph.add(slow);
    const source = app.graph.nodes.find((node) => node.type.startsWith("SeAdaLoadPhoto"));
    source.connect(0, slow, 0);
    slow.connect(0, hintsNode, 0);
  });
  await page.waitForTimeout(1000);
  report.unknown = [await page.locator(".seada-empty").isVisible(), await status()];
  await queue();
  await page.waitForFunction(() => document.querySelector(".seada-empty").hidden, null, { timeout: 60000 });
  report.known = await status();

  // --- a stranger's workflow: markup as the photo's name, in every title, text and choice, and in the hints
  const { markup, name } = settings;
  const hostile = structuredClone(workflow);
  for (const node of hostile.nodes) {
    node.title = markup;
    const texts = node.widgets_values ?? [];
    texts.forEach((value, i) => (texts[i] = typeof value === "string" ? markup : value));
    if (node.type.startsWith("SeAdaLoadPhoto")) texts[0] = name;
    if (node.type === "SeAdaHints") texts[0] = JSON.stringify([{ x: 1, y: 2, color: markup, [markup]: markup }]);
  }
  hostile.groups = [{ title: markup, bounding: [0, 0, 400, 300] }];
  const ownErrors = report.errors.length;
  await load(hostile);
  report.stranger = { photo: await status(), message: await message(), kept: (await text()).includes("onerror") };
  report.stranger.texts = await page.evaluate((value) => {
    const { app, LiteGraph } = window;
    const types = Object.keys(LiteGraph.registered_node_types).filter((type) => type.startsWith("SeAda"));
    const texts = [];
    for (const type of types) {
      const node = LiteGraph.createNode(type);
      node.title = value;
      app.graph.add(node);
      for (const widget of node.widgets ?? []) {
        if (typeof widget.value !== "string") continue;
        widget.value = value;
        texts.push([type, widget.name]);
      }
    }
    return texts;
  }, markup);
  await page.waitForTimeout(1000);
  report.stranger.marks = await marks();

  // what comes back from the server: names of files, and the message of a node that repeats what it was given
  const run = async (...nodes) => {
    await page.evaluate((given) => {
      const { app, LiteGraph } = window;
      app.graph.clear();
      const made = given.map(([type, values]) => {
        const node = LiteGraph.createNode(type);
        app.graph.add(node);
        for (const widget of node.widgets ?? []) if (widget.name in values) widget.value = values[widget.name];
        return node;
      });
      made[0].connect(made[0].outputs.findIndex((output) => output.name === given[1][2]), made[1], 0);
      window.shownNode = made[1];
      app.queuePrompt(0);
    }, nodes);
  };
  const shown = (fragment) => page.waitForFunction((part) => {
    const values = (window.shownNode.widgets ?? []).map((widget) => String(widget.value));
    return values.find((value) => value.includes(part));
  }, fragment, { timeout: 120000 }).then((value) => value.jsonValue());
  await run(["SeAdaLoadFolder", { folder: "strangers" }], ["PreviewAny", {}, "NAME"]);
  report.stranger.names = await shown("onerror");
  await page.evaluate(async () => {
    const { api } = await import("/scripts/api.js");
    const keep = ({ detail }) => (window.rejection = detail.exception_message);
    api.addEventListener("execution_error", keep, { once: true });
  });
  // frontend 1.49 hands on the value of the widget of this name that a node of the same number had before: the folder's 0
  await run(["SeAdaPalette", { colors: markup, count: 5 }], ["PreviewImage", {}, "preview"]);
  report.stranger.error = await page.waitForFunction(() => window.rejection, null, { timeout: 120000 }).then((message) => message.jsonValue());
  await page.waitForTimeout(1000); // until the page shows it, some only on request
  report.stranger.marksOfAnswers = await marks();
  report.errors.length = ownErrors; // drop the page's message about the failed prompt

  console.log(JSON.stringify(report));
  await browser.close();
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
