// Uses subgraph blueprints in ComfyUI's page. Usage: node subgraphs.cjs BROWSER URL [{"name": .., "data": ..}, ...]. Prints
// JSON: for each name the prompt that the page queues when the blueprint stands between a photo and Save Photo.
const { open } = require("./page.cjs");

const [browser, url, given] = process.argv.slice(2);

open(browser, url, {}, async (page, report) => {
  for (const { name, data } of JSON.parse(given)) {
    await page.evaluate((graph) => window.app.loadGraphData(graph), JSON.parse(data));
    await page.waitForTimeout(1000);
    report[name] = await page.evaluate(async () => {
      const { app, LiteGraph } = window;
      const [node] = app.graph.nodes;
      const add = (type) => app.graph.add(LiteGraph.createNode(type)) ?? app.graph.nodes.at(-1);
      const [photo, save] = [add("SeAdaLoadPhoto"), add("SeAdaSavePhoto")];
      node.inputs.forEach((input, slot) => input.type === "IMAGE" && photo.connect(0, node, slot));
      node.connect(0, save, 0);
      const shown = (node.widgets ?? []).map((widget) => widget.name);
      return { shown, prompt: (await app.graphToPrompt()).output };
    });
  }
});
