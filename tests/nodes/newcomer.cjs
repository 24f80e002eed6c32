// Opens a template through the page's dialog and presses Run, as a newcomer does. Usage: node newcomer.cjs BROWSER URL SETTINGS,
// where SETTINGS is JSON: {pack: its name in the dialog, template, vue: Nodes 2.0 or not}. Prints JSON: {nodes: types, thumbnails:
// whether each of the pack's that are in sight is there, saved: ComfyUI's description of the file, errors}.
const { open } = require("./page.cjs");

const [browser, url, given] = process.argv.slice(2);
const { pack, template, vue } = JSON.parse(given);
const WAIT = { timeout: 20000 };

open(browser, url, { vue }, async (page, report) => {
  await page.evaluate(() => window.app.extensionManager.command.execute("Comfy.BrowseTemplates"));
  await page.getByText(pack).first().click(WAIT);
  const card = page.getByText(template).first();
  await card.waitFor(WAIT);
  await page.waitForTimeout(2000);
  report.thumbnails = await page.evaluate(() =>
    [...document.querySelectorAll('img[src*="workflow_templates"]')].filter((image) => image.complete).map((image) => image.naturalWidth > 0),
  );
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
