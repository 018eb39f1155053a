// Requests to the server; writes are kept and repeated until the server has them on disk.

/** The server has refused a request. */
export class Refused extends Error {}

/** The server does not answer. */
export class Away extends Error {}

function send(path, options) {
  return fetch(path, options).catch(() => {
    throw new Away("The server does not answer");
  });
}

async function accepted(response) {
  if (response.ok) return response;
  const type = response.headers.get("content-type") ?? "";
  const text = type.includes("json") ? (await response.json()).error : await response.text();
  throw new Refused(text || `refused (${response.status})`);
}

export async function ask(path, query = {}) {
  return (await accepted(await send(`/api/${path}?${new URLSearchParams(query)}`))).json();
}

export async function fetchBytes(path) {
  return accepted(await send(`/api/${path}`));
}

/** A new identifier for an action: the server does an action that it gets twice only once. */
export function actionName() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export async function post(name, body) {
  const response = await send(`/api/${name}`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ action: actionName(), ...body }),
  });
  return (await accepted(response)).json();
}

/** Sends writes one after the other, each until the server has it on disk. */
export class Outbox {
  #waiting = [];
  #sending = false;

  /** `report(status, text)` is called with "saved", "waiting" or "failed". */
  constructor(report) {
    this.report = report;
    addEventListener("beforeunload", (event) => {
      if (this.#waiting.length) event.preventDefault();
    });
  }

  get empty() {
    return this.#waiting.length === 0;
  }

  /** Changes that the server has not confirmed, oldest first. */
  changes() {
    return this.#waiting.flatMap(({ body }) => body.changes ?? []);
  }

  /** Resolves with the server's answer; rejects where the server refuses. */
  send(name, body) {
    return new Promise((resolve, reject) => {
      const request = { action: actionName(), ...body };
      this.#waiting.push({ name, body: request, resolve, reject });
      this.#run();
    });
  }

  async #run() {
    if (this.#sending) return;
    this.#sending = true;
    while (this.#waiting.length) {
      const { name, body, resolve, reject } = this.#waiting[0];
      this.report("waiting", "Saving");
      try {
        const answer = await post(name, body);
        this.#waiting.shift();
        resolve(answer);
        if (this.empty) this.report("saved", "Saved");
      } catch (error) {
        if (error instanceof Refused) {
          this.#waiting.shift();
          this.report("failed", `Not saved: ${error.message}`);
          reject(error);
        } else {
          this.report("failed", "NOT SAVED: the server does not answer; trying again");
          await new Promise((wake) => setTimeout(wake, 1000));
        }
      }
    }
    this.#sending = false;
  }
}
