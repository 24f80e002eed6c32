// Opens an evaluation's page. Usage: node report.cjs CHROMIUM URL. Prints JSON: what it asked for, and what it shows.
const { chromium } = require("playwright-core");

const [executablePath, url] = process.argv.slice(2);

(async () => {
  const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
  const page = await browser.newPage();
  const requests = [];
  const errors = [];
  page.on("request", (request) => {
    if (request.url() !== url && !request.url().startsWith("data:")) requests.push(request.url());
  });
  page.on("pageerror", (error) => errors.push(String(error)));
  page.on("console", (message) => message.type() === "error" && errors.push(message.text()));
  await page.goto(url);
  await page.waitForTimeout(300);
  const seen = await page.evaluate(() => {
    const texts = (selector) => [...document.querySelectorAll(selector)].map((element) => element.textContent);
    const images = [...document.querySelectorAll("img")];
    const tables = document.querySelectorAll("table");
    const half = [...tables[0].rows].find((row) => row.cells[0].textContent.startsWith("PSNR (RGB"));
    const worst = [];
    for (let e = document.querySelector("h2").nextElementSibling; e.className === "case"; e = e.nextElementSibling)
      worst.push(e.querySelectorAll("figcaption")[1].textContent.match(/([\d.]+) dB/)[1]);
    return {
      pwned: "pwned" in window,
      pictures: images.length,
      broken: images.filter((image) => !image.complete || !image.naturalWidth).length,
      names: texts(".case .name"),
      titles: texts("h2"),
      classes: [...tables[1].rows].map((row) => row.cells[0].textContent),
      lines: document.querySelectorAll("polyline").length,
      psnr: half.cells[2].textContent,
      worst,
    };
  });
  const report = { requests: [...requests], errors: [...errors], ...seen };
  report.shut = await page.evaluate(async () => {
    const script = document.createElement("script");
    script.textContent = "window.ran = 1";
    document.body.append(script);
    document.body.insertAdjacentHTML("beforeend", '<img src="data:," onerror="window.ran = 1">');
    await new Promise((resolve) => setTimeout(resolve, 300));
    return !("ran" in window);
  });
  console.log(JSON.stringify(report));
  await browser.close();
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
