// Takes the pictures of docs/first-steps.md in a fresh ComfyUI that has only this pack. Usage, with playwright-core:
// node docs/figures/first_steps.cjs BROWSER URL docs/first-steps
const path = require("path");
const { chromium } = require("playwright-core");

const [executablePath, url, folder] = process.argv.slice(2);
const FIRST = "seada-1-start-here";

(async () => {
  const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
  const page = await browser.newPage({ viewport: { width: 1400, height: 900 } });
  const shoot = (name) => page.screenshot({ path: path.join(folder, `${name}.jpg`), type: "jpeg", quality: 82 });
  const command = (id) => page.evaluate((name) => window.app.extensionManager.command.execute(name), id);
  await page.goto(url, { timeout: 240000 });
  await page.waitForFunction(() => window.app?.graph && window.app.extensionManager, null, { timeout: 240000 });
  await page.waitForTimeout(4000);
  await page.keyboard.press("Escape"); // the templates, which a fresh ComfyUI opens by itself
  await page.waitForTimeout(1000);

  await command("Workspace.ToggleSidebarTab.node-library");
  await page.waitForTimeout(1000);
  await page.locator('input[placeholder*="search" i]').first().fill("SeAda");
  await page.waitForTimeout(2500);
  await shoot("1-installed");
  await command("Workspace.ToggleSidebarTab.node-library");

  await command("Comfy.BrowseTemplates");
  await page.waitForTimeout(2500);
  await page.getByText("ComfyUI-SeAda").first().click();
  await page.waitForTimeout(2500);
  await page.getByText(FIRST).first().scrollIntoViewIfNeeded();
  await page.waitForTimeout(500);
  await shoot("2-templates");

  await page.getByText(FIRST).first().click();
  await page.waitForFunction(() => window.app.graph.nodes.some((node) => node.type === "SeAdaColorize"));
  await page.waitForTimeout(2000);
  await command("Comfy.Canvas.FitView");
  await page.waitForTimeout(2500);
  await shoot("3-picked");

  const done = page.evaluate(async () => {
    const { api } = await import("/scripts/api.js");
    await new Promise((resolve) => api.addEventListener("execution_success", resolve));
  });
  await page.getByRole("button", { name: "Run", exact: true }).first().click();
  await page.waitForTimeout(1200);
  await shoot("4-run");
  await done;
  await page.waitForTimeout(3000);
  await shoot("5-result");
  await browser.close();
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
