// Plays a film of the server in a browser: node playing.cjs EXECUTABLE SERVER PATH. Prints what the <video> element
// says of it, and the mean difference between red and blue of the frame that it shows.
const { chromium } = require("playwright-core");

const [executablePath, server, path] = process.argv.slice(2);

(async () => {
  const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
  const page = await browser.newPage();
  await page.goto(`${server}/system_stats`); // a small page of the server's own, whose pixels a canvas may read
  const report = await page.evaluate(async (source) => {
    const video = document.createElement("video");
    Object.assign(video, { muted: true, src: source });
    document.body.replaceChildren(video);
    await video.play(); // rejects where the film cannot be decoded
    const begun = video.currentTime;
    await new Promise((resolve) => setTimeout(resolve, 1500));
    const played = video.currentTime - begun;
    const canvas = Object.assign(document.createElement("canvas"), { width: 64, height: 48 });
    const context = canvas.getContext("2d");
    context.drawImage(video, 0, 0, 64, 48);
    const { data } = context.getImageData(0, 0, 64, 48);
    let color = 0;
    for (let i = 0; i < data.length; i += 4) color += Math.abs(data[i] - data[i + 2]) / (64 * 48);
    const { videoWidth: width, videoHeight: height, duration } = video;
    return { width, height, duration, played, color, frames: video.getVideoPlaybackQuality().totalVideoFrames };
  }, `${server}${path}`);
  console.log(JSON.stringify(report));
  await browser.close();
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
