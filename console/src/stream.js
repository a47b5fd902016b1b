// The client side of barograph.v1: one socket, its subscriptions, honest reconnects.
// Every binary message is a 24-byte header and an Arrow message; the schema comes first, so a batch is decoded together
// with the schema of its subscription.

import { tableFromIPC } from "../vendor/flechette.mjs";

export const PROTOCOL = "barograph.v1";
const KIND = { schema: 0, batch: 1, digest: 2, end: 3 };
export const FLAG = { replayed: 1, gap: 2, conflated: 4 };
const BACKOFF_MS = { first: 400, most: 10_000 };
const SILENCE_MS = 6_000; // a heartbeat comes each second: six missed mean that the connection is dead, whatever TCP says

export function decodeHeader(buffer) {
  const view = new DataView(buffer);
  return {
    version: view.getUint8(0), kind: view.getUint8(1), flags: view.getUint16(2, true), id: view.getUint32(4, true),
    number: Number(view.getBigUint64(8, true)), leftOut: view.getUint32(16, true), ageUs: view.getUint32(20, true),
  };
}

export class Stream {
  /** @param handlers {open, closed, control, batch, end}: `batch(id, table, header)`; `closed(delayMs, reason)` */
  constructor(handlers) {
    this.handlers = handlers;
    this.schemas = new Map();
    this.failures = 0;
    this.nextId = 1;
  }

  connect(url) {
    this.url = url;
    clearTimeout(this.timer);
    const socket = (this.socket = new WebSocket(url, PROTOCOL));
    socket.binaryType = "arraybuffer";
    this.heard = performance.now();
    socket.onopen = () => { this.heard = performance.now(); };
    socket.onmessage = (event) => { if (socket === this.socket) this.receive(event.data); };
    socket.onclose = (event) => { if (socket === this.socket) this.lost(event); };
    clearInterval(this.watch);
    this.watch = setInterval(() => { if (performance.now() - this.heard > SILENCE_MS) this.abandon(); }, 1000);
  }

  abandon() {
    const socket = this.socket;
    if (!socket) return;
    socket.onclose = null;
    socket.close();
    this.lost({ code: 1006, reason: "silence" });
  }

  lost(event) {
    clearInterval(this.watch);
    this.socket = null;
    this.schemas.clear();
    const grown = Math.min(BACKOFF_MS.most, BACKOFF_MS.first * 2 ** this.failures);
    const delay = Math.max(this.retryAfter ?? 0, grown * (0.6 + 0.4 * Math.random()));
    this.failures += 1;
    this.retryAfter = undefined;
    this.timer = setTimeout(() => this.connect(this.url), delay);
    this.handlers.closed(delay, event);
  }

  receive(data) {
    this.heard = performance.now();
    if (typeof data === "string") return this.control(JSON.parse(data));
    const header = decodeHeader(data);
    const payload = new Uint8Array(data, 24);
    if (header.version !== 1) return this.abandon();
    if (header.kind === KIND.schema) this.schemas.set(header.id, payload.slice());
    else if (header.kind === KIND.end) this.handlers.end(header.id);
    else if (header.kind === KIND.batch && this.schemas.has(header.id)) {
      const table = tableFromIPC([this.schemas.get(header.id), payload], { useBigInt: true });
      this.handlers.batch(header.id, table, header);
    }
  }

  control(message) {
    if (message.op === "hello") { this.failures = 0; this.handlers.open(message); }
    else if (message.op === "bye") this.retryAfter = message.retry_after_ms;
    else this.handlers.control(message);
  }

  subscribe(request) {
    const id = this.nextId++;
    this.send({ op: "subscribe", id, ...request });
    return id;
  }

  unsubscribe(id) { this.schemas.delete(id); this.send({ op: "unsubscribe", id }); }

  send(message) { if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message)); }
}
