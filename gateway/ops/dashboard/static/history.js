// SPDX-License-Identifier: Apache-2.0
// What this page remembers of sessions while it is open. The gateway keeps none of it for us, so all of it is bounded.
// Times are Unix seconds of the gateway's clock.

const SESSIONS_MAX = 600;
const CHANGES_MAX = 128;
const NEWS_MAX = 60;
const SAMPLES_MAX = 1500;
const SAMPLES_S = 900;

const TOLD = new Set([
  "SESSION_CREATED", "STATE_CHANGE", "TRANSPORT_SWITCH", "TRANSPORT_SWITCH_DENIED", "TRANSPORT_DEAD",
  "SECURITY_EVENT", "POLICY_EVENT", "OWNERSHIP_EVENT", "AUDIT_GAP", "OPERATOR_ACTION",
]);

class Past {
  constructor() {
    this.born = null;
    this.state = null;
    this.changes = new Map(); // state_version -> {at, from, to, reason}
    this.switches = []; // {at, from, to, reason}
    this.news = []; // oldest first
    this.samples = []; // {at, paths: Map(path_id -> {rtt, loss, score})}
  }
}

function bounded(list, item, most) {
  list.push(item);
  if (list.length > most) list.splice(0, list.length - most);
}

export class History {
  constructor() {
    this.sessions = new Map(); // in the order of their last use
    this.news = [];
  }

  of(id) {
    const past = this.sessions.get(id) ?? new Past();
    this.sessions.delete(id);
    this.sessions.set(id, past);
    if (this.sessions.size > SESSIONS_MAX) this.sessions.delete(this.sessions.keys().next().value);
    return past;
  }

  /** One event of the stream; what an operator did may be no session's. */
  event(body) {
    const at = Date.parse(body.ts) / 1000, past = body.session_id ? this.of(body.session_id) : new Past();
    if (body.event === "STATE_CHANGE") {
      this.change(past, body.state_version, at, body.previous_state, body.new_state, body.reason);
    }
    if (body.event === "TRANSPORT_SWITCH") {
      bounded(past.switches, { at, from: body.path_from, to: body.path_to, reason: body.reason }, CHANGES_MAX);
    }
    if (!TOLD.has(body.event)) return false;
    bounded(past.news, { at, body }, NEWS_MAX);
    bounded(this.news, { at, body }, NEWS_MAX);
    return true;
  }

  change(past, version, at, from, to, reason) {
    if (past.changes.has(version)) return;
    past.changes.set(version, { at, from, to, reason });
    if (past.changes.size > CHANGES_MAX) past.changes.delete(past.changes.keys().next().value);
  }

  born(id, at, state) {
    const past = this.of(id);
    past.born ??= at;
    past.state = state;
  }

  /** The transitions that the gateway remembers: those from before this page. */
  transitions(id, rows, now) {
    const past = this.of(id);
    for (const row of rows) {
      this.change(past, row.state_version, now - row.ago_s, row.previous_state, row.new_state, row.reason);
    }
  }

  /** Measurements of all paths of one session. */
  sample(id, at, paths) {
    const { samples } = this.of(id);
    if (samples.length && at <= samples.at(-1).at) return;
    const found = new Map();
    for (const path of paths) {
      const loss = path.loss === null ? null : 100 * path.loss;
      found.set(path.path_id, { rtt: path.srtt_ms, loss, score: path.score });
    }
    bounded(samples, { at, paths: found }, SAMPLES_MAX);
    const old = samples.findIndex((sample) => sample.at >= at - SAMPLES_S);
    if (old > 0) samples.splice(0, old);
  }

  /** Spans {from, until, state, reason} of one session that reach into the time after `since`, oldest first. */
  spans(id, since, now) {
    const past = this.of(id), changes = [...past.changes.values()].sort((a, b) => a.at - b.at);
    const until = changes[0]?.at ?? now, state = changes[0]?.from ?? past.state;
    const spans = past.born === null ? [] : [{ from: past.born, until, state, reason: "" }];
    changes.forEach((change, number) => {
      const until = changes[number + 1]?.at ?? now;
      spans.push({ from: change.at, until, state: change.to, reason: change.reason });
    });
    return spans.filter((span) => span.until > since && span.state !== "TERMINATED");
  }
}
