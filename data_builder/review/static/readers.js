// The dialogs on all readers together: agreement, what is left to settle, and the export.

import { LOCATIONS } from "./words.js";

const TASKS = { keep: "Keep or drop", hemorrhage: "ICH or normal", location: "Place of the ICH" };

/** The agreement as tables. */
export function agreementTables({ readers, tasks }) {
  const people = table(
    ["Reader", "Slices", "Blind until", "Model's probabilities"],
    readers.map((each) => [
      each.name,
      each.slices,
      each.unblinded ? each.unblinded.slice(0, 16).replace("T", " ") : "still blind",
      each.probabilities ? "seen" : each.ordered_by_model ? "gave the order" : "not seen",
    ]),
  );
  const rows = [];
  for (const [task, { cohen, fleiss }] of Object.entries(tasks)) {
    for (const pair of cohen) rows.push([TASKS[task], pair.readers.join(", "), ...figures(pair)]);
    if (fleiss) rows.push([TASKS[task], "all (Fleiss)", ...figures(fleiss)]);
  }
  const found = [people];
  if (rows.length)
    found.push(
      table(["Question", "Readers", "Slices", "Subjects", "Alike", "Kappa (95% over subjects)"], rows),
    );
  const note = document.createElement("p");
  note.className = "quiet";
  note.textContent = rows.length
    ? "Cohen's kappa for two readers, Fleiss' for all. Only what was decided blind counts."
    : "Agreement needs two readers.";
  found.push(note);
  return found;
}

function figures(kappa) {
  const two = (value) => (value === null ? "–" : value.toFixed(2));
  const interval = kappa.low === null ? "" : ` (${two(kappa.low)} to ${two(kappa.high)})`;
  const alike = kappa.observed === null ? "–" : `${(100 * kappa.observed).toFixed(1)}%`;
  return [kappa.slices, kappa.subjects, alike, two(kappa.value) + interval];
}

/** What an export wrote, and the command that goes on from it. */
export function exportWords(counts) {
  const lines = [
    ["Slices with a label", counts.labelled],
    ["Normal", counts.classes.normal],
    ...LOCATIONS.map((name) => [name[0].toUpperCase() + name.slice(1), counts.classes[name]]),
    ["Dropped", counts.dropped],
    ["Left out: readers disagree, or one is unsure", counts.open],
    ["Left out: ICH without a place", counts.without_place],
    ["Read by nobody, as they were", counts.unread],
  ];
  const where = document.createElement("p");
  where.append("Written to ", code(`${counts.inside}/${counts.folder}`), ". Build shards from it:");
  const command = document.createElement("p");
  const given = `${counts.inside}/${counts.folder}`;
  command.append(code(`python -m data_builder build ${given} --data_dir data`));
  return [table(["", "Slices"], lines), where, command];
}

function code(text) {
  const element = document.createElement("code");
  element.textContent = text;
  return element;
}

export function table(heads, rows) {
  const element = document.createElement("table");
  const line = (cells, kind) => {
    const row = document.createElement("tr");
    for (const cell of cells) {
      const each = document.createElement(kind);
      each.textContent = cell;
      row.append(each);
    }
    return row;
  };
  element.append(line(heads, "th"), ...rows.map((row) => line(row, "td")));
  return element;
}
