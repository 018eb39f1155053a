// Keys: one table, for the listener and for the help.

const NAMED = {
  ArrowUp: "↑", ArrowDown: "↓", ArrowLeft: "←", ArrowRight: "→", Escape: "Esc",
  PageDown: "PgDn", PageUp: "PgUp", Backspace: "⌫", Delete: "Del",
};

/** "Shift+k", "1", "Ctrl+z", "ArrowDown", "?". */
export function keyName(event) {
  let base = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const digit = /^(?:Digit|Numpad)(\d)$/.exec(event.code ?? "");
  if (digit) base = digit[1];
  const plain = /^[a-z0-9]$/.test(base) || base.length > 1;
  const shift = event.shiftKey && plain ? "Shift+" : "";
  const control = event.ctrlKey || event.metaKey ? "Ctrl+" : "";
  return `${control}${event.altKey ? "Alt+" : ""}${shift}${base}`;
}

export function shownKey(name) {
  if (name === "+") return name;
  return name
    .split("+")
    .map((part) => (part === "Shift" ? "⇧" : NAMED[part] ?? (part.length === 1 ? part.toUpperCase() : part)))
    .join(" ")
    .replace("⇧ ", "⇧");
}

/** Listens; `groups` is [[title, [[keys, what, run], ...]], ...]. */
export function listen(groups) {
  const table = new Map();
  for (const [, rows] of groups)
    for (const [keys, , run] of rows) for (const key of keys) table.set(key, run);
  addEventListener("keydown", (event) => {
    if (document.querySelector("dialog[open]")) return;
    const inside = event.target;
    const writing = inside.matches("input, select, textarea");
    if (writing) {
      if (event.key === "Escape" || (event.key === "Enter" && inside.matches("input"))) inside.blur();
      return;
    }
    const presses = event.key === "Enter" || event.key === " ";
    if (presses && inside.matches("button, summary")) return;
    const run = table.get(keyName(event));
    if (!run) return;
    event.preventDefault();
    run(event);
  });
}

export function describe(place, groups) {
  place.replaceChildren(
    ...groups.map(([title, rows]) => {
      const section = document.createElement("section");
      const heading = document.createElement("h2");
      heading.textContent = title;
      section.append(heading);
      for (const [keys, what] of rows) {
        const line = document.createElement("div");
        const words = document.createElement("span");
        words.textContent = what;
        const caps = document.createElement("span");
        keys.forEach((key) => {
          const cap = document.createElement("kbd");
          cap.textContent = shownKey(key);
          caps.append(cap, " ");
        });
        line.append(words, caps);
        section.append(line);
      }
      return section;
    }),
  );
}
