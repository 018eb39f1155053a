// The panes, each told what to call when it is used.

import { clear, decide, note } from "./deciding.js";
import { Labels } from "./labels.js";
import { List } from "./list.js";
import { byId } from "./page.js";
import { Sheet } from "./sheet.js";
import { showView } from "./showing.js";
import { goTo, openItem } from "./stack.js";
import { Viewer } from "./viewer.js";

export const viewer = new Viewer(byId("slice"), showView);
export const list = new List(byId("studies"), (position) => openItem(position));
export const sheet = new Sheet(byId("sheet"), (index, extend) => goTo(index, extend));
export const labels = new Labels({ decide, clear, note });
