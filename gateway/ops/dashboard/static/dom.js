// SPDX-License-Identifier: Apache-2.0
// Elements. Rule: text reaches the page as text nodes and attributes only; nothing here, and nothing that uses it,
// parses HTML.

const SVG = "http://www.w3.org/2000/svg";
const GLYPHS = { BIRTH: "○", ATTACHED: "●", VOLATILE: "◐", DEGRADED: "▼", RECOVERING: "↻" };

export const STATES = ["ATTACHED", "VOLATILE", "DEGRADED", "RECOVERING", "BIRTH"];

export const at = (id) => document.getElementById(id);

function grown(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

export function make(name, attributes = {}, ...children) {
  return grown(document.createElement(name), attributes, children);
}

export function draw(name, attributes = {}, ...children) {
  return grown(document.createElementNS(SVG, name), attributes, children);
}

/** Set a text only where it differs: what did not change is not touched, so it can be selected and copied. */
export function put(element, text) {
  if (element.textContent !== String(text)) element.textContent = text;
}

export function glyph(state) {
  return make("span", { class: "glyph", "aria-hidden": "true" }, GLYPHS[state] ?? "✕");
}

export function stateMark(state) {
  return make("span", { class: `state ${state.toLowerCase()}` }, glyph(state), ` ${state}`);
}

export function bar(share) {
  const width = (100 * Math.min(1, Math.max(0, share))).toFixed(1);
  const box = { class: "bar", viewBox: "0 0 100 8", preserveAspectRatio: "none", "aria-hidden": "true" };
  return draw("svg", box, draw("rect", { width, height: 8 }));
}

function captioned(kind, caption, rows) {
  return make("table", { class: kind }, make("caption", { class: "unseen" }, caption), make("tbody", {}, ...rows));
}

/** Rows of a name, a bar and a value. */
export function barTable(caption, rows) {
  return captioned("bars", caption, rows.map(([name, share, value]) =>
    make("tr", {},
      make("th", { scope: "row" }, name),
      make("td", { class: "bars" }, bar(share)),
      make("td", { class: "number" }, value))));
}

/** Rows of a name and a value. */
export function plainTable(caption, rows) {
  return captioned("plain", caption, rows.map(([name, value]) =>
    make("tr", {}, make("th", { scope: "row" }, name), make("td", { class: "number" }, value))));
}
