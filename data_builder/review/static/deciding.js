// What the reader says: shown at once, sent, and undone.

import { announce, open, outbox } from "./page.js";
import { list } from "./parts.js";
import { showHistory, showState, wordOf } from "./showing.js";
import { openItem, range } from "./stack.js";

export function targets(scope) {
  if (scope === "study") return [open.study];
  const [low, high] = range();
  return open.slices.slice(low, high + 1).map((slice) => slice.key);
}

export function decide(scope, field, value) {
  const chosen = targets(scope);
  let told = value;
  if (field === "unsure" && chosen.every((each) => open.state[each]?.unsure)) told = "";
  const changes = chosen.map((target) => ({ target, field, value: told }));
  // A label on one slice that was dropped takes it back in.
  if (field === "label" && scope === "slice" && chosen.length === 1)
    if (wordOf(open.slices[open.index]).outcome === "dropped")
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

export function dropSuggested() {
  if (open.settling) return;
  const left = open.slices.filter((each) => open.suggested[each.key] && !wordOf(each).outcome);
  store(left.map(({ key }) => ({ target: key, field: "keep", value: "0" })));
}

/** Shows changes at once and sends them; the header tells when they are on disk. */
export function store(all) {
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

export function apply(changes) {
  set(changes);
  showState();
}

export function set(changes) {
  for (const { target, field, value } of changes) {
    open.state[target] ??= {};
    if (value) open.state[target][field] = value;
    else delete open.state[target][field];
  }
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
