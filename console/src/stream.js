// The client side of barograph.v1: one socket, its subscriptions, honest reconnects.
// Every binary message is a 24-byte header and an Arrow message; the schema comes first, so a batch is decoded together
// with the schema of its subscription. Messages of a subscription are numbered: one that is missing, or that cannot be
// read, ends the connection, and the next one goes on by cursor; nothing is guessed.

import { tableFromIPC } from "../vendor/flechette.mjs";

export const PROTOCOL = "barograph.v1";
const KIND = { schema: 0, batch: 1, digest: 2, end: 3 };
export const FLAG = { replayed: 1, gap: 2, conflated: 4 };
export const CLOSE = { token: 4003, schema: 4004 };
const BACKOFF_MS = { first: 400, most: 10_000 };
const STEADY_MS = 5_000; // a connection that lived shorter counts as an attempt that failed
const SILENCE_MS = 6_000; // a heartbeat comes each second: six missed mean that the connection is dead, whatever TCP says

export function decodeHeader(buffer) {
  const view = new DataView(buffer);
  return {
    version: view.getUint8(0), kind: view.getUint8(1), flags: view.getUint16(2, true), id: view.getUint32(4, true),
    number: Number(view.getBigUint64(8, true)), leftOut: view.getUint32(16, true), ageUs: view.getUint32(20, true),
  };
}

export class Stream {
  /** @param handlers {open, closed, control, batch, end}: `batch(id, table, header)`; `closed(delayMs, event)` */
  constructor(handlers) {
    this.handlers = handlers;
    this.subscriptions = new Map(); // id -> {next, schema}
    this.failures = 0;
    this.nextId = 1;
    this.token = "";
  }

  connect(url) {
    this.url = url;
    clearTimeout(this.timer);
    const socket = (this.socket = new WebSocket(url, PROTOCOL));
    socket.binaryType = "arraybuffer";
    this.heard = this.born = performance.now();
    socket.onopen = () => { this.heard = performance.now(); if (this.token) this.send({ op: "auth", token: this.token }); };
    socket.onmessage = (event) => { if (socket === this.socket) this.receive(event.data); };
    socket.onclose = (event) => { if (socket === this.socket) this.lost(event); };
    clearInterval(this.watch);
    this.watch = setInterval(() => { if (performance.now() - this.heard > SILENCE_MS) this.abandon("silence"); }, 1000);
  }

  /** Present another token: in band while connected, else by connecting. */
  present(token) {
    this.token = token;
    if (this.socket?.readyState === WebSocket.OPEN) this.send({ op: "auth", token });
    else if (this.url && !this.socket) this.connect(this.url);
  }

  abandon(reason) {
    const socket = this.socket;
    if (!socket) return;
    socket.onclose = null;
    socket.close();
    this.lost({ code: 1006, reason });
  }

  lost(event) {
    clearInterval(this.watch);
    this.socket = null;
    this.subscriptions.clear();
    if (performance.now() - this.born > STEADY_MS) this.failures = 0;
    const grown = Math.min(BACKOFF_MS.most, BACKOFF_MS.first * 2 ** this.failures);
    const delay = Math.max(this.retryAfter ?? 0, grown * (0.6 + 0.4 * Math.random()));
    this.failures += 1;
    this.retryAfter = undefined;
    clearTimeout(this.timer);
    if (event.code !== CLOSE.token) this.timer = setTimeout(() => this.connect(this.url), delay);
    this.handlers.closed(delay, event);
  }

  receive(data) {
    this.heard = performance.now();
    try {
      if (typeof data === "string") this.control(JSON.parse(data));
      else this.take(data);
    } catch (error) {
      this.abandon(`a message cannot be read: ${error.message}`);
      throw error;
    }
  }

  take(data) {
    const header = decodeHeader(data), payload = new Uint8Array(data, 24), known = this.subscriptions.get(header.id);
    if (header.version !== 1) { this.abandon(`version ${header.version} is not known`); return; }
    if (!known) return; // it was left
    if (header.number !== known.next) { this.abandon(`message ${header.number} came where ${known.next} was due`); return; }
    known.next += 1;
    if (header.kind === KIND.schema) known.schema = payload.slice();
    else if (header.kind === KIND.end) this.handlers.end(header.id);
    else if (header.kind === KIND.batch) this.handlers.batch(header.id, tableFromIPC([known.schema, payload], { useBigInt: true }), header);
  }

  control(message) {
    if (message.op === "hello") this.handlers.open(message);
    else if (message.op === "bye") this.retryAfter = message.retry_after_ms;
    else this.handlers.control(message);
  }

  subscribe(request) {
    const id = this.nextId++;
    this.subscriptions.set(id, { next: 0, schema: null });
    this.send({ op: "subscribe", id, ...request });
    return id;
  }

  unsubscribe(id) { if (this.subscriptions.delete(id)) this.send({ op: "unsubscribe", id }); }

  send(message) { if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message)); }
}
