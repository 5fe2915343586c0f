// SPDX-License-Identifier: Apache-2.0
// The token of an endpoint that wants one: asked for in the page, kept by gateway.js.

import { at, put } from "./dom.js";
import { Denied, read, remember, remembers } from "./gateway.js";

export function takeToken() {
  at("token").addEventListener("submit", (event) => {
    event.preventDefault();
    remember(at("token-text").value.trim());
    location.reload();
  });
}

export function askForToken() {
  const form = at("token");
  if (!form.hidden) return;
  form.hidden = false;
  put(at("live"), remembers() ? "that token was refused" : "a token is needed");
  at("token-text").focus();
}

/** Whether the gateway lets this tab in. */
export async function admitted() {
  if (!remembers()) return false;
  try {
    await read("/stats");
  } catch (error) {
    return !(error instanceof Denied);
  }
  return true;
}
