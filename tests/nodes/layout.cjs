// Measures workflows in ComfyUI's page. Usage: node layout.cjs BROWSER URL SETTINGS, where SETTINGS is JSON: {vue: Nodes 2.0
// or not, folder: for screenshots or null, workflows: [file, ...]}. Prints JSON: {workflows: {name: {nodes: {id: [x, y,
// width, height]}, groups: [[title, x, y, width, height], ...]}}}, with titles of nodes, as the page shows them.
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
});
