// SPDX-License-Identifier: Apache-2.0
// Events in words: what happened, and the code that says why.

import { make } from "./dom.js";
import { clock } from "./units.js";

const WORDS = {
  SESSION_CREATED: (e) => ["session begins", e.transport],
  STATE_CHANGE: (e) => [`${e.previous_state} → ${e.new_state}`, e.reason],
  TRANSPORT_SWITCH: (e) => [`⇄ switch, path ${e.path_from || "–"} → ${e.path_to}`, e.reason],
  TRANSPORT_SWITCH_DENIED: (e) => [`switch to path ${e.path_to || "–"} denied`, e.rule],
  TRANSPORT_DEAD: (e) => [`path ${e.path_id} is dead${e.was_bound ? ", it was bound" : ""}`, e.evidence],
  SECURITY_EVENT: (e) => [`security: ${e.detail || "refused"}, ${e.count} times`, e.security_class],
  POLICY_EVENT: (e) => [e.applied ? "policy applied" : "policy refused", ""],
  OWNERSHIP_EVENT: () => ["the owning gateway changed", ""],
  OPERATOR_ACTION: (e) => [
    [e.action, e.session_id ? "" : e.target, "by", e.by || "the process itself"].filter(Boolean).join(" "), e.outcome,
  ],
  AUDIT_GAP: () => ["the journal has a gap", ""],
};

/** [what, code] */
export function told(event) {
  const [what, code] = (WORDS[event.event] ?? (() => [event.event, ""]))(event);
  return [what, code || event.reason || ""];
}

/** One line of a list of events. */
export function line({ at, body }, withPeer) {
  const [what, code] = told(body);
  const parts = [make("time", {}, clock(at)), " "];
  if (withPeer) parts.push(make("b", {}, body.peer ?? ""), " ");
  parts.push(make("span", {}, what), " ", make("span", { class: "code" }, code));
  return make("li", { class: body.event.toLowerCase().replaceAll("_", "-") }, ...parts);
}
