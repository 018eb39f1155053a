// Keyboard shortcuts: one table for the listener and for the help.

const NAMED = {
  ArrowUp: "↑", ArrowDown: "↓", ArrowLeft: "←", ArrowRight: "→", Escape: "Esc",
  PageDown: "PgDn", PageUp: "PgUp", Backspace: "⌫", Delete: "Del",
};

/** The name of a key press: "Shift+k", "1", "Ctrl+z", "ArrowDown", "?". */
function keyName(event) {
  let base = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const digit = /^(?:Digit|Numpad)(\d)$/.exec(event.code ?? "");
  if (digit) base = digit[1];
  // Signs such as "?" need Shift on some keyboards and not on others, so it is no part of their name.
  const isSign = !/^[a-z0-9]$/.test(base) && base.length === 1;
  const shift = event.shiftKey && !isSign ? "Shift+" : "";
  const control = event.ctrlKey || event.metaKey ? "Ctrl+" : "";
  return `${control}${event.altKey ? "Alt+" : ""}${shift}${base}`;
}

function shownKey(name) {
  if (name === "+") return name;
  return name
    .split("+")
    .map((part) => (part === "Shift" ? "⇧" : NAMED[part] ?? (part.length === 1 ? part.toUpperCase() : part)))
    .join(" ")
    .replace("⇧ ", "⇧");
}

/** Runs what is in the table; `groups` is [[title, [[keys, description, run], ...]], ...]. */
export function listen(groups) {
  const table = new Map();
  for (const [, rows] of groups)
    for (const [keys, , run] of rows) for (const key of keys) table.set(key, run);
  addEventListener("keydown", (event) => {
    if (document.querySelector("dialog[open]")) return;
    const focused = event.target;
    const writing = focused.matches("input, select, textarea");
    if (writing) {
      if (event.key === "Escape" || (event.key === "Enter" && focused.matches("input"))) focused.blur();
      return;
    }
    const presses = event.key === "Enter" || event.key === " ";
    if (presses && focused.matches("button, summary")) return;
    const run = table.get(keyName(event));
    if (!run) return;
    event.preventDefault();
    run(event);
  });
}

/** Lists the keys of all groups in `element`. */
export function describe(element, groups) {
  element.replaceChildren(
    ...groups.map(([title, rows]) => {
      const section = document.createElement("section");
      const heading = document.createElement("h2");
      heading.textContent = title;
      section.append(heading);
      for (const [keys, description] of rows) {
        const line = document.createElement("div");
        const label = document.createElement("span");
        label.textContent = description;
        const caps = document.createElement("span");
        keys.forEach((key) => {
          const cap = document.createElement("kbd");
          cap.textContent = shownKey(key);
          caps.append(cap, " ");
        });
        line.append(label, caps);
        section.append(line);
      }
      return section;
    }),
  );
}
