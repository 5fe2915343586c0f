// SPDX-License-Identifier: Apache-2.0
// Where the scripts begin.

import { at, put } from "./dom.js";
import { Page } from "./page.js";
import { admitted, askForToken, takeToken } from "./token.js";

takeToken();
// The gateway gives the page with its content hidden to who has not shown a token.
if (at("page").hidden && !(await admitted())) {
  askForToken();
} else {
  put(at("live"), "connecting");
  document.body.classList.add("scripted");
  at("page").hidden = false;
  new Page().run();
}
