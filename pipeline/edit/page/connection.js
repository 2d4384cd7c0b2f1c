// One session's socket: says, hears, and connects again when it was cut off.
import { sentence } from "./texts.js";

const encoder = new TextEncoder();
const decoder = new TextDecoder();

export function pack(header, body = new Uint8Array()) {
  const text = encoder.encode(JSON.stringify(header));
  const data = new Uint8Array(4 + text.length + body.length);
  new DataView(data.buffer).setUint32(0, text.length);
  data.set(text, 4);
  data.set(body, 4 + text.length);
  return data;
}

export function unpack(buffer) {
  const length = new DataView(buffer).getUint32(0);
  return [JSON.parse(decoder.decode(new Uint8Array(buffer, 4, length))), new Uint8Array(buffer, 4 + length)];
}

export async function ask(method, path, body) {
  const answer = await fetch(path, { method, body });
  if (!answer.ok) {
    const text = await answer.text();
    let told = { message: text };
    try { const { detail, code, values } = JSON.parse(text); told = { message: detail ?? text, code, values }; } catch { /* plain text */ }
    const error = new Error(sentence(told));
    error.status = answer.status;
    throw error;
  }
  return answer.status === 204 ? null : answer.json();
}

export class Connection extends EventTarget {
  constructor(session) {
    super();
    this.session = session;
    this.tries = 0;
    this.#open();
  }

  path(rest) { return `/api/sessions/${this.session}/${rest}`; }

  say(type, values = {}, body = undefined) {
    const data = pack({ type, ...values }, body);
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(data);
    else if (this.socket.readyState === WebSocket.CONNECTING && !this.tries) this.socket.addEventListener("open", () => this.socket.send(data), { once: true });
    else this.dispatchEvent(new Event("unsaid"));
  }

  #open() {
    const address = new URL(this.path("socket"), location.href);
    address.protocol = address.protocol.replace("http", "ws");
    this.socket = new WebSocket(address);
    this.socket.binaryType = "arraybuffer";
    let heard = false; // the studio may yet refuse what was opened: its first word counts
    this.socket.onmessage = (message) => {
      if (!heard) { this.dispatchEvent(new CustomEvent("open", { detail: { again: this.tries > 0 } })); this.tries = 0; heard = true; }
      const [header, body] = unpack(message.data);
      this.dispatchEvent(new CustomEvent(header.type, { detail: { header, body } }));
    };
    this.socket.onclose = (closed) => {
      if (closed.code === 4404) { this.dispatchEvent(new Event("gone")); return; }
      this.tries += 1;
      this.dispatchEvent(new CustomEvent("lost", { detail: { reason: closed.reason } }));
      setTimeout(() => this.#open(), Math.min(4000, 250 * 2 ** Math.min(this.tries, 4)));
    };
  }
}
