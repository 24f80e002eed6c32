// Takes docs/nodes.jpg and docs/painter.jpg in ComfyUI's page. Usage, with playwright-core:
// node docs/figures/pages.cjs BROWSER URL
const fs = require("fs");
const path = require("path");
const { chromium } = require("playwright-core");

const [executablePath, url] = process.argv.slice(2);
const ROOT = path.resolve(__dirname, "../..");
const HINTS = [
  { x: 130, y: 215, color: "#2f6fb0", radius: 10 },
  { x: 440, y: 215, color: "#2f6fb0", radius: 10 }, // between the brown ones, on the same saucer
  { points: [[300, 130], [340, 150], [370, 165]], color: "#7a5238", radius: 8 },
  { x: 60, y: 60, color: "#a8763c", radius: 10 },
  { x: 520, y: 330, color: "#a8763c", radius: 10 },
  { x: 400, y: 25, color: "#a8763c", radius: 10 },
  { x: 40, y: 340, color: "#a8763c", radius: 10 },
];

(async () => {
  const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
  const page = await browser.newPage({ viewport: { width: 3200, height: 1200 } });
  await page.goto(url, { timeout: 240000 });
  await page.waitForFunction(() => window.app?.graph && window.app.extensionManager, null, { timeout: 240000 });
  await page.waitForTimeout(4000);
  await page.keyboard.press("Escape");
  await page.evaluate(() => window.app.extensionManager.setting.set("Comfy.VueNodes.Enabled", true));
  await page.evaluate(() => window.app.extensionManager.setting.set("Comfy.Minimap.Visible", false));

  /** Shows a workflow, and gives a node's box on the screen, or the whole workflow's. */
  const show = async (name, change, scale, top) => {
    const workflow = JSON.parse(fs.readFileSync(path.join(ROOT, "workflows", `${name}.json`), "utf8"));
    change(workflow);
    await page.evaluate((graph) => window.app.loadGraphData(graph), workflow);
    await page.evaluate(([zoom, y]) => {
      const { ds } = window.app.canvas;
      ds.scale = zoom;
      ds.offset = [100 / zoom, y];
      window.app.canvas.setDirty(true, true);
    }, [scale, top]);
    await page.waitForTimeout(3500);
    return page.evaluate(() => {
      const { graph, canvas } = window.app;
      const { scale, offset } = canvas.ds;
      const boxes = [...graph.nodes.map((node) => node.boundingRect), ...graph.groups.map((group) => [...group.pos, ...group.size])];
      const edge = (k, side) => (side ? Math.max : Math.min)(...boxes.map((box) => box[k] + side * box[k + 2]));
      const at = (x, k) => (x + offset[k]) * scale;
      const [left, top] = [at(edge(0, 0), 0) - 12, at(edge(1, 0), 1) - 12];
      return { x: left, y: top, width: at(edge(0, 1), 0) + 12 - left, height: at(edge(1, 1), 1) + 12 - top };
    });
  };
  const shoot = (name, clip) => page.screenshot({ path: path.join(ROOT, "docs", `${name}.jpg`), type: "jpeg", quality: 85, clip });

  const whole = await show("seada-full-graph", (graph) => graph.nodes.splice(-1), 1, 330);
  await page.setViewportSize({ width: 3200, height: Math.ceil(whole.y + whole.height) + 120 }); // without the page's bar
  await page.evaluate(async () => {
    const { api } = await import("/scripts/api.js");
    const done = new Promise((resolve) => api.addEventListener("execution_success", resolve));
    await window.app.queuePrompt(0);
    await done;
  });
  await page.waitForTimeout(12000); // until its message has gone
  await shoot("nodes", whole);
  const edit = (graph) => {
    graph.nodes.find((node) => node.type === "SeAdaHints").widgets_values[0] = JSON.stringify(HINTS);
  };
  await show("seada-hints-in-one-node", edit, 1.4, 20);
  await page.mouse.move(2700, 1100);
  const box = await page.locator(".lg-node:has(.seada-host)").boundingBox();
  await shoot("painter", { x: box.x - 10, y: box.y - 10, width: box.width + 20, height: box.height + 20 });
  await browser.close();
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
