// Shows what a node of the pack warns about: results that are there but may not be what was meant.

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";

const SHOWN_MS = 12_000;

api.addEventListener("executed", ({ detail }) => {
  const warnings = detail?.output?.seada_warning;
  if (!Array.isArray(warnings)) return;
  const id = detail.display_node ?? detail.node;
  const node = app.graph?.getNodeById?.(id) ?? app.graph?.getNodeById?.(Number(id));
  for (const text of warnings) {
    app.extensionManager?.toast?.add?.({
      severity: "warn",
      summary: node?.title ?? "SeAda",
      detail: String(text),
      life: SHOWN_MS,
    });
  }
});
