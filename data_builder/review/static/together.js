// All readers together: agreement, settling, the export.

import { ask, post } from "./api.js";
import { announce, byId, open, outbox } from "./page.js";
import { list } from "./parts.js";
import { agreementTables, exportWords } from "./readers.js";
import { showTotal } from "./showing.js";
import { openItem } from "./stack.js";

export async function showReaders() {
  const dialog = byId("readers");
  if (!dialog.open) dialog.showModal();
  byId("blind").hidden = open.info.unblinded;
  byId("open").hidden = !open.info.unblinded;
  if (!open.info.unblinded) return;
  open.disputes = await ask("disputes", { reader: open.info.reader });
  const tables = agreementTables(await ask("agreement", { reader: open.info.reader }));
  const line = document.createElement("p");
  line.textContent = open.disputes.length
    ? `${open.disputes.length} places where readers disagree, or one is unsure.`
    : "Nothing is left to settle.";
  const button = document.createElement("button");
  button.type = "button";
  button.id = "settle";
  button.textContent = "Settle them";
  button.hidden = !open.disputes.length;
  button.addEventListener("click", () => {
    dialog.close();
    setSettling(true);
  });
  byId("open").replaceChildren(...tables, line, button);
}

export async function setSettling(on) {
  if (!outbox.empty) return announce("Not everything is saved yet");
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
    if (!outbox.empty) throw new Error("Not everything is saved yet: try again when it is");
    const counts = await post("export", { reader: open.info.reader });
    byId("counts").replaceChildren(...exportWords(counts));
  } catch (error) {
    byId("counts").textContent = error.message;
  }
}
