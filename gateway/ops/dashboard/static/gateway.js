// SPDX-License-Identifier: Apache-2.0
// Asking the gateway. The token, where one is asked for, lives in this tab's sessionStorage and travels in a header:
// never in an address, which logs and histories keep. EventSource sends no headers, so the stream is read by fetch.

const KEY = "jvpn-token";
const PATIENCE_MS = 9000;

export class Denied extends Error {}
export class Missing extends Error {}

export function remember(token) {
  sessionStorage.setItem(KEY, token);
}

/** Whether this tab has a token, which then may be the wrong one. */
export function remembers() {
  return sessionStorage.getItem(KEY) !== null;
}

function headers(more) {
  const token = sessionStorage.getItem(KEY);
  return token ? { ...more, Authorization: `Bearer ${token}` } : more;
}

async function checked(answer) {
  if (answer.ok) return answer;
  const why = (await answer.json()).error?.message ?? `status ${answer.status}`;
  throw new ({ 401: Denied, 404: Missing }[answer.status] ?? Error)(why);
}

export async function read(path) {
  const signal = AbortSignal.timeout(PATIENCE_MS);
  return (await checked(await fetch(path, { headers: headers({}), cache: "no-store", signal }))).json();
}

/** Events as they come; `place.last` is where to go on after a break, `place.heard` is called with each piece. */
export async function* follow(place) {
  const more = place.last ? { "Last-Event-ID": place.last } : {};
  const path = place.last ? "/api/v1/events" : "/api/v1/events?since=0";
  const answer = await checked(await fetch(path, { headers: headers(more), cache: "no-store" }));
  const text = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await text.read();
    if (done) return;
    place.heard();
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const found = parsed(block);
      if (!found) continue;
      place.last = found.id ?? place.last;
      yield found;
    }
  }
}

/** One block of a stream; comments are null. */
function parsed(block) {
  const fields = {};
  for (const line of block.split("\n")) {
    const at = line.indexOf(": ");
    if (at > 0) fields[line.slice(0, at)] = line.slice(at + 2);
  }
  return fields.data ? { id: fields.id, name: fields.event, body: JSON.parse(fields.data) } : null;
}
