// SPDX-License-Identifier: Apache-2.0
// The figures at the top, and the cards below the sessions: recovery times, drops, the machine, what happened.

import { STATES, barTable, glyph, make, plainTable } from "./dom.js";
import { data, duration, rate, seconds } from "./units.js";
import { line } from "./words.js";

const NICS_MAX = 8;
const NEWS_SHOWN = 40;

function counted(count, one, many) {
  return `${count} ${count === 1 ? one : many}`;
}

export function about(stats) {
  const failing = Object.entries(stats.ready).filter(([, holds]) => !holds).map(([name]) => name.replaceAll("_", " "));
  const health = failing.length ? `NOT READY: ${failing.join(", ")}` : stats.phase;
  const peers = `${counted(stats.peers, "peer", "peers")} configured`;
  return `${health} · up ${duration(stats.uptime_s)} · ${peers} · version ${stats.version}`;
}

function stateFigure(name, count) {
  const label = make("dt", {}, glyph(name), ` ${name.toLowerCase()}`);
  return make("div", { class: `state ${name.toLowerCase()}${count ? "" : " quiet"}` }, label, make("dd", {}, count));
}

function flowFigure(label, name, value, hot) {
  return make("div", { class: `flow ${name}${hot ? " hot" : ""}` }, make("dt", {}, label), make("dd", {}, value));
}

/** `flow` is {in, out, drops} a second, or null before the second reading. */
export function headline(states, flow) {
  const shown = STATES.filter((name) => name !== "BIRTH" || states[name]);
  const figures = shown.map((name) => stateFigure(name, states[name]));
  if (flow) {
    figures.push(flowFigure("In", "in", rate(flow.in)), flowFigure("Out", "out", rate(flow.out)));
    figures.push(flowFigure("Drops", "drops", `${flow.drops.toFixed(0)} /s`, flow.drops >= 1));
  }
  return make("dl", { class: "figures" }, ...figures);
}

export function recovery({ bounds_s: bounds, counts, total_s: totalS }) {
  const all = counts.reduce((sum, count) => sum + count, 0);
  if (!all) return [make("p", { class: "calm" }, "No session has had to recover.")];
  const names = [...bounds.map((s) => `≤ ${seconds(s)}`), `> ${seconds(bounds.at(-1))}`];
  const highest = Math.max(...counts), rows = counts.map((count, at) => [names[at], count / highest, count]);
  return [
    make("p", { class: "calm" }, `${counted(all, "recovery", "recoveries")}, ${seconds(totalS / all)} on average`),
    barTable("Recoveries by the time they took", rows),
  ];
}

/** [reason, count] of every drop that happened. */
export function dropped(counters) {
  return Object.entries(counters)
    .filter(([name, count]) => name.startsWith("drop_") && count)
    .map(([name, count]) => [name.slice("drop_".length), count]);
}

export function drops(counters) {
  const found = dropped(counters).sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1));
  if (!found.length) return make("p", { class: "calm" }, "Nothing was dropped.");
  return barTable("Dropped packets by reason", found.map(([name, count]) => [name, count / found[0][1], count]));
}

/** A count that should be zero; it is hot when it has grown since `before`. */
function zero(count, before) {
  const kind = count > (before ?? count) ? "hot" : count ? "some" : "quiet";
  return make("span", { class: kind }, count);
}

/** `first` is the box when this page was opened. */
export function box({ cpu, memory, process, udp, nics, temperatures_c: temperatures }, first) {
  const used = memory.total_bytes - memory.available_bytes;
  const own = `${process.cpu_percent.toFixed(0)} % CPU, ${data(process.rss_bytes)}, ${process.fds} files`;
  const bars = [
    ...cpu.per_core_percent.map((percent, at) => [`CPU ${at}`, percent / 100, `${percent.toFixed(0)} %`]),
    ["Memory", used / (memory.total_bytes || 1), `${data(used)} of ${data(memory.total_bytes)}`],
  ];
  const rows = [
    ["Load", cpu.load.map((one) => one.toFixed(2)).join(" ")],
    ["This process", own],
    ...Object.entries(temperatures).map(([name, value]) => [`${name} °C`, value.toFixed(0)]),
    ...Object.entries(udp).map(([name, count]) => [`UDP ${name.replaceAll("_", " ")}`, zero(count, first.udp[name])]),
  ];
  return [
    barTable("Processors and memory", bars),
    plainTable("Load, this process, UDP errors", rows),
    nicTable(nics, first.nics),
  ];
}

function nicTable(nics, first) {
  const moved = ([, nic]) => nic.rx_bytes + nic.tx_bytes;
  const busiest = Object.entries(nics).sort((a, b) => moved(b) - moved(a) || (a[0] < b[0] ? -1 : 1));
  const head = ["Interface", "received", "sent", "drops", "errors"].map((name, at) => (
    make("th", { scope: "col", class: at ? "number" : "" }, name)));
  const rows = busiest.slice(0, NICS_MAX).map(([name, nic]) => {
    const before = first[name] ?? nic;
    const values = [
      data(nic.rx_bytes), data(nic.tx_bytes),
      zero(nic.rx_drops + nic.tx_drops, before.rx_drops + before.tx_drops),
      zero(nic.rx_errors + nic.tx_errors, before.rx_errors + before.tx_errors),
    ];
    return make("tr", {}, make("th", { scope: "row" }, name), ...values.map((v) => make("td", { class: "number" }, v)));
  });
  return make("table", { class: "nics" }, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...rows));
}

export function news(found) {
  return found.slice(-NEWS_SHOWN).reverse().map((one) => line(one, true));
}
