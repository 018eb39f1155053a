// The reader's decisions: shown at once, sent to the server, and undone.

import { readingOf, showHistory, showState } from "./display.js";
import { announce, chosenRange, open, outbox, setState } from "./page.js";
import { list } from "./panes.js";
import { openItem } from "./stack.js";

/** The study, or the slices chosen. */
function targets(scope) {
  if (scope === "study") return [open.study];
  const [first, last] = chosenRange();
  return open.slices.slice(first, last + 1).map((slice) => slice.key);
}

/** Sets a field of the study or of the slices chosen. */
export function decide(scope, field, value) {
  const chosen = targets(scope);
  const unset = field === "unsure" && chosen.every((target) => open.state[target]?.unsure);
  const changes = chosen.map((target) => ({ target, field, value: unset ? "" : value }));
  // A label on a single dropped slice keeps it again.
  if (field === "label" && scope === "slice" && chosen.length === 1)
    if (readingOf(open.slices[open.index]).outcome === "dropped")
      changes.push({ target: chosen[0], field: "keep", value: "1" });
  store(changes);
}

export function clear(scope) {
  const fields = ["keep", "label", "unsure"];
  store(
    targets(scope).flatMap((target) => fields.map((field) => ({ target, field, value: "" }))),
  );
}

export function note(scope, text) {
  store(targets(scope).map((target) => ({ target, field: "note", value: text })));
}

/** Drops the slices of this study for which a drop is suggested and nothing is decided. */
export function dropSuggested() {
  if (open.settling) return;
  const undecided = open.slices.filter(
    (slice) => open.suggested[slice.key] && !readingOf(slice).outcome,
  );
  store(undecided.map(({ key }) => ({ target: key, field: "keep", value: "0" })));
}

/** Shows changes at once and sends them; the header shows when they are on disk. */
function store(all) {
  const changes = all.filter(
    ({ target, field, value }) => (open.state[target]?.[field] ?? "") !== value,
  );
  if (!changes.length) return;
  apply(changes);
  const { study, settling } = open;
  outbox
    .send(settling ? "settle" : "decide", { reader: open.info.reader, changes })
    .then(() => showHistory())
    .catch(() => study === open.study && openItem(list.position, open.index));
}

function apply(changes) {
  setState(changes);
  showState();
}

export async function undo() {
  const name = open.settling ? "unsettle" : "undo";
  try {
    const { saved, studies } = await outbox.send(name, { reader: open.info.reader });
    if (!saved.length) return announce("There is nothing to undo");
    if (studies.includes(open.study)) {
      apply(saved);
      showHistory();
    } else if (!open.settling && studies.length) await openItem(list.positionOf(studies[0]));
    announce(`Undone: ${saved.length} ${saved.length === 1 ? "change" : "changes"}`);
  } catch (error) {
    announce(error.message);
  }
}
