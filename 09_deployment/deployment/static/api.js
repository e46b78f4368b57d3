/** Talking to the server: requests, errors in words, and server-sent events. */

const KEY = "nullm-key";

/** An error, in a sentence for people. */
export class ServerError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

/** Keep an API key until the tab is closed; an empty one forgets it. */
export function setKey(key) {
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
}

async function send(path, body, signal) {
  const headers = {};
  const key = sessionStorage.getItem(KEY);
  if (key) headers.Authorization = `Bearer ${key}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    const method = body === undefined ? "GET" : "POST";
    response = await fetch(path, { method, headers, signal, body: body === undefined ? undefined : JSON.stringify(body) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError("The server cannot be reached. Is it running?", 0);
  }
  if (!response.ok) throw await explain(response);
  return response;
}

async function explain(response) {
  let message = `The server answered with status ${response.status}.`;
  try {
    message = (await response.json()).error.message;
  } catch {
    // not an answer of the server itself, but of a proxy, for example
  }
  const wait = response.headers.get("Retry-After");
  if (wait) message += ` Try again in ${wait} s.`;
  return new ServerError(message, response.status);
}

/** GET, or POST if there is a body. Returns the JSON of the answer. */
export async function ask(path, body, signal) {
  return (await send(path, body, signal)).json();
}

/** Generate; yields the events of the stream as {name, data}. An `error` event is thrown. */
export async function* generate(body, signal) {
  const response = await send("/generate", { ...body, stream: true }, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      buffer += value;
      const events = buffer.split("\n\n");
      buffer = events.pop();
      for (const event of events) {
        const name = /^event: (.*)$/m.exec(event)?.[1] ?? "message";
        const data = JSON.parse(/^data: (.*)$/m.exec(event)[1]);
        if (name === "error") throw new ServerError(data.error.message, 200);
        yield { name, data };
        if (name === "end") return;
      }
    }
  } catch (error) {
    if (error instanceof TypeError) throw new ServerError("The connection was lost.", 0);
    throw error;
  } finally {
    reader.cancel().catch(() => {});
  }
  throw new ServerError("The connection was lost before the answer was complete.", 0);
}
