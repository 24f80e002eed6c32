// Measures workflows in ComfyUI's page. Usage: node layout.cjs BROWSER URL SETTINGS, where SETTINGS is JSON: {vue: Nodes 2.0
// or not, folder: for screenshots or null, workflows: [file, ...]}. Prints JSON: {workflows: {name: {nodes: {id: [x, y,
// width, height]}, groups: [[title, x, y, width, height], ...]}}}, with titles of nodes, as the page shows them; and what it shows
// in new nodes: `automatic`, `sent` (the values) and `chosen` (after steps and prompt have values).
const fs = require("fs");
const path = require("path");
const { open } = require("./page.cjs");

const [browser, url, given] = process.argv.slice(2);
const settings = JSON.parse(given);
const SCALE = 0.75;

open(browser, url, { vue: settings.vue, viewport: { width: 2600, height: 1700 } }, async (page, report) => {
  report.workflows = {};
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
    if (settings.folder) await page.screenshot({ path: path.join(settings.folder, `${name}-${settings.vue ? "vue" : "classic"}.png`) });
  }
  await page.evaluate(() => {
    const { app, LiteGraph } = window;
    app.graph.clear();
    ["SeAdaColorize", "SeAdaLoadFolder", "SeAdaPaletteBank"].forEach((type, k) => {
      const node = LiteGraph.createNode(type);
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
