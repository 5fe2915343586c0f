// SPDX-License-Identifier: Apache-2.0
// One session: its states over time, its paths, how they were measured, and what happened to it.

import { LEFT_PX, Plot, RIGHT_PX, look } from "./charts.js";
import { draw, make, put, stateMark } from "./dom.js";
import { lanes } from "./strip.js";
import { MISSING, duration, milliseconds, percent } from "./units.js";
import { line } from "./words.js";

const WINDOWS = [[60, "1 min"], [300, "5 min"], [900, "15 min"]];
const PATHS_MAX = 12;
const COLUMNS = ["", "Path", "Transport", "Status", "Tier", "Loss", "RTT", "Jitter", "Score", "Penalty", "Heard"];
const MEASURES = [
  { key: "rtt", title: "Round trip", format: (v) => `${+v.toPrecision(3)} ms`, top: 1 },
  { key: "loss", title: "Loss", format: (v) => `${+v.toPrecision(3)} %`, top: 2 },
  { key: "score", title: "Score", format: (v) => `${+v.toPrecision(3)}`, top: 1 },
];

/** A piece of the line that a path has in the plots. */
function sample(number) {
  const { stroke, dash } = look(number);
  const stroked = { x1: 0, x2: 30, y1: 5, y2: 5, stroke, "stroke-width": 2, "stroke-dasharray": dash.join(" ") };
  return draw("svg", { width: 30, height: 10, "aria-hidden": "true" }, draw("line", stroked));
}

export class Detail {
  constructor(section, history, windowChanged) {
    this.section = section;
    this.history = history;
    this.windowS = 300;
    this.id = null;
    this.pathIds = [];
    this.plots = [];
    this.range = [0, 1];
    this.build(windowChanged);
  }

  build(windowChanged) {
    this.title = make("h2", { id: "detail-title" });
    this.facts = make("p", { class: "facts" });
    this.span = make("select", { id: "span" }, ...WINDOWS.map(([s, name]) => make("option", { value: s }, name)));
    this.span.value = this.windowS;
    this.span.addEventListener("change", () => {
      this.windowS = Number(this.span.value);
      windowChanged();
    });
    this.strip = make("div", { class: "strip" });
    this.paths = make("tbody");
    this.charts = make("div", { class: "charts" });
    this.news = make("ol", { class: "news" });
    this.hint = make("small");
    const head = COLUMNS.map((name, at) => make("th", { scope: "col", class: at > 4 ? "number" : "" }, name));
    const table = make("table", { class: "paths" }, make("thead", {}, make("tr", {}, ...head)), this.paths);
    this.section.replaceChildren(
      make("div", { class: "bar-of-title" }, this.title,
        make("label", { for: "span" }, "Time shown ", this.span)),
      this.facts, this.strip, this.charts, make("div", { class: "wide" }, table),
      make("h3", {}, "What happened to it ", this.hint), this.news);
  }

  /** Another session, or none. */
  choose(id) {
    this.id = id;
    this.section.hidden = id === null;
    this.restyle();
  }

  /** Plots are made anew: with other lines, or in other colours. */
  restyle() {
    this.plots.forEach((plot) => plot.end());
    this.plots = [];
    this.pathIds = [];
  }

  /** `session` is its document, null when it has ended. */
  show(session, now) {
    this.range = [now - this.windowS, now];
    if (session) this.head(session);
    else this.title.replaceChildren(this.name ?? "", " ", make("small", {}, "has ended"));
    const spans = this.history.spans(this.id, this.range[0], now);
    const width = Math.max(300, this.strip.clientWidth);
    this.strip.replaceChildren(lanes(spans, ...this.range, width, LEFT_PX, RIGHT_PX));
    this.plot();
    this.tell();
  }

  head(session) {
    this.name = session.peer || session.session_id;
    this.title.replaceChildren(this.name, " ", stateMark(session.state));
    if (this.hint.dataset.name !== this.name) {
      this.hint.dataset.name = this.name;
      const why = make("code", {}, `jvpn why ${this.name}`), all = make("code", {}, `jvpn timeline ${this.name}`);
      this.hint.replaceChildren("the numbers behind it: ", why, " and ", all);
    }
    const leftS = session.window_left_s;
    const left = leftS === null ? "" : ` · ends in ${duration(leftS)} without a transport`;
    put(this.facts, [
      session.stock ? "stock WireGuard" : "jump", session.suite, `age ${duration(session.age_s)}`,
      `version ${session.state_version}`, `epoch ${session.binding_epoch}`, `id ${session.session_id.slice(0, 12)}`,
    ].join(" · ") + left);
    const paths = session.paths.toSorted((a, b) => a.path_id - b.path_id);
    this.paths.replaceChildren(...paths.slice(0, PATHS_MAX).map((path) => this.path(path)));
  }

  path(path) {
    const values = [
      percent(path.loss), milliseconds(path.srtt_ms), milliseconds(path.jitter_ms), path.score.toFixed(2),
      path.penalty ? path.penalty.toFixed(2) : MISSING, `${duration(path.heard_s)} ago`,
    ];
    return make("tr", { class: path.status.toLowerCase() },
      make("td", {}, sample(path.path_id - 1)),
      make("th", { scope: "row" }, path.path_id),
      ...[path.address, path.status, path.tier].map((text) => make("td", {}, text)),
      ...values.map((text) => make("td", { class: "number" }, text)));
  }

  plot() {
    const { samples, switches } = this.history.of(this.id);
    const known = new Set(samples.flatMap(({ paths }) => [...paths.keys()]));
    const ids = [...known].sort((a, b) => a - b).slice(-PATHS_MAX);
    if (!this.plots.length || ids.join() !== this.pathIds.join()) this.replot(ids);
    const times = samples.map(({ at }) => at);
    MEASURES.forEach(({ key }, number) => {
      const lines = ids.map((id) => samples.map(({ paths }) => paths.get(id)?.[key] ?? null));
      const markers = switches.map(({ at, from, to, reason }) => (
        { at, text: number === 0 ? `${from || "–"}→${to} ${reason}` : "" }));
      this.plots[number].resize();
      this.plots[number].show([times, ...lines], markers);
    });
  }

  replot(ids) {
    this.restyle();
    this.pathIds = ids;
    const hosts = MEASURES.map(({ key, title }) => {
      const readout = make("span", { class: "readout" });
      const label = `${title} of each path over time; the table of paths has the newest values`;
      const host = make("div", { class: "plot", role: "img", "aria-label": label });
      const box = make("div", { class: `measure ${key}` }, make("h3", {}, title, " ", readout), host);
      return { readout, host, box };
    });
    this.charts.replaceChildren(...hosts.map(({ box }) => box));
    this.plots = MEASURES.map(({ format, top }, number) => new Plot(hosts[number].host, {
      names: ids.map((id) => `path ${id}`), numbers: ids.map((id) => id - 1), format, top, height: number ? 96 : 132,
      range: () => this.range, readout: hosts[number].readout, sync: "paths",
    }));
  }

  tell() {
    const news = this.history.of(this.id).news, last = news.at(-1);
    if (this.told === last && this.toldOf === this.id) return;
    [this.told, this.toldOf] = [last, this.id];
    this.news.replaceChildren(...news.toReversed().map((one) => line(one, false)));
  }
}
