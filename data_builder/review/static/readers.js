// The dialogs on all readers: agreement, the settling of disagreements, the export.

import { ask, post } from "./api.js";
import { showTotal } from "./display.js";
import { announce, byId, open, outbox } from "./page.js";
import { list } from "./panes.js";
import { openItem } from "./stack.js";
import { agreementTables, exportSummary } from "./tables.js";

export async function showReaders() {
  const dialog = byId("readers");
  if (!dialog.open) dialog.showModal();
  byId("blind").hidden = open.info.unblinded;
  byId("agreement").hidden = !open.info.unblinded;
  if (!open.info.unblinded) return;
  open.disputes = await ask("disputes", { reader: open.info.reader });
  const tables = agreementTables(await ask("agreement", { reader: open.info.reader }));
  const count = open.disputes.length;
  const line = document.createElement("p");
  line.textContent = count
    ? `Readers disagree, or one is unsure, on ${count} ${count === 1 ? "range" : "ranges"} of slices.`
    : "There is nothing to settle.";
  const button = document.createElement("button");
  button.type = "button";
  button.id = "settle";
  button.textContent = "Settle them";
  button.hidden = !count;
  button.addEventListener("click", () => {
    dialog.close();
    setSettling(true);
  });
  byId("agreement").replaceChildren(...tables, line, button);
}

export async function setSettling(on) {
  if (!outbox.empty) return announce("Some decisions are not saved yet");
  open.settling = on;
  document.body.classList.toggle("settling", on);
  byId("settle-bar").hidden = !on;
  if (on) list.showDisputes(open.disputes);
  else list.showStudies(open.studies);
  showTotal();
  const position = on ? 0 : Math.max(0, list.positionOf(open.study));
  await openItem(position, on ? 0 : open.index);
}

export async function unblind() {
  await post("unblind", { reader: open.info.reader });
  open.info.unblinded = true;
  await showReaders();
}

export async function exportAll() {
  byId("counts").textContent = "Writing";
  byId("exported").showModal();
  try {
    if (!outbox.empty) throw new Error("Some decisions are not saved yet: try again in a moment");
    const counts = await post("export", { reader: open.info.reader });
    byId("counts").replaceChildren(...exportSummary(counts));
  } catch (error) {
    byId("counts").textContent = error.message;
  }
}
