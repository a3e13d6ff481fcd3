// Requests to the server. The key is kept in this module's memory, and nowhere else.

import { parse, write } from "./exact.js";

let key = "";

export class Failure extends Error {
  constructor(message, status) {
    super(message);
    this.status = status; // 0: no answer
  }
}

export const events = new EventTarget(); // "gone", "back", "key"
let gone = false;

export const hasKey = () => key !== "";
export function useKey(value) { key = value.trim(); }
export const isGone = () => gone;

/** Return the JSON of an answer. */
export const get = (path, signal) => answered(path, { signal });
export const post = (path, body, signal) => answered(path, {
  method: "POST", body: write(body), headers: { "content-type": "application/json" }, signal,
});
export const remove = (path, signal) => answered(path, { method: "DELETE", signal });

/** Return the bytes of an answer. */
export async function download(path, signal, progress) {
  const response = await request(path, { signal });
  const reader = response.body.getReader();
  const parts = [];
  let length = 0;
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    parts.push(part.value);
    length += part.value.length;
    progress?.(length);
  }
  const bytes = new Uint8Array(length);
  let place = 0;
  for (const part of parts) { bytes.set(part, place); place += part.length; }
  return bytes.buffer;
}

async function answered(path, options) {
  const response = await request(path, options);
  try {
    return parse(await response.text());
  } catch (error) {
    throw options.signal?.aborted ? error : lost();
  }
}

async function request(path, options) {
  const headers = { ...options.headers };
  if (key) headers.authorization = `Bearer ${key}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers, cache: "no-store" });
  } catch (error) {
    throw options.signal?.aborted ? error : lost();
  }
  if (response.ok) return response;
  const text = await response.text().catch(() => "");
  let message = `the server answered with status ${response.status}`;
  try { message = JSON.parse(text).error.message; } catch { /* a proxy answers in its own words */ }
  if (response.status === 401) events.dispatchEvent(new Event("key"));
  throw new Failure(message, response.status);
}

function lost() {
  if (!gone) {
    gone = true;
    events.dispatchEvent(new Event("gone"));
    look(500);
  }
  return new Failure("the server does not answer", 0);
}

/** Ask whether the server is there again, less and less often. */
function look(pause) {
  setTimeout(async () => {
    try {
      const response = await fetch("/health/live", { cache: "no-store" });
      if (!response.ok) throw new Error("not yet");
      gone = false;
      events.dispatchEvent(new Event("back"));
    } catch {
      look(Math.min(pause * 2, 8000));
    }
  }, pause);
}

/** Call `each` with the data of every server-sent event until aborted; begins again whenever the stream ends. */
export async function stream(path, each, signal) {
  while (!signal.aborted) {
    try {
      const response = await request(path, { signal });
      await read(response.body.pipeThrough(new TextDecoderStream()).getReader(), each);
    } catch (error) {
      if (signal.aborted) return;
      if (error.status) throw error; // refused: asking again would be refused again
      if (!gone) lost();
      await new Promise((resolve) => {
        events.addEventListener("back", resolve, { once: true });
        signal.addEventListener("abort", resolve, { once: true });
      });
    }
  }
}

async function read(reader, each) {
  let rest = "";
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    rest += part.value;
    const events = rest.split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const data = event.split("\n").filter((line) => line.startsWith("data: ")).map((line) => line.slice(6)).join("\n");
      if (data) each(parse(data));
    }
  }
}
