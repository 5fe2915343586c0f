// SPDX-License-Identifier: Apache-2.0
// The page alive: it reads the documents every two seconds, follows events, and draws. While the tab is hidden it only
// follows.

import { about, box, dropped, drops, headline, news, recovery } from "./cards.js";
import { Plot } from "./charts.js";
import { Detail } from "./detail.js";
import { at, put } from "./dom.js";
import { Denied, Missing, follow, read } from "./gateway.js";
import { History } from "./history.js";
import { SessionList, nobody } from "./sessions.js";
import { askForToken } from "./token.js";
import { clock, rate } from "./units.js";

const LIST_MS = 2000;
const CHOSEN_MS = 1000;
// What an event changed is drawn and read at once, but not more often than this.
const SOON_MS = 200;
const READ_AGAIN_MS = 1000;
// Of how many sessions the measurements are kept beside those of the chosen one.
const SAMPLED_MAX = 100;
const RETRY_MS = 2000;
const FLOWS_MAX = 900;

export class Page {
  constructor() {
    this.history = new History();
    this.skewS = 0;
    this.place = { last: null, heard: () => this.well() };
    this.flows = { at: [], in: [], out: [] };
    this.before = null;
    this.chosen = location.hash.match(/^#([0-9a-f]{32})$/)?.[1] ?? null;
    this.session = null;
    this.ended = null;
    this.readMs = 0;
    this.soon = 0;
    this.detail = new Detail(at("detail"), this.history, () => this.draw());
    this.list = new SessionList(document.querySelector("#sessions .wide"), this.history, (id) => this.choose(id, true));
    this.query = location.search;
  }

  now() {
    return Date.now() / 1000 + this.skewS;
  }

  // --- reading ---

  async readAll() {
    this.readMs = Date.now();
    const [stats, listed, paths] = await Promise.all(
      ["/stats", `/api/v1/sessions${this.query}`, `/api/v1/paths${this.query}`].map(read));
    this.skewS = stats.unix_s - Date.now() / 1000;
    this.flow(stats);
    this.list.update(listed.sessions, paths.paths);
    this.keep(stats.unix_s, listed.sessions, paths.paths);
    this.cards(stats, listed);
    const whole = !listed.more && !this.query;
    if (whole && this.chosen !== null && !this.list.sessions.has(this.chosen)) this.end();
    if (this.chosen === null && listed.sessions.length) this.choose(this.list.first.session_id, false);
    this.well();
  }

  /** What the gateway does not keep: when sessions began, and what was measured. */
  keep(now, listed, paths) {
    for (const session of listed) this.history.born(session.session_id, now - session.age_s, session.state);
    if (listed.length > SAMPLED_MAX) return;
    const bySession = new Map(listed.map((session) => [session.session_id, []]));
    for (const path of paths) bySession.get(path.session_id)?.push(path);
    for (const [id, rows] of bySession) this.history.sample(id, now, rows);
  }

  /** The chosen session is no more; what is known of it stays. */
  end() {
    this.ended = this.chosen;
    this.session = null;
  }

  async readChosen() {
    const id = this.chosen;
    if (id === null || id === this.ended || !this.before) return;
    try {
      const session = await read(`/api/v1/sessions/${id}`);
      if (id !== this.chosen) return;
      this.session = session;
      this.history.transitions(id, session.last_transitions, this.now());
      this.history.sample(id, this.now(), session.paths);
    } catch (error) {
      if (!(error instanceof Missing)) throw error;
      if (id === this.chosen) this.end();
    }
  }

  flow(stats) {
    const now = { up: stats.uptime_s, in: stats.counters.tun_tx_bytes, out: stats.counters.tun_rx_bytes };
    now.drops = dropped(stats.counters).reduce((sum, [, count]) => sum + count, 0);
    const before = this.before, span = now.up - (before?.up ?? 0);
    if (before && span > 0.2) {
      const per = (name) => Math.max(0, now[name] - before[name]) / span;
      this.rates = { in: per("in"), out: per("out"), drops: per("drops") };
      const { flows } = this;
      flows.at.push(stats.unix_s);
      flows.in.push(this.rates.in);
      flows.out.push(this.rates.out);
      for (const list of Object.values(flows)) if (list.length > FLOWS_MAX) list.shift();
    }
    if (!before || span > 0.2 || span < 0) this.before = now;
  }

  // --- drawing ---

  cards(stats, listed) {
    this.firstBox ??= stats.box;
    document.title = `${stats.sessions.ATTACHED} of ${listed.total} attached · ${stats.interface}`;
    put(at("interface"), stats.interface);
    put(at("about"), about(stats));
    at("headline").replaceChildren(headline(stats.sessions, this.rates ?? null));
    const shown = listed.sessions.length;
    put(at("total"), shown === listed.total ? shown : `${shown} of ${listed.total}`);
    if (!listed.total) document.querySelector("#sessions .wide").replaceChildren(nobody(stats.peers));
    document.querySelector("#recovery div").replaceChildren(...recovery(stats.recovery));
    document.querySelector("#drops div").replaceChildren(drops(stats.counters));
    document.querySelector("#box div").replaceChildren(...box(stats.box, this.firstBox));
  }

  draw() {
    if (document.hidden) return;
    const now = this.now(), since = now - this.detail.windowS;
    this.list.show(since, now, this.chosen);
    this.drawFlow(since, now);
    this.drawChosen();
  }

  drawChosen() {
    if (this.chosen !== null && !document.hidden) this.detail.show(this.session, this.now());
  }

  drawFlow(since, now) {
    const section = at("flow");
    section.hidden = false;
    this.flowRange = [since, now];
    this.flowPlot ??= new Plot(section.querySelector(".chart"), {
      names: ["in", "out"], format: rate, height: 92, top: 125, sync: "flow",
      range: () => this.flowRange, readout: section.querySelector(".readout"),
    });
    this.flowPlot.resize();
    this.flowPlot.show([this.flows.at, this.flows.in, this.flows.out]);
  }

  choose(id, byHand) {
    this.chosen = id;
    this.session = null;
    this.detail.choose(id);
    if (byHand) window.history.replaceState(null, "", `${location.pathname}${location.search}#${id}`);
    this.hurry();
  }

  restyle() {
    this.detail.restyle();
    this.flowPlot?.end();
    this.flowPlot = null;
    this.draw();
  }

  // --- events ---

  heard(body) {
    const worthTelling = this.history.event(body);
    if (body.event === "STATE_CHANGE") {
      this.list.change(body);
      if (body.session_id === this.chosen && this.session) {
        if (body.new_state === "TERMINATED") this.end();
        else this.session.state = body.new_state;
      }
      if (this.now() - Date.parse(body.ts) / 1000 < 5) {
        put(at("announce"), `${body.peer}: ${body.new_state}, ${body.reason}`);
      }
    }
    if (!worthTelling) return;
    this.newsDue = true;
    this.hurry();
  }

  /** Draw and read shortly, once for many events. */
  hurry() {
    if (this.soon) return;
    this.soon = setTimeout(() => {
      this.soon = 0;
      this.drawNews();
      this.draw();
      this.guarded(async () => {
        if (Date.now() - this.readMs >= READ_AGAIN_MS) await this.readAll();
        await this.readChosen();
        this.draw();
      });
    }, SOON_MS);
  }

  drawNews() {
    if (!this.newsDue) return;
    this.newsDue = false;
    at("news").hidden = false;
    document.querySelector("#news ol").replaceChildren(...news(this.history.news));
  }

  // --- trouble ---

  well() {
    this.lastWell = Date.now();
    at("trouble").hidden = true;
    document.body.classList.remove("stale");
    put(at("live"), "● live");
    at("live").className = "well";
  }

  ill(error) {
    const since = this.lastWell ? ` What you see is from ${clock(this.lastWell / 1000)}.` : "";
    put(at("trouble"), `The gateway does not answer (${error.message}).${since} Trying again.`);
    at("trouble").hidden = false;
    document.body.classList.add("stale");
    put(at("live"), "○ not live");
    at("live").className = "";
  }

  async guarded(work) {
    try {
      await work();
    } catch (error) {
      if (error instanceof Denied) askForToken();
      else this.ill(error);
    }
  }

  // --- running ---

  run() {
    if (this.chosen !== null) this.choose(this.chosen, false);
    this.every(LIST_MS, async () => {
      await this.readAll();
      this.draw();
    });
    this.every(CHOSEN_MS, async () => {
      await this.readChosen();
      this.drawChosen();
    });
    this.listen();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.restyle());
    addEventListener("resize", () => this.draw());
    document.addEventListener("visibilitychange", () => this.hurry());
  }

  /** Again and again, each time `ms` after the one before has ended. */
  async every(ms, work) {
    for (;;) {
      if (!document.hidden) await this.guarded(work);
      await new Promise((done) => setTimeout(done, ms));
    }
  }

  async listen() {
    for (;;) {
      try {
        for await (const { name, body } of follow(this.place)) if (name !== "MISSED") this.heard(body);
      } catch (error) {
        if (error instanceof Denied) askForToken();
      }
      await new Promise((done) => setTimeout(done, RETRY_MS));
    }
  }
}
