// The painter's photo and hints in all places of ComfyUI's page. Usage: node painter_places.cjs BROWSER URL SETTINGS, where
// SETTINGS is JSON: {workflow, vue: Nodes 2.0 or not, photos: {name: [W, H]}, tiff: name, folder: for screenshots or null}.
// Prints JSON: what was seen in each scene.
const fs = require("fs");
const { open, opened } = require("./page.cjs");

const [browser, url, given] = process.argv.slice(2);
const settings = JSON.parse(given);
const [first, second] = Object.keys(settings.photos);
const WAIT = { timeout: 20000 };
const RUN = { timeout: 200000 }; // of a model

open(browser, url, { vue: settings.vue }, async (page, report) => {
  const workflow = JSON.parse(fs.readFileSync(settings.workflow, "utf8"));
  const hints = '[{"x": 20, "y": 20, "color": "#2f6fb0", "radius": 8}]'; // inside all photos
  workflow.nodes.find((node) => node.type === "SeAdaHints").widgets_values[0] = hints;
  report.vue = await page.evaluate(() => window.LiteGraph.vueNodesMode === true);

  const look = (x = 200, y = 150) =>
    page.evaluate(([left, top]) => {
      const { app } = window;
      const node = app.canvas.graph.nodes.find((one) => one.type === "SeAdaHints");
      if (!node) return;
      app.canvas.ds.scale = 1;
      app.canvas.ds.offset = [left - node.pos[0], top - node.pos[1]];
      app.canvas.setDirty(true, true);
    }, [x, y]);
  const load = async (graph) => {
    await page.evaluate((data) => window.app.loadGraphData(data), graph);
    await look();
    await page.locator(".seada-photo").waitFor(WAIT);
    await page.mouse.move(1390, 300); // over the photo it would show its place there
  };
  const size = () => page.locator(".seada-place").textContent();
  const sized = ([width, height], patience = WAIT) =>
    page
      .waitForFunction((text) => document.querySelector(".seada-place")?.textContent === text, `${width} × ${height}`, patience)
      .then(() => true, async () => `${await size()}: ${await page.locator(".seada-empty").textContent()}`);
  const text = () =>
    page.evaluate(() => {
      const { app } = window;
      const graphs = [app.graph, ...(app.graph.subgraphs?.values() ?? [])];
      const node = graphs.flatMap((graph) => graph.nodes).find((one) => one.type === "SeAdaHints");
      return JSON.parse(node.widgets.find((widget) => widget.name === "points").value).length;
    });
  const shown = () => page.locator(".seada-message").textContent();
  const both = async () => [await text(), Number.parseInt(await shown())]; // the node's hints, and the painter's
  const click = async (across) => {
    const box = await page.locator(".seada-photo").boundingBox();
    await page.mouse.click(box.x + box.width * across, box.y + box.height / 2);
    await page.waitForTimeout(200);
  };
  const choose = (name) =>
    page.evaluate((value) => {
      const { app } = window;
      const graphs = [app.graph, ...(app.graph.subgraphs?.values() ?? [])];
      const node = graphs.flatMap((graph) => graph.nodes).find((one) => one.type === "SeAdaLoadPhoto");
      const widget = node.widgets.find((one) => one.name === "image");
      widget.value = value;
      widget.callback?.(value);
    }, name);
  /** Puts nodes of the given types between the loader and the painter. */
  const between = (...types) =>
    page.evaluate((names) => {
      const { app, LiteGraph } = window;
      const find = (type) => app.graph.nodes.find((one) => one.type === type);
      let before = find("SeAdaLoadPhoto");
      names.forEach((name, i) => {
        const node = LiteGraph.createNode(name);
        node.pos = [before.pos[0], before.pos[1] + 500 + 200 * i];
        app.graph.add(node);
        before.connect(0, node, 0);
        before = node;
      });
      before.connect(0, find("SeAdaHints"), 0);
    }, types);
  const picture = async (name) => settings.folder && (await page.screenshot({ path: `${settings.folder}/${name}.png` }));
  const scene = async (name, act) => {
    await load(structuredClone(workflow));
    report[name] = {};
    await act(report[name]).catch(async (error) => { await picture(`${name}-failed`); throw error; });
    await picture(name);
  };

  await scene("loader", async (seen) => {
    await choose(first);
    seen.first = await sized(settings.photos[first]);
    await choose(second);
    seen.second = await sized(settings.photos[second]);
    await choose(settings.tiff);
    seen.tiff = await sized(settings.photos[first]);
  });

  await scene("history", async (seen) => {
    await choose(first);
    await sized(settings.photos[first]);
    const state = (seen.counts = { loaded: await both() });
    const keys = async (name, ...presses) => {
      for (const key of presses) await page.keyboard.press(key).then(() => page.waitForTimeout(450));
      state[name] = await both();
    };
    const outside = () => page.mouse.click(70, 880).then(() => page.waitForTimeout(300));
    for (const across of [0.4, 0.5, 0.6]) await click(across);
    state.painted = await both();
    await keys("undone", "Control+z", "Control+z");
    await keys("redone", "Control+Shift+Z");
    await outside();
    await keys("undone outside", "Control+z");
    await look();
    await click(0.45);
    state["painted again"] = await both();
    await keys("undone again", "Control+z");
    await outside();
    await keys("undone outside again", "Control+z");
    await keys("redone outside", "Control+y");
    await look();
    await click(0.55);
    for (let i = 0; i < 5; i++) await page.keyboard.press("Control+z");
    await page.waitForTimeout(600);
    seen.nodes = await page.evaluate(() => window.app.graph.nodes.length);
  });

  await scene("reach", async (seen) => {
    await choose(first);
    await sized(settings.photos[first]);
    const photo = page.locator(".seada-photo");
    const hints = () =>
      page.evaluate(() => {
        const node = window.app.graph.nodes.find((one) => one.type === "SeAdaHints");
        return JSON.parse(node.widgets.find((widget) => widget.name === "points").value);
      });
    /** The share of the photo that the region under the pointer has, once it is there and other than `before`. */
    const region = (before = "") =>
      page
        .waitForFunction((old) => {
          const { region: now } = document.querySelector(".seada-photo").dataset;
          return now && now !== old ? now : null;
        }, before, WAIT)
        .then((value) => value.jsonValue());
    const box = await photo.boundingBox();
    const point = (across, down = 0.5) => page.mouse.move(box.x + box.width * across, box.y + box.height * down);
    const wheel = async (times, amount) => {
      await page.keyboard.down("Shift");
      for (let i = 0; i < times; i++) await page.mouse.wheel(0, amount);
      await page.keyboard.up("Shift");
    };
    await photo.focus();
    const before = await hints();
    await point(0.6);
    const own = await region();
    await picture("hover");
    seen.noHint = JSON.stringify(await hints()) === JSON.stringify(before);
    await wheel(8, -100);
    const far = await region(own);
    await picture("hover-far");
    seen.grows = Number(far) > Number(own);
    await page.mouse.move(1390, 300);
    await page.waitForFunction(() => document.querySelector(".seada-photo").dataset.region === "", null, WAIT);
    await page.mouse.click(box.x + box.width * 0.6, box.y + box.height * 0.5);
    await page.waitForTimeout(200);
    seen.spread = (await hints()).at(-1).spread;
    await wheel(3, 100); // over the hint: of that one
    await page.waitForTimeout(200);
    seen.changed = [(await hints()).at(-1).spread, (await hints()).length - before.length];
    await page.keyboard.press("Control+z");
    seen.undone = (await hints()).at(-1).spread;
    await page.locator(".seada-spread input").fill("-4");
    await page.getByTitle("Keep a place as it is (L)").click();
    await page.mouse.click(box.x + box.width * 0.4, box.y + box.height * 0.4);
    await page.waitForTimeout(200);
    const { color, spread } = (await hints()).at(-1);
    seen.lock = [color, spread];
    await page.mouse.move(1390, 300);
  });

  await scene("reroute", async (seen) => {
    await choose(first);
    await between("Reroute", "Reroute");
    seen.shown = await sized(settings.photos[first]);
  });

  await scene("quick nodes", async (seen) => {
    await choose(first);
    await between("ImageInvert");
    seen.first = await sized(settings.photos[first]);
    await choose(second);
    seen.second = await sized(settings.photos[second]);
    await page.evaluate(() => (window.app.graph.nodes.find((one) => one.type === "ImageInvert").mode = 4));
    await choose(first);
    seen.bypassed = await sized(settings.photos[first]);
  });

  const get = (address) => page.evaluate(async (path) => (await fetch(path)).json(), address);
  const history = async () => Object.keys(await get("/history"));

  await scene("slow nodes", async (seen) => {
    const before = await history();
    await choose(first);
    await sized(settings.photos[first]);
    await between("SeAdaColorize");
    await page.getByRole("button", { name: "Show the photo" }).click(WAIT);
    seen.first = await sized(settings.photos[first], RUN);
    await choose(second);
    await page.getByRole("button", { name: "Update the photo" }).waitFor(WAIT);
    seen.stale = [await size(), await shown()];
    await page.getByRole("button", { name: "Update the photo" }).click();
    seen.second = await sized(settings.photos[second], RUN);
    seen.queued = (await history()).length - before.length;
  });

  await scene("cached", async (seen) => {
    await choose(second);
    await between("SeAdaColorize"); // as before: the server has the result and sends none by itself
    await page.getByRole("button", { name: "Show the photo" }).click(WAIT);
    seen.shown = await sized(settings.photos[second], RUN);
    await page.evaluate(() => { // as the page does for the loader's picture, sooner or later
      const loader = window.app.graph.nodes.find((node) => node.type === "SeAdaLoadPhoto");
      loader.addWidget("text", "preview", "", () => {}).serialize = false;
    });
    await page.waitForTimeout(700);
    seen.stale = /changed/.test(await shown());
  });

  await scene("bad node before", async (seen) => {
    await between("SeAdaPalette");
    await page.evaluate(() => {
      const { graph } = window.app;
      const find = (type) => graph.nodes.find((one) => one.type === type);
      find("SeAdaPalette").widgets[0].value = "no colour";
      find("SeAdaPalette").connect(1, find("SeAdaHints"), 0);
    });
    await page.getByRole("button", { name: "Show the photo" }).click(WAIT);
    await page.getByRole("button", { name: "Try again" }).waitFor(WAIT);
    seen.message = await page.locator(".seada-empty span").textContent();
  });

  await scene("tabs", async (seen) => {
    const turn = async (command) => {
      await page.mouse.move(1390, 300);
      await page.evaluate((id) => window.app.extensionManager.command.execute(id), command);
      await page.waitForTimeout(1000);
      await look();
    };
    await choose(first);
    await sized(settings.photos[first]);
    await click(0.45);
    seen.one = await both();
    const other = structuredClone(workflow); // with nodes of the same ids
    other.nodes.find((node) => node.type === "SeAdaHints").widgets_values[0] = "[]";
    await load(other);
    await choose(second);
    await sized(settings.photos[second]);
    await click(0.45);
    seen.other = await both();
    await turn("Workspace.PreviousOpenedWorkflow");
    seen.back = [await sized(settings.photos[first]), ...(await both())];
    await turn("Workspace.NextOpenedWorkflow");
    seen.again = [await sized(settings.photos[second]), ...(await both())];
  });

  const enter = (from) =>
    page.evaluate((type) => {
      const { app } = window;
      const { subgraph, node } = app.graph.convertToSubgraph(new Set([app.graph.nodes.find((one) => one.type === type)]));
      if (type === "SeAdaHints") app.canvas.openSubgraph(subgraph, node);
    }, from);

  await scene("painter in a subgraph", async (seen) => {
    await choose(first);
    await sized(settings.photos[first]);
    await enter("SeAdaHints");
    await page.waitForTimeout(800);
    await look();
    seen.first = await sized(settings.photos[first]);
    const before = await text();
    await click(0.45);
    seen.painted = [before, await text()];
    await page.keyboard.press("Control+z");
    seen.undone = await text();
    await page.mouse.move(1390, 300);
    await choose(second);
    seen.second = await sized(settings.photos[second]);
    await page.evaluate(() => window.app.canvas.setGraph(window.app.graph));
  });

  await scene("photo in a subgraph", async (seen) => {
    await choose(first);
    await enter("SeAdaLoadPhoto");
    await look();
    seen.first = await sized(settings.photos[first]);
  });

  await scene("two painters", async (seen) => {
    await choose(first);
    await sized(settings.photos[first]);
    await page.evaluate(() => {
      const { canvas } = window.app;
      canvas.copyToClipboard([canvas.graph.nodes.find((one) => one.type === "SeAdaHints")]);
      canvas.pasteFromClipboard({ position: [1300, 900] });
    });
    await page.waitForTimeout(800);
    await page.evaluate(() => {
      const { app } = window;
      const [one, other] = app.graph.nodes.filter((node) => node.type === "SeAdaHints");
      other.pos = [one.pos[0] + 560, one.pos[1]];
      app.graph.nodes.find((node) => node.type === "SeAdaLoadPhoto").connect(0, other, 0);
      for (const node of app.graph.nodes) if (node.type !== "SeAdaHints") node.pos = [node.pos[0], node.pos[1] - 5000];
      app.canvas.setDirty(true, true);
    });
    await page.locator(".seada-photo").nth(1).waitFor(WAIT);
    await page.waitForFunction((text) => {
      const places = [...document.querySelectorAll(".seada-place")];
      return places.length === 2 && places.every((place) => place.textContent === text);
    }, settings.photos[first].join(" × "), WAIT);
    const box = await page.locator(".seada-photo").nth(1).boundingBox();
    await page.mouse.click(box.x + box.width * 0.45, box.y + box.height / 2);
    await page.waitForTimeout(300);
    seen.hints = await page.evaluate(() =>
      window.app.graph.nodes
        .filter((node) => node.type === "SeAdaHints")
        .map((node) => JSON.parse(node.widgets.find((widget) => widget.name === "points").value).length),
    );
  });

  const measure = () =>
    page.evaluate(() => {
      const painter = document.querySelector(".seada-painter");
      const box = (element) => {
        const { x, y, width, height } = element.getBoundingClientRect();
        return [x, y, x + width, y + height].map(Math.round);
      };
      return { painter: box(painter), photo: box(painter.querySelector(".seada-photo")), status: box(painter.querySelector(".seada-status")) };
    });

  await scene("sizes", async (seen) => {
    await choose(first);
    await sized(settings.photos[first]);
    seen.boxes = [];
    for (const wanted of [[520, 580], [300, 400], [260, 460], [900, 420], [340, 800]]) {
      await page.evaluate((given) => {
        const node = window.app.graph.nodes.find((one) => one.type === "SeAdaHints");
        node.setSize(given);
        window.app.canvas.setDirty(true, true);
      }, wanted);
      await page.waitForTimeout(700);
      seen.boxes.push({ wanted, ...(await measure()) });
      await picture(`size-${wanted.join("x")}`);
    }
  });

  await scene("app mode", async (seen) => {
    if (!report.vue) return;
    const graph = structuredClone(workflow);
    const id = (type) => graph.nodes.find((node) => node.type === type).id;
    graph.extra = {
      linearMode: true,
      linearData: {
        inputs: [[id("SeAdaLoadPhoto"), "image"], [id("SeAdaHints"), "painter"], [id("SeAdaColorize"), "prompt"]],
        outputs: [id("SeAdaSavePhoto")],
      },
    };
    await page.evaluate((data) => window.app.loadGraphData(data), graph);
    await page.locator(".seada-photo").waitFor(WAIT);
    await page.waitForTimeout(1000);
    await page.keyboard.press("Escape"); // a welcome
    await choose(first);
    Object.assign(seen, { shown: await sized(settings.photos[first]), ...(await measure()) });
    const before = await text();
    await click(0.5);
    seen.painted = [before, await text()];
    await picture("app");
    await page.evaluate(() => window.app.extensionManager.command.execute("Comfy.ToggleLinear"));
    await page.waitForTimeout(1500);
    await look();
    await page.locator(".seada-photo").waitFor(WAIT);
    seen.back = await both();
  });

  await scene("reload", async (seen) => {
    await choose(first);
    await sized(settings.photos[first]);
    await click(0.45);
    await between("SeAdaColorize");
    const before = await history();
    await page.waitForTimeout(1000); // until ComfyUI has noticed the change
    const asked = page.waitForResponse(/seada\/run$/);
    await page.getByRole("button", { name: "Show the photo" }).click(WAIT);
    await asked;
    await opened(page, url); // the same page once more, in the middle of the run
    while (Object.values(await get("/queue")).some((items) => items.length)) await page.waitForTimeout(100);
    await page.waitForTimeout(400);
    seen.queued = (await history()).length - before.length;
    await look();
    await page.locator(".seada-photo").waitFor(WAIT);
    await page.waitForTimeout(600);
    seen.hints = await both();
    report.errors.length = 0; // the page's own while it was left
  });
});
