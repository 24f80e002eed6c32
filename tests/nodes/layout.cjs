// Measures workflows in ComfyUI's page. Usage: node layout.cjs BROWSER URL SETTINGS, where SETTINGS is JSON: {vue: Nodes 2.0
// or not, folder: for screenshots or null, workflows: [file, ...]}. Prints JSON: {workflows: {name: {nodes: {id: [x, y,
// width, height]}, groups: [[title, x, y, width, height], ...], behind: [[source, target, node], ...]}}}, as the page shows
// them: nodes with their titles, and links that run behind other nodes than their own; and what it shows in new nodes:
// `automatic`, `sent` (the values) and `chosen` (after steps and prompt have values).
const fs = require("fs");
const path = require("path");
const { open } = require("./page.cjs");

const [browser, url, given] = process.argv.slice(2);
const settings = JSON.parse(given);
const SCALE = 0.75;

open(browser, url, { vue: settings.vue, viewport: { width: 2600, height: 1700 } }, async (page, report) => {
  report.workflows = {};
  /** [source, target, node] for each link that is drawn behind a node, whose box is in `boxes`, which it does not end at. */
  const behind = async (boxes) => {
    await page.evaluate((given) => {
      const { canvas } = window.app; // only links that are in sight have a path
      const edges = Object.values(given).map(([x, y, width, height]) => [x, y, x + width, y + height]);
      const [left, top] = [0, 1].map((k) => Math.min(...edges.map((edge) => edge[k])));
      const [right, bottom] = [2, 3].map((k) => Math.max(...edges.map((edge) => edge[k])));
      canvas.ds.scale = Math.min(2300 / (right - left), 1400 / (bottom - top), 0.75);
      canvas.ds.offset = [130 / canvas.ds.scale - left, 150 / canvas.ds.scale - top];
      canvas.setDirty(true, true);
    }, boxes);
    await page.waitForTimeout(500);
    return page.evaluate((given) => {
      const { graph } = window.app;
      const found = [];
      const sheet = new OffscreenCanvas(1, 1).getContext("2d");
      for (const link of (graph.links.values?.() ?? Object.values(graph.links))) {
        const parts = [link];
        for (let id = link.parentId; id !== undefined; ) {
          parts.push(graph.reroutes.get(id));
          id = parts.at(-1).parentId;
        }
        if (parts.some((part) => !part.path)) throw new Error(`link ${link.id} is not drawn`);
        for (const [id, [x, y, width, height]] of Object.entries(given)) {
          if ([link.origin_id, link.target_id].map(String).includes(id)) continue;
          [sheet.canvas.width, sheet.canvas.height] = [width, height]; // clears it
          sheet.translate(-x, -y);
          sheet.lineWidth = 2;
          for (const part of parts) sheet.stroke(part.path);
          const pixels = sheet.getImageData(6, 6, width - 12, height - 12).data;
          if (pixels.some((value) => value)) found.push([link.origin_id, link.target_id, id].map(String));
        }
      }
      return found;
    }, boxes);
  };
  report.vue = await page.evaluate(() => window.LiteGraph.vueNodesMode === true);
  for (const file of settings.workflows) {
    const name = path.basename(file, ".json");
    await page.evaluate((graph) => window.app.loadGraphData(graph), JSON.parse(fs.readFileSync(file, "utf8")));
    await page.evaluate((scale) => {
      const { ds } = window.app.canvas;
      const { nodes } = window.app.graph;
      const least = (k) => Math.min(...nodes.map((node) => node.pos[k]));
      ds.scale = scale;
      ds.offset = [110 - least(0), 150 - least(1)];
      window.app.canvas.setDirty(true, true);
    }, SCALE);
    await page.waitForTimeout(1800);
    report.workflows[name] = await page.evaluate(() => {
      const { graph, canvas } = window.app;
      const { scale, offset } = canvas.ds;
      const corner = canvas.canvas.getBoundingClientRect();
      const nodes = {};
      for (const node of graph.nodes) {
        const element = document.querySelector(`.lg-node[data-node-id="${node.id}"]`);
        let box = [...node.boundingRect];
        if (element) {
          const { x, y, width, height } = element.getBoundingClientRect();
          box = [(x - corner.x) / scale - offset[0], (y - corner.y) / scale - offset[1], width / scale, height / scale];
        }
        nodes[node.id] = box.map(Math.round);
      }
      const groups = (graph.groups ?? graph._groups).map((group) => [group.title, ...group.pos, ...group.size].map((n) => n));
      return { nodes, groups };
    });
    report.workflows[name].behind = await behind(report.workflows[name].nodes);
    if (settings.folder) await page.screenshot({ path: path.join(settings.folder, `${name}-${settings.vue ? "vue" : "classic"}.png`) });
  }
  await page.evaluate(() => {
    const { app, LiteGraph } = window;
    app.graph.clear();
    ["SeAdaColorize", "SeAdaLoadFolder", "SeAdaPaletteBank"].forEach((type, k) => {
      const node = LiteGraph.createNode(type);
      node.id = 1000 + k; // frontend 1.49 hands on the values of widgets that nodes of the same numbers had before
      node.pos = [500 * k, 0];
      app.graph.add(node);
    });
    app.canvas.ds.offset = [150, 150];
  });
  await page.waitForTimeout(1500);
  const shown = () =>
    page.evaluate(() =>
      Object.fromEntries(
        window.app.graph.nodes.map((node) => [
          node.type,
          Object.fromEntries(
            node.widgets.map((widget) => {
              if (widget.element) {
                const text = document.querySelector(`[node-type="${node.type}"] textarea`) ?? widget.element;
                return [widget.name, text.value || text.placeholder];
              }
              const field = document.querySelector(`[node-type="${node.type}"] [aria-label="${widget.name}"]`);
              const input = field?.querySelector("input") ?? field;
              if (!input?.matches("input")) return [widget.name, String(widget._displayValue)]; // what the canvas draws
              const cover = getComputedStyle(input.parentNode, "::after").content.replaceAll('"', "");
              return [widget.name, (cover === "none" ? "" : cover) || input.value || input.placeholder];
            }),
          ),
        ]),
      ),
    );
  report.automatic = await shown();
  report.sent = (await page.evaluate(() => window.app.graphToPrompt())).output;
  await page.evaluate(() => {
    const { widgets } = window.app.graph.nodes[0];
    for (const [name, value] of [["steps", 3], ["prompt", "a boat"]]) {
      const widget = widgets.find((one) => one.name === name);
      widget.value = value;
      widget.callback?.(value);
    }
    window.app.canvas.setDirty(true, true);
  });
  await page.waitForTimeout(500);
  report.chosen = await shown();
});
