// Opens ComfyUI's page in a browser.
const { chromium, firefox } = require("playwright-core");

const OWN = /cleanup event listeners for graph that was never set up/; // frontend 1.27's, about its subgraphs
const NODES_2 = 33; // the minor version of the frontend from which Nodes 2.0 is for users

/** Opens or reloads the page at `url`, and waits until it is ready. */
exports.opened = async (page, url) => {
  await page.goto(url, { timeout: 240000 });
  await page.waitForFunction(() => window.app?.graph && window.app.extensionManager, null, { timeout: 240000 });
  await page.waitForTimeout(3000);
};

/** Opens the page at `url`, lets `act(page, report, context)` fill `report`, and prints it as JSON with `errors`: the
 * page's since it was ready. `vue`: whether nodes are drawn by Nodes 2.0, where the page has it. */
exports.open = async (executablePath, url, { vue = false, viewport = { width: 1400, height: 950 }, ...options }, act) => {
  const isFirefox = /firefox/.test(executablePath);
  try {
    const browser = await (isFirefox
      ? firefox.launch({ executablePath, channel: "moz-firefox" })
      : chromium.launch({ executablePath, args: ["--no-sandbox"] }));
    // Firefox's protocol cannot set these
    const plain = isFirefox ? { colorScheme: null, reducedMotion: null, forcedColors: null, contrast: null } : {};
    const context = await browser.newContext({ viewport, ...plain, ...options });
    const page = await context.newPage();
    const report = { errors: [] };
    page.on("pageerror", (error) => report.errors.push(`${error} ${error.stack}`));
    // old ways of ours that ComfyUI warns about count as errors
    const isFault = (message) =>
      (message.type() === "error" && !OWN.test(message.text())) || /checkState\(\) is deprecated/.test(message.text());
    page.on("console", (message) => isFault(message) && report.errors.push(`${message.text()} ${message.location().url}`));
    await exports.opened(page, url);
    const minor = await page.evaluate(() => Number(window.__COMFYUI_FRONTEND_VERSION__?.split(".")[1]));
    const wanted = vue && !(minor < NODES_2); // before, it was an experiment without widgets such as the painter
    await page.evaluate((given) => window.app.extensionManager.setting.set("Comfy.VueNodes.Enabled", given), wanted);
    report.errors.length = 0; // the page's own, before anything of ours
    await act(page, report, context);
    console.log(JSON.stringify(report));
    await browser.close();
  } catch (error) {
    console.error(error);
    process.exit(1);
  }
};
