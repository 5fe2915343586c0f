// SPDX-License-Identifier: Apache-2.0
// The list of sessions: one row each, kept while the session lives, so that focus and selection stay where they are.

import { make, put, stateMark } from "./dom.js";
import { miniature } from "./strip.js";
import { MISSING, duration, milliseconds, percent } from "./units.js";

const COLUMNS = [
  ["Peer", ""], ["State", ""], ["Since", "number"], ["Reason", ""], ["Over time", "strip"], ["Transport", ""],
  ["Loss", "number"], ["RTT", "number"], ["Switches", "number"],
];

const byName = new Intl.Collator("en", { numeric: true });

class Row {
  constructor(session, choose) {
    this.button = make("button", { type: "button", class: "pick" }, session.peer || session.session_id);
    this.button.addEventListener("click", () => choose(session.session_id));
    this.cells = COLUMNS.slice(1).map(([name, kind]) => make("td", { class: kind, "data-label": name }));
    this.element = make("tr", { "data-session": session.session_id },
      make("th", { scope: "row" }, this.button), ...this.cells);
    this.state = "";
  }

  show(session, path, spans, since, now) {
    const [state, age, reason, strip, transport, loss, rtt, switches] = this.cells;
    if (this.state !== session.state) {
      this.state = session.state;
      state.replaceChildren(stateMark(session.state));
      this.element.className = session.state.toLowerCase();
    }
    put(age, duration(session.since_s));
    put(reason, session.reason ?? MISSING);
    reason.className = "code";
    strip.replaceChildren(miniature(spans, since, now));
    put(transport, session.path ?? "nothing bound");
    put(loss, percent(path?.loss ?? null));
    put(rtt, milliseconds(path?.srtt_ms ?? null));
    put(switches, `${session.switches_last_minute} of ${session.switches_per_minute_max} /min`);
  }
}

export class SessionList {
  /** `host` has the table of the page without JavaScript, or what it says while there is no session. */
  constructor(host, history, choose) {
    this.host = host;
    this.history = history;
    this.choose = choose;
    this.rows = new Map();
    this.sessions = new Map();
    this.body = make("tbody");
    const head = COLUMNS.map(([name, kind]) => make("th", { scope: "col", class: kind }, name));
    this.table = make("table", { class: "sessions" }, make("thead", {}, make("tr", {}, ...head)), this.body);
  }

  /** The newest page of sessions and their paths. */
  update(listed, paths) {
    this.sessions = new Map(listed.map((session) => [session.session_id, session]));
    this.paths = new Map(paths.map((path) => [`${path.session_id}/${path.path_id}`, path]));
    for (const id of this.rows.keys()) if (!this.sessions.has(id)) this.drop(id);
  }

  drop(id) {
    this.rows.get(id).element.remove();
    this.rows.delete(id);
  }

  /** An event is newer than the list. */
  change(body) {
    const session = this.sessions.get(body.session_id);
    if (!session || session.state_version >= body.state_version) return;
    Object.assign(session, {
      state: body.new_state, state_version: body.state_version, reason: body.reason, since_s: 0,
    });
  }

  get ordered() {
    return [...this.sessions.values()].sort((a, b) => byName.compare(a.peer, b.peer));
  }

  /** The first one in trouble, or the first one. */
  get first() {
    const { ordered } = this;
    return ordered.find(({ state }) => state !== "ATTACHED") ?? ordered[0];
  }

  show(since, now, chosen) {
    if (!this.sessions.size) return;
    if (!this.table.isConnected) this.host.replaceChildren(this.table);
    this.ordered.forEach((session, at) => {
      const id = session.session_id, spans = this.history.spans(id, since, now);
      if (!this.rows.has(id)) this.rows.set(id, new Row(session, this.choose));
      const row = this.rows.get(id);
      row.show(session, this.paths.get(`${id}/${session.path_id}`), spans, since, now);
      row.button.setAttribute("aria-pressed", id === chosen);
      if (this.body.children[at] !== row.element) this.body.insertBefore(row.element, this.body.children[at] ?? null);
    });
  }
}

/** What to do while there is nobody. */
export function nobody(peers) {
  const command = (text) => make("pre", {}, make("code", {}, text));
  const add = "jvpn peer add NAME --qr --gateway-endpoint YOUR.ADDRESS:51820";
  const configured = `${peers} ${peers === 1 ? "peer is" : "peers are"} configured`;
  const [tells, shown] = peers
    ? [`No session yet. ${configured}; start one of them:`, "jvpn connect -c PEER.conf"]
    : ["No peer yet. Add the first one, and give what it prints to that machine:", add];
  return make("div", { class: "nobody" }, make("p", {}, tells), command(shown),
    make("p", {}, "Any WireGuard app can scan the code. ", make("code", {}, "jvpn doctor"),
      " says what this machine lacks."));
}
