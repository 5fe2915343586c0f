// SPDX-License-Identifier: Apache-2.0
// States over time. Trouble stands higher, so that colour is not what tells states apart.

import { draw } from "./dom.js";
import { clock, duration } from "./units.js";

const LANES = ["RECOVERING", "DEGRADED", "VOLATILE", "ATTACHED", "BIRTH"];
const HEIGHTS = { BIRTH: 2, ATTACHED: 3, VOLATILE: 6, DEGRADED: 9, RECOVERING: 12 };
const LANE_PX = 15;

function words(span) {
  const reason = span.reason ? `, ${span.reason}` : "";
  return `${span.state} from ${clock(span.from)} for ${duration(span.until - span.from)}${reason}`;
}

/** One line of the list of sessions. */
export function miniature(spans, since, now) {
  const scale = 100 / (now - since);
  const parts = spans.map((span) => {
    const x = Math.max(0, (span.from - since) * scale), height = HEIGHTS[span.state] ?? 2;
    const width = Math.max(0.8, (span.until - since) * scale - x);
    const place = { x: x.toFixed(2), width: width.toFixed(2), y: 12 - height, height };
    return draw("rect", { ...place, class: `span ${span.state.toLowerCase()}` }, draw("title", {}, words(span)));
  });
  const label = spans.length ? words(spans.at(-1)) : "nothing known";
  const box = { class: "miniature", viewBox: "0 0 100 12", preserveAspectRatio: "none", role: "img" };
  return draw("svg", { ...box, "aria-label": label }, ...parts);
}

/** A lane for each state; `left` and `right` are the margins that the charts below have too. */
export function lanes(spans, since, now, width, left, right) {
  const height = LANES.length * LANE_PX, scale = (width - left - right) / (now - since);
  const parts = LANES.flatMap((state, lane) => {
    const y = (lane + 0.5) * LANE_PX;
    return [
      draw("text", { x: left - 8, y: y + 3.5, "text-anchor": "end", class: "lane" }, state.toLowerCase()),
      draw("line", { x1: left, x2: width - right, y1: y, y2: y, class: "lane" }),
    ];
  });
  for (const span of spans) {
    const lane = LANES.indexOf(span.state), x = left + Math.max(0, span.from - since) * scale;
    const until = left + (span.until - since) * scale;
    const wide = Math.max(2, until - x).toFixed(1), place = { x: x.toFixed(1), y: lane * LANE_PX + 1 };
    const shape = { ...place, width: wide, height: LANE_PX - 2, rx: 2, class: `span ${span.state.toLowerCase()}` };
    parts.push(draw("rect", shape, draw("title", {}, words(span))));
    if (span.reason && until - x > 7 * span.reason.length) {
      parts.push(draw("text", { x: x + 5, y: lane * LANE_PX + 10.5, class: "why" }, span.reason));
    }
  }
  const label = `States over time: ${spans.slice(-6).map(words).join("; ") || "nothing known"}`;
  return draw("svg", { class: "lanes", width, height, role: "img", "aria-label": label }, ...parts);
}
