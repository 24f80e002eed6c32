// Finds the photo of a node's `image` input: the file that is loaded there, the picture of the last run, or else what
// the server says when it runs the nodes before.

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { fingerprint, originOf, placeOf, upstreamOf } from "./source.js";
import { t } from "./texts.js";

const LOADERS = ["LoadImage", "LoadImageMask", "LoadImageOutput", "SeAdaLoadPhoto"];
const QUICK = /^(image|mask|utils)/; // categories of ComfyUI's own nodes that take no time worth asking for
const POLL_MS = 400;

const CONNECT = "Connect a photo to “image”, then paint on it.";
const UNKNOWN = "This photo comes from other nodes.";
const LOADING = "Loading the photo…";

const view = (filename, subfolder, type) => api.apiURL(`/view?${new URLSearchParams({ filename, subfolder, type })}`);
const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** The URL of "folder/name.png [input]". */
function fileUrl(value) {
  const [, path, type = "input"] = /^(.*?)(?: \[(input|output|temp)\])?$/s.exec(value);
  const cut = path.lastIndexOf("/") + 1;
  return view(path.slice(cut), path.slice(0, Math.max(0, cut - 1)), type);
}

/** The URL of the file that a loader shows; null for other nodes. */
function loadedFile({ node, hosts }) {
  // in a subgraph, another widget outside may have the value that counts
  if (hosts.length || !LOADERS.includes(node.comfyClass)) return null;
  const { value } = node.widgets?.find((widget) => widget.name === "image") ?? {};
  return typeof value === "string" && value ? fileUrl(value) : null;
}

function isQuick({ node }) {
  const { category = "", python_module: module = "", api_node: paid } = node.constructor.nodeData ?? {};
  return LOADERS.includes(node.comfyClass) || (!paid && QUICK.test(category) && /^(nodes$|comfy_extras\.)/.test(module));
}

/** Follows the photo of `node`; `look()` is called regularly. */
export class PhotoSource {
  node = null;
  #show;
  #state = null; // what was shown last
  #answer = null; // {place, key, url, width, height} of the last picture that a run gave
  #unreadable = new Set(); // URLs of files that the browser cannot show, such as TIFF
  #seen = null; // the address of the picture on the node before
  #asked = null; // the fingerprint that the server was last asked for
  #error = null;
  #busy = false;

  /** show({url, width, height, message, action}) is called when any of these changes. `url` is the photo's, or null;
   * width and height are known for some. `message` says why there is none, or that it is not the newest; then
   * `action` is the name of what `ask()` does, or null. */
  constructor(show) {
    this.#show = show;
  }

  get #origin() {
    const { inputs = [] } = this.node;
    return originOf(this.node, inputs.findIndex((input) => input.name === "image"));
  }

  look() {
    const state = this.#find();
    if (JSON.stringify(state) === JSON.stringify(this.#state)) return;
    this.#state = state;
    this.#show(state);
  }

  #find() {
    const origin = this.#origin;
    const nothing = { url: null, message: null, action: null };
    if (!origin) return { ...nothing, message: t(CONNECT) };
    const file = loadedFile(origin);
    if (file && !this.#unreadable.has(file)) return { ...nothing, url: file };
    const [place, key] = [placeOf(origin), fingerprint(origin)];
    const { naturalWidth, src } = origin.node.imgs?.[0] ?? {}; // on the node itself
    if (naturalWidth && src !== this.#seen && !src.startsWith("blob:") && !file) this.#answer = { place, key, url: src };
    this.#seen = src;
    if (this.#asked !== key) this.#error = null;
    const answer = this.#answer?.place === place ? this.#answer : null;
    if (answer?.key === key) return { ...nothing, ...answer };
    if (this.#asked !== key && !this.#busy && upstreamOf(origin).every(isQuick)) this.ask();
    const state = answer ? { ...nothing, ...answer } : nothing;
    if (this.#busy) return { ...state, message: t(LOADING) };
    if (this.#error) return { ...state, message: this.#error, action: t("Try again") };
    return answer
      ? { ...state, message: t("The nodes before have changed."), action: t("Update the photo") }
      : { ...state, message: t(UNKNOWN), action: t("Show the photo") };
  }

  /** Forgets what earlier runs gave. */
  forget() {
    [this.#answer, this.#asked, this.#error] = [null, null, null];
  }

  /** Called when the photo at `url` cannot be shown. */
  failed(url) {
    this.#unreadable.add(url);
    if (this.#answer?.url === url) this.#answer = null;
    this.look();
  }

  /** Called with the photo that a run of the workflow sent: {filename, subfolder, type, width, height}. */
  ran({ filename, subfolder, type, width, height }) {
    const origin = this.#origin;
    if (!origin) return;
    const url = view(filename, subfolder, type);
    this.#answer = { place: placeOf(origin), key: fingerprint(origin), url, width, height };
    this.look();
  }

  /** Runs the nodes before, and only those, on the server. */
  async ask() {
    const origin = this.#origin;
    if (this.#busy || !origin) return;
    const [place, key] = [placeOf(origin), fingerprint(origin)];
    [this.#busy, this.#asked, this.#error] = [true, key, null];
    try {
      this.#answer = { place, key, url: await pictureOf(this.node) };
    } catch (error) {
      this.#error = error.message;
    }
    this.#busy = false;
    if (this.node.graph) this.look();
  }
}

/** The URL of the first picture that reaches `node`, made by the server. Throws a readable Error. */
async function pictureOf(node) {
  const { output } = await app.graphToPrompt();
  const isNode = (id) => id.split(":").at(-1) === String(node.id) && output[id].class_type === node.comfyClass;
  const source = output[Object.keys(output).find(isNode)]?.inputs.image;
  if (!Array.isArray(source)) throw new Error(t("No photo reaches this node: a node before it is muted or not connected."));
  const prompt = {};
  const open = [source[0]];
  while (open.length) {
    const id = open.pop();
    if (prompt[id] || !output[id]) continue;
    prompt[id] = output[id];
    open.push(...Object.values(output[id].inputs).filter(Array.isArray).map(([before]) => before));
  }
  const first = { class_type: "ImageFromBatch", inputs: { image: source, batch_index: 0, length: 1 } };
  const shown = { class_type: "PreviewImage", inputs: { images: ["seada-first", 0] } };
  Object.assign(prompt, { "seada-first": first, "seada-photo": shown });
  const { prompt_id: run } = await post("/seada/run", { prompt }); // as ComfyUI's /prompt, but not for the user's history
  for (;;) {
    await wait(POLL_MS);
    if (!node.graph) await post("/queue", { delete: [run] }); // the node was removed
    const { ended, outcome } = await post("/seada/ran", { run });
    if (!ended) continue;
    const picture = outcome?.outputs["seada-photo"]?.images[0];
    if (picture) return view(picture.filename, picture.subfolder, picture.type);
    const { exception_message: reason } = outcome?.status?.messages?.find(([kind]) => kind === "execution_error")?.[1] ?? {};
    throw new Error(t("The photo could not be made: {reason}", { reason: reason?.trim() ?? t("the run was interrupted") }));
  }
}

/** The server's answer to a JSON request. Throws an Error with the server's reason. */
async function post(path, data) {
  const headers = { "Content-Type": "application/json" };
  const answer = await api.fetchApi(path, { method: "POST", headers, body: JSON.stringify(data) });
  const body = await answer.json().catch(() => ({}));
  if (answer.ok) return body;
  const [fault] = Object.values(body.node_errors ?? {}).flatMap(({ class_type, errors }) =>
    errors.map(({ message, details }) => `${class_type}: ${message} ${details ?? ""}`.trim()),
  );
  throw new Error(t("The photo could not be made: {reason}", { reason: fault ?? body.error?.message ?? body.error ?? `status ${answer.status}` }));
}
