// SPDX-License-Identifier: Apache-2.0
// Plots over time with uPlot, which draws on a canvas and sets styles through CSSOM, as the page's policy wants it.

import { make, put } from "./dom.js";
import { clock } from "./units.js";

export const LEFT_PX = 78;
export const RIGHT_PX = 28;
const DASHES = [[], [6, 4], [2, 3], [10, 3, 2, 3]];
const LABEL_LANES = 3;

function css(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

/** The look of line number n: colour and dashes both tell which one it is. */
export function look(number) {
  return { stroke: css(`--line-${(number % 6) + 1}`), dash: DASHES[number % DASHES.length] };
}

function axes(format) {
  const common = { stroke: css("--soft"), font: "11px system-ui, sans-serif", ticks: { show: false } };
  const grid = { stroke: css("--rule"), width: 1 };
  return [
    { ...common, grid, size: 22, values: (_, splits) => splits.map(clock), space: 90 },
    { ...common, grid, size: LEFT_PX, gap: 8, space: 28, values: (_, splits) => splits.map(format) },
  ];
}

/** The text of a marker, in a lane where it covers no other; `free` is up to where each lane is, and newer markers come
    first. Where there is no room the line stands alone: the list of what happened has them all. */
function label(mark, left, wide, text, free) {
  const words = make("span", {}, text);
  mark.append(words);
  const width = words.offsetWidth, begins = Math.max(0, Math.min(left + 3, wide - width));
  const lane = free.findIndex((end) => begins + width + 6 <= end);
  if (lane < 0) words.remove();
  else free[lane] = begins;
  words.style.left = `${(begins - left).toFixed(1)}px`;
  mark.className = `marker lane-${lane}`;
}

/** One plot. `names` are its lines; `range` gives the time shown, `top` the least height of its scale. */
export class Plot {
  constructor(host, { names, numbers, format, height, range, top, readout, sync, decimals }) {
    this.host = host;
    this.markers = [];
    this.names = names;
    this.format = format;
    this.readout = readout;
    const lines = names.map((_, at) => ({ ...look(numbers?.[at] ?? at), width: 1.5, points: { show: false } }));
    this.plot = new uPlot({
      width: Math.max(200, host.clientWidth),
      height,
      padding: [6, RIGHT_PX, 0, 0],
      legend: { show: false },
      cursor: { sync: { key: sync }, drag: { x: false, y: false }, y: false, points: { size: 6 } },
      scales: { x: { range }, y: { range: (_, _low, high) => [0, Math.max(top, 1.15 * (high ?? 0))] } },
      axes: axes(format),
      series: [{}, ...lines],
      hooks: { draw: [() => this.place()], setCursor: [() => this.tell()] },
    }, [[], ...names.map(() => [])], host);
  }

  /** Times first, then one list for each line. `markers` are {at, text}. */
  show(data, markers = []) {
    this.markers = markers;
    this.plot.setData(data);
    this.tell();
  }

  resize() {
    const width = Math.max(200, this.host.clientWidth);
    if (width !== this.plot.width) this.plot.setSize({ width, height: this.plot.height });
  }

  end() {
    this.plot.destroy();
  }

  /** The values under the cursor, or the newest ones. */
  tell() {
    const { plot } = this;
    if (!plot?.data?.[0] || !this.readout) return;
    const at = plot.cursor.idx ?? plot.data[0].length - 1;
    const values = this.names.map((name, number) => {
      const value = plot.data[number + 1][at];
      return `${name} ${value === null || value === undefined ? "–" : this.format(value)}`;
    });
    put(this.readout, values.join("  ·  "));
  }

  /** A line for each marker, with its text where it has one. */
  place() {
    const { over, scales } = this.plot, wide = over.clientWidth;
    over.querySelectorAll(".marker").forEach((old) => old.remove());
    const free = Array(LABEL_LANES).fill(Infinity), shown = ({ at }) => at >= scales.x.min && at <= scales.x.max;
    this.markers.filter(shown).toReversed().forEach(({ at, text }) => {
      const mark = make("div", { class: "marker" }), left = this.plot.valToPos(at, "x");
      mark.style.left = `${left.toFixed(1)}px`;
      over.append(mark);
      if (text) label(mark, left, wide, text, free);
    });
  }
}
