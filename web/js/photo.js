// Finds the photo of a node's `image` input, before and after a run.

import { api } from "../../../scripts/api.js";

const LOADERS = ["LoadImage", "LoadImageMask", "LoadImageOutput", "SeAdaLoadPhoto"];

const view = (filename, subfolder, type) => api.apiURL(`/view?${new URLSearchParams({ filename, subfolder, type })}`);

/** The node and output behind the `image` input, through reroutes; null if nothing is connected, or only from outside the subgraph. */
function source(node) {
  let slot = node.inputs?.findIndex((input) => input.name === "image") ?? -1;
  for (let hops = 0; hops < 100; hops++) {
    const link = node.inputs?.[slot]?.link;
    if (link == null) return null;
    const { links } = node.graph;
    const { origin_id, origin_slot } = links.get?.(link) ?? links[link] ?? {};
    const origin = node.graph.getNodeById(origin_id);
    if (origin?.type !== "Reroute") return { id: origin_id, slot: origin_slot, node: origin ?? null };
    [node, slot] = [origin, 0];
  }
  return null;
}

/** A key for the connected output, so that a run's photo is not shown for another connection. */
export function photoKey(node) {
  const from = source(node);
  return from && `${from.id}:${from.slot}`;
}

/** The URL of "folder/name.png [input]". */
function fileUrl(value) {
  const [, path, type = "input"] = /^(.*?)(?: \[(input|output|temp)\])?$/s.exec(value);
  const cut = path.lastIndexOf("/") + 1;
  return view(path.slice(cut), path.slice(0, Math.max(0, cut - 1)), type);
}

/** {url, width?, height?} of the photo, or null if none is known yet. */
export function findPhoto(node) {
  const from = source(node);
  if (!from) return null;
  const file = from.node?.widgets?.find((widget) => widget.name === "image")?.value;
  if (LOADERS.includes(from.node?.comfyClass) && typeof file === "string" && file) return { url: fileUrl(file) };
  const ran = node.seadaPhoto;
  if (ran && ran.key === photoKey(node)) {
    return { url: view(ran.filename, ran.subfolder, ran.type), width: ran.width, height: ran.height };
  }
  const image = from.node?.imgs?.[0];
  if (image?.naturalWidth && !image.src.startsWith("blob:")) return { url: image.src };
  return null;
}
