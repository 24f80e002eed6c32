// Opens a template through the page's dialog and presses Run, as a newcomer does. Usage: node newcomer.cjs BROWSER URL SETTINGS,
// where SETTINGS is JSON: {pack: its name in the dialog, template, vue: Nodes 2.0 or not, size: of thumbnails}. Prints JSON: {nodes: types,
// thumbnails: how many are shown, saved: ComfyUI's description of the file, errors}.
const { open } = require("./page.cjs");

const [browser, url, given] = process.argv.slice(2);
const { pack, template, vue, size } = JSON.parse(given);
const WAIT = { timeout: 20000 };

open(browser, url, { vue }, async (page, report) => {
  await page.evaluate(() => window.app.extensionManager.command.execute("Comfy.BrowseTemplates"));
  await page.getByText(pack).first().click(WAIT);
  const card = page.getByText(template).first();
  await card.waitFor(WAIT);
  await page.waitForTimeout(2000);
  const isOurs = (image) => image.naturalWidth === size[0] && image.naturalHeight === size[1]; // its address may be a blob's
  const sizes = await page.evaluate(() => [...document.images].map(({ naturalWidth, naturalHeight }) => ({ naturalWidth, naturalHeight })));
  report.thumbnails = sizes.filter(isOurs).length;
  await card.click();
  await page.waitForFunction(() => window.app.graph.nodes.some((node) => node.type === "SeAdaSavePhoto"), null, WAIT);
  report.nodes = await page.evaluate(() => window.app.graph.nodes.map((node) => node.type));
  await page.waitForTimeout(1000);
  const saved = page.evaluate(async () => {
    const { api } = await import("/scripts/api.js");
    const save = window.app.graph.nodes.find((node) => node.type === "SeAdaSavePhoto");
    return new Promise((resolve) => {
      api.addEventListener("executed", ({ detail }) => detail.node === String(save.id) && resolve(detail.output.images[0]));
    });
  });
  await page.getByRole("button", { name: /^Run/ }).first().click(WAIT);
  report.saved = await saved;
});
