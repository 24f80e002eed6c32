// Takes all workflows in both renderers of ComfyUI's page, and draws docs/figures/templates-classic.jpg and -nodes2.jpg, a
// contact sheet of each. Usage, with playwright-core: node docs/figures/templates.cjs BROWSER URL FOLDER, where FOLDER gets a
// whole picture of each workflow to look at.
const fs = require("fs");
const path = require("path");
const { chromium } = require("playwright-core");

const [executablePath, url, folder] = process.argv.slice(2);
const WORKFLOWS = path.resolve(__dirname, "../../workflows");
const RENDERERS = { classic: false, nodes2: true };
const SCALE = 0.75;
const [LEFT, TOP, REST] = [110, 130, 460]; // px: the page's own bars and messages
const [WIDTH, COLUMNS, QUALITY] = [800, 2, 72]; // of the sheets

const names = fs.readdirSync(WORKFLOWS).filter((name) => name.endsWith(".json")).map((name) => name.slice(0, -5)).sort();

async function shoot(page, name, file) {
  const workflow = JSON.parse(fs.readFileSync(path.join(WORKFLOWS, `${name}.json`), "utf8"));
  const boxes = [...workflow.nodes.map(({ pos, size }) => [...pos, ...size]), ...workflow.groups.map((group) => group.bounding)];
  const edge = (k, side) => (side ? Math.max : Math.min)(...boxes.map((box) => box[k] + side * box[k + 2]));
  const [x, y] = [edge(0, 0) - 20, edge(1, 0) - 50]; // with titles
  const [width, height] = [(edge(0, 1) + 20 - x) * SCALE, (edge(1, 1) + 20 - y) * SCALE].map(Math.ceil);
  await page.setViewportSize({ width: LEFT + width + REST, height: TOP + height + 160 });
  await page.evaluate(async ([graph, scale, offset]) => {
    await window.app.loadGraphData(graph);
    Object.assign(window.app.canvas.ds, { scale, offset });
    window.app.canvas.setDirty(true, true);
  }, [workflow, SCALE, [LEFT / SCALE - x, TOP / SCALE - y]]);
  await page.waitForTimeout(4000); // for the photos
  await page.mouse.move(LEFT + width + 60, TOP + height + 60);
  await page.screenshot({ path: file, clip: { x: LEFT, y: TOP, width, height } });
}

(async () => {
  const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
  for (const [renderer, vue] of Object.entries(RENDERERS)) {
    const page = await browser.newPage();
    await page.goto(url, { timeout: 240000 });
    await page.waitForFunction(() => window.app?.graph && window.app.extensionManager, null, { timeout: 240000 });
    await page.waitForTimeout(4000);
    await page.keyboard.press("Escape");
    const settings = {
      "Comfy.VueNodes.Enabled": vue,
      "Comfy.Minimap.Visible": false,
      "Comfy.Workflow.ShowMissingModelsWarning": false,
    };
    await page.evaluate(async (given) => {
      for (const [id, value] of Object.entries(given)) await window.app.extensionManager.setting.set(id, value);
    }, settings);
    const figures = [];
    for (const name of names) {
      const file = path.join(folder, `${name}-${renderer}.png`);
      await shoot(page, name, file);
      const picture = fs.readFileSync(file).toString("base64");
      figures.push(`<figure><img src="data:image/png;base64,${picture}"><figcaption>${name}</figcaption></figure>`);
    }
    const style = `body { margin: 0; background: #181818; color: #ddd; font: 14px sans-serif; columns: ${COLUMNS}; column-gap: 8px }
      figure { margin: 0 0 8px; break-inside: avoid } img { width: ${WIDTH}px; display: block } figcaption { padding: 2px 4px }`;
    const sheet = await browser.newPage({ viewport: { width: WIDTH * COLUMNS + 8 * (COLUMNS - 1), height: 100 } });
    await sheet.setContent(`<!doctype html><style>${style}</style>${figures.join("")}`);
    await sheet.screenshot({ path: path.join(__dirname, `templates-${renderer}.jpg`), type: "jpeg", quality: QUALITY, fullPage: true });
    await page.close();
    await sheet.close();
  }
  await browser.close();
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
