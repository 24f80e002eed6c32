// Shows a word in place of a 0 or an empty text that means something, as the node's schema says: "auto", "all". The value
// itself does not change. In the schema: `seada_zero` of a number, `placeholder` of a text.

import { app } from "../../../scripts/app.js";

const CHINESE = {
  auto: "自动",
  all: "全部",
  "auto: the model writes its own caption": "自动：由模型自行描述",
  "auto: the model captions each shot": "自动：由模型描述每个镜头",
};
const APPEARS = "seada-appears"; // an animation: Nodes 2.0 makes its own elements, which are noticed when it starts
const words = new Map(); // by the node's class: inputs' names to words
const texts = new Map(); // by the node's class: the word of its text of several lines
const style = document.head.appendChild(document.createElement("style"));
style.append(`@keyframes ${APPEARS} { from { outline-color: inherit; } }`);

function translated(word) {
  const locale = String(app.extensionManager?.setting?.get("Comfy.Locale") ?? "");
  return (locale.startsWith("zh") && CHINESE[word]) || word;
}

/** Nodes 2.0: a style covers the 0 of a number unless it is edited. */
function coverZero(type, name, word) {
  const zero = 'input[aria-valuenow="0"]:not(:focus)';
  const field = `[node-type="${type}"] [aria-label="${name}"]`;
  style.append(
    `${field} ${zero} { color: transparent !important; }`,
    `${field} div:has(> ${zero})::after { content: "${word}"; position: absolute; inset: 0; display: flex;`,
    "  align-items: center; padding: 0 4px; pointer-events: none; }",
  );
}

document.addEventListener("animationstart", ({ animationName, target }) => {
  if (animationName === APPEARS) target.placeholder = texts.get(target.closest("[node-type]").getAttribute("node-type"));
});

app.registerExtension({
  name: "SeAda.Automatic",
  beforeRegisterNodeDef(_, { name: type, input }) {
    if (!type.startsWith("SeAda")) return;
    const inputs = new Map();
    for (const [name, [, options]] of Object.entries({ ...input?.required, ...input?.optional })) {
      const given = options?.seada_zero ?? options?.placeholder;
      if (!given) continue;
      inputs.set(name, translated(given));
      if (options.seada_zero) coverZero(type, name, inputs.get(name));
      if (!options.multiline) continue;
      texts.set(type, inputs.get(name));
      style.append(`[node-type="${type}"] textarea { animation: ${APPEARS} 1ms; }`);
    }
    words.set(type, inputs);
  },
  nodeCreated(node) {
    for (const widget of node.widgets ?? []) {
      const word = words.get(node.comfyClass)?.get(widget.name);
      if (!word) continue;
      if (widget.element) widget.element.placeholder = word; // a text of several lines
      else if (typeof widget.value === "string") widget.options.placeholder = word; // for Nodes 2.0
      const own = Object.getOwnPropertyDescriptor(Object.getPrototypeOf(widget), "_displayValue");
      Object.defineProperty(widget, "_displayValue", {
        get() {
          if (!this.value && !this.computedDisabled) return word;
          return own ? own.get.call(this) : String(this.value);
        },
      });
    }
  },
});
