// Follows links back to the node that makes a picture, as ComfyUI does when it queues: through reroutes, bypassed nodes
// and both ways through subgraphs.

import { app } from "../../../scripts/app.js";

const SUBGRAPH_INPUTS = -10; // the id of the node that stands for a subgraph's inputs, inside it
const MUTED = 2;
const BYPASSED = 4;
const MAX_HOPS = 500;
const MAX_NODES = 500; // of a fingerprint

const { LiteGraph } = window;

const rootOf = (graph) => graph.rootGraph ?? app.rootGraph ?? app.graph;

/** The first node that shows the subgraph `graph`, or null. */
function hostOf(graph) {
  const root = rootOf(graph);
  for (const one of [root, ...(root.subgraphs?.values() ?? [])]) {
    const host = one.nodes.find((node) => node.subgraph === graph);
    if (host) return host;
  }
  return null;
}

/** The input that a bypassed node passes on as its output `slot`, or -1. */
function passedOn(node, slot) {
  const { type } = node.outputs[slot] ?? {};
  if (node.inputs[slot]?.type === type) return slot;
  return node.inputs.findIndex((input) => input.type === type);
}

/** The link to an input, or null. A subgraph's node answers with one from inside. */
function linkTo(node, slot) {
  if (!node?.graph || slot < 0) return null;
  return node.subgraph ? LiteGraph.LGraphNode.prototype.getInputLink.call(node, slot) : node.getInputLink(slot);
}

/** {node, slot, hosts} of the output that reaches an input; null if none does. `hosts` are the nodes of the subgraphs
 * that were entered on the way. */
export function originOf(node, slot, hosts = []) {
  for (let hops = 0; hops < MAX_HOPS; hops++) {
    const link = linkTo(node, slot);
    if (!link) return null;
    const { graph } = node;
    slot = link.origin_slot;
    if (Number(link.origin_id) === SUBGRAPH_INPUTS) {
      node = hosts.at(-1) ?? hostOf(graph);
      hosts = hosts.slice(0, -1);
      continue;
    }
    node = graph.getNodeById(link.origin_id);
    while (node?.subgraph && node.mode !== MUTED && node.mode !== BYPASSED) {
      const inner = node.subgraph.outputNode.slots[slot]?.getLinks()[0];
      if (!inner || Number(inner.origin_id) === SUBGRAPH_INPUTS) return null;
      hosts = [...hosts, node];
      slot = inner.origin_slot;
      node = node.subgraph.getNodeById(inner.origin_id);
    }
    if (!node || node.mode === MUTED) return null;
    if (node.mode === BYPASSED) slot = passedOn(node, slot);
    else if (!node.isVirtualNode) return { node, slot, hosts };
  }
  return null;
}

/** All nodes that an output depends on, as {node, slot, hosts}, the output's own first. */
export function upstreamOf(origin) {
  const found = new Map();
  const open = [origin];
  while (open.length && found.size < MAX_NODES) {
    const one = open.pop();
    const key = [...one.hosts, one.node].map((node) => `${node.graph?.id}/${node.id}`).join(" ");
    if (found.has(key)) continue;
    found.set(key, one);
    one.node.inputs?.forEach((_, slot) => {
      const before = originOf(one.node, slot, one.hosts);
      if (before) open.push(before);
    });
  }
  return [...found.values()];
}

/** A text that changes when the picture that leaves an output may change. */
export function fingerprint(origin) {
  // others come and go by themselves, such as a loader's preview
  const isSetting = (widget) => widget.serialize !== false;
  const values = (node) => node.widgets?.filter(isSetting).map((widget) => widget.value);
  return JSON.stringify([
    origin.slot,
    upstreamOf(origin).map(({ node, slot, hosts }) => [node.id, slot, node.type, ...[node, ...hosts].map(values)]),
  ]);
}

/** A name of an output, the same for as long as the connection is. */
export const placeOf = ({ node, slot }) => `${node.graph.id}/${node.id}/${node.type}/${slot}`;
