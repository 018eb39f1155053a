// Tables for the dialogs: the agreement of readers, and the numbers of an export.

import { LOCATIONS } from "./readings.js";

const TASKS = { keep: "Keep or drop", hemorrhage: "ICH or normal", location: "Location of the ICH" };

/** The agreement as tables. */
export function agreementTables({ readers, tasks }) {
  const people = table(
    ["Reader", "Slices", "Blinded until", "Model's probabilities"],
    readers.map((reader) => [
      reader.name,
      reader.slices,
      reader.unblinded ? reader.unblinded.slice(0, 16).replace("T", " ") : "still blinded",
      reader.probabilities ? "seen" : reader.ordered_by_model ? "order of studies only" : "not seen",
    ]),
  );
  const rows = [];
  for (const [task, { cohen, fleiss }] of Object.entries(tasks)) {
    for (const pair of cohen) rows.push([TASKS[task], pair.readers.join(", "), ...cells(pair)]);
    if (fleiss) rows.push([TASKS[task], "all (Fleiss)", ...cells(fleiss)]);
  }
  const heads = ["Question", "Readers", "Slices", "Subjects", "Agreement", "Kappa (95% CI over subjects)"];
  const note = document.createElement("p");
  note.className = "quiet";
  note.textContent = rows.length
    ? "Cohen's kappa for two readers, Fleiss' for all. Only blinded decisions count."
    : "Agreement needs two readers.";
  return rows.length ? [people, table(heads, rows), note] : [people, note];
}

function cells(kappa) {
  const two = (value) => (value === null ? "–" : value.toFixed(2));
  const interval = kappa.low === null ? "" : ` (${two(kappa.low)} to ${two(kappa.high)})`;
  const observed = kappa.observed === null ? "–" : `${(100 * kappa.observed).toFixed(1)}%`;
  return [kappa.slices, kappa.subjects, observed, two(kappa.value) + interval];
}

/** The numbers of an export, and the command that builds a data set from it. */
export function exportSummary(counts) {
  const rows = [
    ["Slices with a label", counts.labelled],
    ["Normal", counts.classes.normal],
    ...LOCATIONS.map((name) => [name[0].toUpperCase() + name.slice(1), counts.classes[name]]),
    ["Dropped", counts.dropped],
    ["No label: readers disagree, or one is unsure", counts.open],
    ["No label: ICH without a location", counts.without_place],
    ["Not read: unchanged", counts.unread],
  ];
  const folder = `${counts.inside}/${counts.folder}`;
  const where = document.createElement("p");
  where.append("Written to ", code(folder), ". Build a data set from it with:");
  const command = document.createElement("p");
  command.append(code(`python -m data_builder build ${folder} --data_dir data`));
  return [table(["", "Slices"], rows), where, command];
}

function code(text) {
  const element = document.createElement("code");
  element.textContent = text;
  return element;
}

function table(heads, rows) {
  const element = document.createElement("table");
  const line = (texts, kind) => {
    const row = document.createElement("tr");
    for (const text of texts) {
      const cell = document.createElement(kind);
      cell.textContent = text;
      row.append(cell);
    }
    return row;
  };
  element.append(line(heads, "th"), ...rows.map((row) => line(row, "td")));
  return element;
}
