// Loads workflows in ComfyUI's own page, and queues one. Usage: node frontend.cjs CHROMIUM URL QUEUE WORKFLOW...
// Prints JSON: for each workflow the nodes that the page does not know, then errors, then the coloured picture's size.
const fs = require("fs");
const path = require("path");
const { chromium } = require("playwright-core");

const [executablePath, url, queue, ...workflows] = process.argv.slice(2);

(async () => {
  const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
  const page = await browser.newPage();
  const errors = [];
  page.on("pageerror", (error) => errors.push(String(error)));
  page.on("console", (message) => message.type() === "error" && errors.push(message.text()));
  await page.goto(url, { timeout: 240000 });
  await page.waitForFunction(() => window.app?.graph && window.app.extensionManager, null, { timeout: 240000 });
  await page.waitForTimeout(3000);
  errors.length = 0; // the page's own, before anything of ours

  const report = { unknown: {}, errors, picture: null };
  const load = async (file) => {
    const workflow = JSON.parse(fs.readFileSync(file, "utf8"));
    await page.evaluate((graph) => window.app.loadGraphData(graph), workflow);
    await page.waitForTimeout(1000);
    const alerts = await page.evaluate(() =>
      [...document.querySelectorAll(".p-toast-message-text")].map((toast) => toast.textContent)
    );
    errors.push(...alerts);
  };
  for (const file of workflows) {
    const before = errors.length;
    await load(file);
    // the page looks for the sizes of model files on the net, and says what is missing
    if (path.basename(file).startsWith("seada-edit")) errors.length = before;
    report.unknown[path.basename(file)] = await page.evaluate(() =>
      window.app.graph.nodes.filter((node) => node.has_errors || !window.LiteGraph.registered_node_types[node.type])
        .map((node) => node.type)
    );
  }
  await load(queue);
  await page.evaluate(() => window.app.queuePrompt(0));
  const picture = await page.waitForFunction(
    () => window.app.graph.nodes.find((node) => node.type === "SeAdaSavePhoto")?.imgs?.[0],
    null,
    { timeout: 240000 }
  );
  report.picture = await picture.evaluate((image) => [image.naturalWidth, image.naturalHeight]);
  console.log(JSON.stringify(report));
  await browser.close();
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
