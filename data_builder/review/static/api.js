// Speaks with the server: questions, and writes that are kept until they are on disk.

/** The server answered, and refused. */
export class Refused extends Error {}

/** The server did not answer. */
export class Away extends Error {}

function send(path, options) {
  return fetch(path, options).catch(() => {
    throw new Away("The server does not answer");
  });
}

async function answer(response) {
  if (response.ok) return response;
  const type = response.headers.get("content-type") ?? "";
  const text = type.includes("json") ? (await response.json()).error : await response.text();
  throw new Refused(text || `refused (${response.status})`);
}

export async function ask(path, query = {}) {
  return (await answer(await send(`/api/${path}?${new URLSearchParams(query)}`))).json();
}

export async function fetchBytes(path) {
  return answer(await send(`/api/${path}`));
}

/** A new name for an action: if it must be sent twice it is done once. */
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
  return (await answer(response)).json();
}

/** Sends writes one after the other, in order, each until the server has it on disk. */
export class Outbox {
  #waiting = [];
  #sending = false;

  /** `tell(state, text)`: state is "saved", "waiting" or "failed". */
  constructor(tell) {
    this.tell = tell;
    addEventListener("beforeunload", (event) => {
      if (this.#waiting.length) event.preventDefault();
    });
  }

  get empty() {
    return this.#waiting.length === 0;
  }

  /** Changes that are not known to be on disk, oldest first. */
  changes() {
    return this.#waiting.flatMap(({ body }) => body.changes ?? []);
  }

  /** Resolves with the server's answer; rejects where the server refused. */
  send(name, body) {
    return new Promise((resolve, reject) => {
      const whole = { action: actionName(), ...body };
      this.#waiting.push({ name, body: whole, resolve, reject });
      this.#run();
    });
  }

  async #run() {
    if (this.#sending) return;
    this.#sending = true;
    while (this.#waiting.length) {
      const { name, body, resolve, reject } = this.#waiting[0];
      this.tell("waiting", "Saving");
      try {
        const told = await post(name, body);
        this.#waiting.shift();
        resolve(told);
        if (this.empty) this.tell("saved", "Saved");
      } catch (error) {
        if (error instanceof Refused) {
          this.#waiting.shift();
          this.tell("failed", `Not saved: ${error.message}`);
          reject(error);
        } else {
          this.tell("failed", "NOT SAVED: the server does not answer; trying again");
          await new Promise((wake) => setTimeout(wake, 1000));
        }
      }
    }
    this.#sending = false;
  }
}
