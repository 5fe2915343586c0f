// SPDX-License-Identifier: Apache-2.0
// Numbers for people. units.py says the same for the page without JavaScript.

const PREFIXES = ["", "k", "M", "G", "T", "P"];
export const MISSING = "–";

function three(value, whole = false) {
  if (whole || value >= 99.95) return value.toFixed(0);
  return value.toFixed(value >= 9.995 ? 1 : 2);
}

export function scaled(value, unit) {
  let power = 0;
  while (value >= 999.5 && power < PREFIXES.length - 1) {
    value /= 1000;
    power += 1;
  }
  return `${three(value, power === 0)} ${PREFIXES[power]}${unit}`;
}

export const data = (bytes) => scaled(bytes, "B");
export const rate = (bytesPerS) => scaled(8 * bytesPerS, "bit/s");
export const percent = (share) => (share === null ? MISSING : `${(100 * share).toFixed(1)} %`);
export const milliseconds = (value) => (value === null ? MISSING : `${three(value)} ms`);

/** The two largest units that are not zero. */
export function duration(s) {
  if (s < 60) return s < 9.95 ? `${s.toFixed(1)} s` : `${s.toFixed(0)} s`;
  const left = Math.round(s);
  const days = Math.floor(left / 86400), hours = Math.floor(left / 3600) % 24, minutes = Math.floor(left / 60) % 60;
  if (days) return `${days} d ${hours} h`;
  return hours ? `${hours} h ${minutes} min` : `${minutes} min ${left % 60} s`;
}

/** Time of day here, of Unix seconds. */
export function clock(unixS) {
  return new Date(1000 * unixS).toLocaleTimeString("en-GB");
}

/** A time that is short as a rule. */
export function seconds(s) {
  if (s >= 99.5) return duration(s);
  if (s < 0.0005) return "< 1 ms";
  return s < 0.9995 ? `${+(s * 1000).toPrecision(3)} ms` : `${+s.toPrecision(3)} s`;
}
