// The panes of the page. app.js connects them with what they do.

import { Labels } from "./labels.js";
import { List } from "./list.js";
import { byId } from "./page.js";
import { Sheet } from "./sheet.js";
import { Viewer } from "./viewer.js";

export const viewer = new Viewer(byId("slice"));
export const list = new List(byId("studies"));
export const sheet = new Sheet(byId("sheet"));
export const labels = new Labels();
