// The page: reads where the gateway is, subscribes, and keeps picture, gauges and status honest.

import { Scale, colourTable } from "./colour.js";
import { FIELDS, SCALARS, VECTORS } from "./fields.js";
import { clockText, dateText, milliseconds, priceDecimals, priceText, quantity } from "./format.js";
import { Gauges } from "./gauges.js";
import { Heatmap } from "./heatmap.js";
import { COLUMN, History, WIDTH } from "./history.js";
import { Login } from "./login.js";
import { AXIS_W, Overlay, TIME_H, profileWidth } from "./overlay.js";
import { CLOSE, FLAG, Stream } from "./stream.js";
import { CONTEXT_BINS, Transport } from "./transport.js";
import { View } from "./view.js";

const BACKFILL_BINS = 900;
const OPERATION_REFUSED = new Set(["live", "bad_field", "forbidden", "ended"]); // the subscription goes on
const NOT_YET = new Set(["unknown_tape", "unknown_line", "unknown_instrument"]); // a gateway that just came up
const NOT_YET_MS = 700;
const ADDRESS_MS = 1000; // browsers let a page change its address some times a second and no more
const CONFIG_EVERY_MS = 5000;
const SCALE_EVERY_MS = 120; // sorting a sample of cells takes a millisecond: not in every frame
const $ = (id) => document.getElementById(id);

const history = new History(), scale = new Scale(), view = new View(), gauges = new Gauges(document);
const state = {
  config: null, hello: null, tape: "", line: "main", instrument: "", field: FIELDS[0], trades: true, quotes: true,
  tapeId: "", gridId: 0, tradesId: 0, probing: false, clock: `page-${Math.random().toString(36).slice(2)}`, cursor: "", tradesFrom: "",
  tradesRefused: false, leadId: 0, lead: null, seeking: "", moment: "", newestBin: 0, replays: true,
  connected: false, ended: false, staleMs: 0, heard: false, refused: "", apiSays: "",
  leftOut: 0, gaps: 0, gapCause: "", lost: 0, ageMs: NaN, lagMs: NaN, arrivals: [], retryAt: 0, pointer: null, ink: null, addressAt: 0,
};
let heatmap, overlay, stream, transport, login, dirty = true, uploadFrom = 0, frameAt = performance.now();

// ---- address -----------------------------------------------------------------------------------------------------

function readAddress() {
  const wanted = new URLSearchParams(location.hash.slice(1));
  state.tape = wanted.get("tape") ?? ""; state.line = wanted.get("line") ?? "main"; state.instrument = wanted.get("instrument") ?? "";
  state.field = FIELDS.find((f) => f.id === wanted.get("field")) ?? FIELDS[0];
  state.moment = wanted.get("at") ?? "";
}

function writeAddress() {
  const now = new URLSearchParams({ tape: state.tape, line: state.line, instrument: state.instrument, field: state.field.id });
  const at = state.cursor || state.lead?.to || state.moment;
  if (!transport.live && at) now.set("at", at);
  if (location.hash !== `#${now}`) window.history.replaceState(null, "", `#${now}`);
  state.addressAt = performance.now();
}

/** Somebody gave this page another address. */
function followAddress() {
  readAddress(); fillSelectors(); readInk(); showFields();
  uploadFrom = 0; scale.reset();
  restart();
}

// ---- what exists -------------------------------------------------------------------------------------------------

async function loadConfig() {
  if (login.needed) return;
  try {
    const answer = await fetch("v1/config", { cache: "no-store", headers: login.headers() }), body = await answer.json();
    state.apiSays = answer.ok ? "" : body.error.message;
    if (answer.status === 401) { login.ask(login.token ? `The api refuses this key: ${body.error.message}.` : ""); showStatus(); return; }
    if (answer.ok) state.config = body;
  } catch { state.config ??= null; }
  stream.token = login.token;
  fillSelectors();
  if (!stream.url && state.config?.gateway_url) stream.connect(state.config.gateway_url);
  else if (state.config?.gateway_url) stream.url = state.config.gateway_url;
  if (replaced()) restart();
  else if (state.connected && (!state.gridId || state.refused)) begin();
}

/** A person gave a token: it is shown in band while connected, else api and gateway are asked again. */
function admit(token) {
  state.apiSays = "";
  stream.present(token);
  loadConfig();
}

/** Whether the tape was made again under the same name. The gateway may notice some seconds after the api. */
function replaced() {
  const id = tapesNow().find((t) => t.name === state.tape)?.id;
  return Boolean(state.connected && id && state.tapeId && id !== state.tapeId);
}

function tapesNow() { return state.config?.tapes ?? []; }

function fillSelectors() {
  const tapes = tapesNow().filter((t) => Object.keys(t.instruments).length);
  if (!tapes.some((t) => t.name === state.tape) && tapes.length)
    state.tape = (tapes.find((t) => t.live) ?? tapes.find((t) => t.state === "open") ?? tapes.at(-1)).name;
  const tape = tapes.find((t) => t.name === state.tape), names = Object.keys(tape?.instruments ?? {});
  if (!names.includes(state.instrument)) state.instrument = names[0] ?? "";
  if (tape && !tape.lines.includes(state.line)) state.line = tape.lines[0];
  options($("tape"), tapes.map((t) => t.name), state.tape);
  options($("line"), tape?.lines ?? [], state.line);
  options($("instrument"), names, state.instrument);
  $("line-label").hidden = (tape?.lines.length ?? 0) < 2;
}

function options(select, names, chosen) {
  if ([...select.options].map((o) => o.value).join("\n") !== names.join("\n")) select.replaceChildren(...names.map((n) => new Option(n, n)));
  select.value = chosen;
  select.disabled = !names.length;
}

// ---- subscriptions -----------------------------------------------------------------------------------------------

const target = () => ({ tape: state.tape, line: state.line, instrument: state.instrument });

/** Resume behind the cursor if there is one, else look where "now" is, so that the recent past can be asked for. */
function begin() {
  if (!state.connected || !state.instrument) return;
  for (const id of [state.gridId, state.tradesId, state.leadId]) if (id) stream.unsubscribe(id);
  state.refused = ""; state.ended = false; state.staleMs = 0; state.gridId = state.tradesId = state.leadId = 0; state.lead = null;
  state.seeking = ""; state.tradesRefused = false;
  state.probing = !state.cursor && state.replays;
  if (state.probing) { state.gridId = stream.subscribe({ stream: "grid", ...target(), fields: ["bin_seq", "ts_end_ns", "add_mass"], from: "live", radius: 1 }); return; }
  state.gridId = subscribeGrid(state.cursor || "live", paced());
  transport.restore("grid");
}

function probed(table) {
  stream.unsubscribe(state.gridId);
  state.probing = false;
  const bin = Number(table.getChild("bin_seq").at(0)), endNs = table.getChild("ts_end_ns").at(0);
  const start = Math.max(0, bin - BACKFILL_BINS);
  state.newestBin = bin;
  history.cellMs = Number(endNs / 1000n) / 1000 / (bin + 1);
  state.gridId = subscribeGrid(`bin/${start}`, paced());
  state.tradesFrom = momentOf(start * history.cellMs);
  const to = state.moment || (transport.paused ? `bin/${bin}` : ""); // somebody paused before there was anything to see
  if (to) { state.moment = ""; transport.seek(to); }
  else transport.restore("grid");
}

const momentOf = (ms) => `@${BigInt(Math.floor(ms)) * 1_000_000n}`;
/** On the page's clock, if it may replay; a clock that is made by this stands still until its pace is said. */
const paced = () => ({ ...(state.replays ? { clock: state.clock } : {}), ...(transport.live ? {} : { paused: true }) });

const subscribeGrid = (from, pace) => stream.subscribe({ stream: "grid", ...target(), fields: [...SCALARS, ...VECTORS], from, ...pace });

/** Trades go on from where they are known: on the clock, once the grid's first row has set it, or unpaced to the tape's end. */
function followTrades(pace = paced()) {
  if (state.tradesId || state.tradesRefused) return;
  state.tradesId = stream.subscribe({ stream: "trades", ...target(), from: state.tradesFrom || "live", ...pace });
  if (!state.replays) transport.restore("trades");
}

/** Go elsewhere: to what is live at once, to the past by way of the bins that lead there. */
function seek(to) {
  endLead();
  if (to === "live") { state.moment = ""; restart(); return; }
  if (!state.connected || state.probing) { state.moment = to; state.cursor = ""; return; }
  if (transport.paused) say("pause");
  transport.restore("grid");
  const bin = binOf(to);
  if (bin !== null) { lead(to, bin); return; }
  state.lead = { to, probing: true }; // its bin is not known yet
  state.leadId = stream.subscribe({ stream: "grid", ...target(), fields: ["bin_seq", "add_mass"], from: to, radius: 1 });
}

/** The bin that is shown last when one goes to a place; null where only the gateway knows. */
function binOf(to) {
  if (to.startsWith("bin/")) return Number(to.slice(4));
  if (to.startsWith("@") && history.count) return Math.floor(Number(BigInt(to.slice(1)) / 1000n) / 1000 / history.cellMs);
  return null;
}

function endLead() {
  if (state.leadId) stream.unsubscribe(state.leadId);
  state.leadId = 0; state.lead = null;
}

/** Show what leads to a place, up to before its row; that row is the first of the page's own subscription. */
function lead(to, bin, from = bin) {
  const start = Math.max(0, from - CONTEXT_BINS), { cellMs } = history;
  const place = to.includes("/") && !to.startsWith("bin/") ? to.split("/").at(-1).split(".").map(Number) : null;
  state.lead = { to, bin, from, place };
  history.clear(); scale.reset(); gauges.reset(); uploadFrom = 0; dirty = true;
  if (state.tradesId) stream.unsubscribe(state.tradesId); // a seek would move it: another one follows from here
  state.tradesId = 0; state.tradesRefused = false; state.cursor = ""; state.tradesFrom = momentOf(start * cellMs);
  state.leadId = subscribeGrid(`bin/${start}`, {});
}

function led(table, header) {
  const { to, bin, place, probing } = state.lead, at = (name, row) => Number(table.getChild(name).at(row));
  if (probing) { endLead(); lead(to, at("bin_seq", 0)); return; }
  const reached = (row) => (place ? at("seq", row) - place[0] || at("part", row) - place[1] || at("row", row) - place[2] : at("bin_seq", row) - bin) >= 0;
  const taken = history.add(table, header, FLAG, reached);
  if (taken) note(table, taken - 1);
  if (taken < table.numRows) arrive();
}

/** Nothing more leads to the place: the tape ends before it, or the market has not come so far. */
function ledNowhere(ended) {
  const { to, bin, from, probing } = state.lead;
  if (probing) { endLead(); lead(to, state.newestBin); }
  else if (ended && !history.count && from > state.newestBin) { endLead(); lead(to, bin, state.newestBin); } // its last bins
  else if (ended) { arrive(); followTrades({}); }
  else transport.goLive();
}

/** Send the page's own subscription behind what led there; its clock stands still, so one row comes. */
function arrive() {
  state.seeking = state.cursor || state.lead.to;
  endLead();
  stream.send({ op: "seek", id: state.gridId, to: state.seeking });
  view.refollow(history); dirty = true;
  if (history.count) gauges.update(history, 0);
  writeAddress(); showStatus();
}

function restart() {
  transport.reset(); transport.show();
  history.clear(); scale.reset(); view.reset(); gauges.reset();
  state.tapeId = state.cursor = state.tradesFrom = ""; state.leftOut = state.gaps = 0; state.gapCause = ""; state.ageMs = state.lagMs = NaN; state.arrivals = [];
  uploadFrom = 0; dirty = true;
  writeAddress(); begin(); showStatus();
}

function onBatch(id, table, header) {
  dirty = true;
  if (id === state.tradesId) { history.addTrades(table); state.tradesFrom = cursorOf("trades", table, table.numRows - 1); return; }
  if (id === state.leadId) { led(table, header); return; }
  if (id !== state.gridId || state.lead || state.seeking) return; // rows of the place before a seek
  if (state.probing) { probed(table); return; }
  const before = history.count, { radius } = history, replayed = Boolean(header.flags & FLAG.replayed);
  history.add(table, header, FLAG);
  if (history.radius !== radius) uploadFrom = 0;
  else uploadFrom = Math.min(uploadFrom, before);
  state.leftOut += header.leftOut;
  state.ageMs = !replayed && header.ageUs ? header.ageUs / 1000 : NaN;
  state.staleMs = 0; state.ended = false;
  if (!replayed || !transport.live) state.arrivals.push([performance.now(), table.numRows]);
  note(table, table.numRows - 1);
  followTrades();
  gauges.update(history, before < history.count ? before : 0);
  if (transport.paused) writeAddress();
}

function cursorOf(stream, table, row) {
  const part = (name) => table.getChild(name).at(row);
  return `${state.tape}/${state.line}/${stream}/${encodeURIComponent(state.instrument)}/${part("seq")}.${part("part")}.${part("row")}`;
}

function note(table, row) { state.cursor = cursorOf("grid", table, row); }

function onControl(message) {
  const { id, op } = message;
  if (op === "error" && id === undefined) { message.code === "another_user" ? stream.abandon("another user") : transport.refused(message.message); return; }
  if (id === state.tradesId) { if (op === "error") { state.tradesId = 0; state.tradesRefused = true; } return; }
  if (id === state.leadId) { onLead(message); return; }
  if (id !== state.gridId) return;
  if (op === "subscribed") { state.tapeId = message.tape_id; state.seeking = ""; }
  else if (op === "position") onPosition(message);
  else if (op === "stale") { state.staleMs = message.age_ms; state.heard = false; }
  else if (op === "gap") { state.gaps += 1; state.gapCause = message.cause; }
  else if (op === "error") refused(message);
  showStatus();
}

function onLead(message) {
  if (message.op === "error") { endLead(); transport.refused(message.message); }
  else if (message.op === "position" && message.live) ledNowhere(false);
}

/** Each second. Silence is told behind it; when a whole second passes without such a word, it is over. */
function onPosition(message) {
  if (state.lead || state.seeking) return; // still of the place before
  state.lagMs = message.lag_ms;
  if (transport.position(message.live)) writeAddress();
  if (state.heard) state.staleMs = 0;
  state.heard = true;
}

function refused(message) {
  if (OPERATION_REFUSED.has(message.code)) { state.seeking = ""; transport.refused(message.message); return; }
  state.gridId = 0;
  if (message.code === "tape_replaced" || message.code === "bad_cursor") { restart(); return; }
  state.refused = message.message;
  if (NOT_YET.has(message.code)) setTimeout(() => { if (state.refused) begin(); }, NOT_YET_MS);
}

function onEnd(id) {
  if (id === state.leadId) ledNowhere(true);
  else if (id === state.gridId) { state.ended = true; showStatus(); }
}

function onOpen(hello) {
  state.connected = true; state.hello = hello; state.retryAt = 0;
  state.replays = hello.may.includes("clock"); // or this is one who may look, but not go back
  if (!state.replays) state.moment = "";
  if (state.replays !== transport.mayReplay) transport.allowReplay(state.replays);
  begin(); showStatus();
}

/** The connection ended. Where a seek was under way it is begun again; else the next connection goes on behind the cursor. */
function onClosed(delay, event) {
  if (state.connected) state.lost += 1;
  const to = state.lead?.to || state.seeking;
  if (to) { state.moment = to; state.cursor = ""; }
  state.connected = false; state.seeking = ""; state.lead = null;
  state.gridId = state.tradesId = state.leadId = 0;
  state.retryAt = performance.now() + delay;
  state.ageMs = state.lagMs = NaN; state.staleMs = 0;
  if (event.code === CLOSE.schema) { restart(); transport.refused("The stream's columns changed: it begins anew."); }
  if (event.code === CLOSE.token) login.ask(`The gateway refuses this key${event.reason ? `: ${event.reason}` : ""}. What is shown stopped there; another key goes on behind it.`);
  showStatus();
}

// ---- status ------------------------------------------------------------------------------------------------------

function status() {
  if (login.needed) return ["locked", "Key needed"];
  if (!state.connected) return state.lost || state.retryAt ? ["lost", "Disconnected"] : ["connecting", "Connecting"];
  if (!state.instrument || state.refused || (!history.count && !transport.paused)) return ["waiting", "Waiting for data"];
  if (state.staleMs && transport.paused) return ["stale", `Paused, stale ${milliseconds(state.staleMs)}`];
  if (transport.paused) return ["paused", "Paused"];
  if (state.ended) return ["ended", "Tape ended"];
  if (state.staleMs) return ["stale", `Stale ${milliseconds(state.staleMs)}`];
  return transport.live ? ["live", "Live"] : ["replay", `Replay ${transport.pace === "max" ? "at full speed" : `${transport.pace}×`}`];
}

function showStatus() {
  const [kind, text] = status(), pill = $("state");
  if (pill.dataset.state !== kind || pill.textContent !== text) { pill.dataset.state = kind; pill.textContent = text; }
  const now = performance.now();
  state.arrivals = state.arrivals.filter(([t]) => now - t < 3000);
  const span = Math.max(1, Math.min(3, (now - (state.arrivals[0]?.[0] ?? now)) / 1000)), rows = state.arrivals.reduce((s, [, n]) => s + n, 0);
  const put = (id, value) => { const b = $(id).tagName === "B" ? $(id) : $(id).querySelector("b"); if (b.textContent !== value) b.textContent = value; };
  put("s-age", milliseconds(state.ageMs)); put("s-rate", `${quantity(rows / span)} /s`); put("s-lag", milliseconds(state.lagMs));
  put("s-left", quantity(state.leftOut)); put("s-gaps", String(state.gaps)); put("s-lost", String(state.lost)); put("s-cursor", state.cursor || "–");
  for (const [id, n] of [["s-left", state.leftOut], ["s-gaps", state.gaps], ["s-lost", state.lost]]) $(id).classList.toggle("alert", n > 0);
  $("s-gaps").title = state.gapCause ? `Missing ranges in the source; the newest: ${state.gapCause}` : "Missing ranges in the source";
  transport.warn(login.warning(Date.now()));
  if (!transport.live && now - state.addressAt > ADDRESS_MS) writeAddress();
  const last = history.last;
  put("s-time", last ? `${dateText(last.tMs)}  ${clockText(last.tMs, 1)}` : "–");
  showNotice(kind); showQuote(last);
}

function showNotice(kind) {
  const box = $("notice"), wait = Math.max(0, Math.ceil((state.retryAt - performance.now()) / 1000));
  let text = null;
  if (kind === "locked") text = ["A key is needed", "Press K, or the key above, to give one."];
  else if (state.apiSays) text = ["The api refuses", `It says: ${state.apiSays}.`];
  else if (!state.config) text = ["The api does not answer", "This page is served by it. Trying again every few seconds."];
  else if (kind === "lost") text = ["Disconnected", `Trying again ${wait > 0 ? `in ${wait} s` : "now"}. What is shown stopped where the connection did.`];
  else if (state.refused) text = ["Not available yet", state.refused];
  else if (!history.count && state.connected) text = ["Waiting for data", state.instrument ? `Nothing has come for ${state.instrument} on tape ${state.tape} yet.` : "No tape holds an instrument yet. Start a replay or a collector; it appears here by itself."];
  else if (kind === "stale") text = ["Stale", `The source has been silent for ${milliseconds(state.staleMs)}. The picture shows what was last known.`];
  box.hidden = !text;
  if (!text) return;
  box.classList.toggle("corner", history.count > 0);
  const [title, body] = text;
  if (box.dataset.text !== title + body) { box.dataset.text = title + body; box.replaceChildren(Object.assign(document.createElement("strong"), { textContent: title }), body); }
}

function showQuote(last) {
  if (!last) { for (const id of ["bid-price", "ask-price"]) $(id).textContent = "–"; for (const id of ["bid-size", "ask-size", "spread"]) $(id).textContent = ""; return; }
  const digits = priceDecimals(history.stepPx), text = (px) => (Number.isFinite(px) ? priceText(px, digits) : "–");
  $("bid-price").textContent = text(last.bidPx); $("ask-price").textContent = text(last.askPx);
  $("bid-size").textContent = quantity(last.bidSz); $("ask-size").textContent = quantity(last.askSz);
  const ticks = Math.round((last.askPx - last.bidPx) / history.stepPx);
  $("spread").textContent = Number.isFinite(ticks) ? `${ticks} tick${ticks === 1 ? "" : "s"}` : "";
}

function describe() {
  const last = history.last;
  if (!last) return;
  const digits = priceDecimals(history.stepPx);
  $("summary").textContent = `${state.instrument}: best bid ${priceText(last.bidPx, digits)}, best ask ${priceText(last.askPx, digits)}, ${$("net-word").textContent}, ${status()[1]}${state.gaps ? `, ${state.gaps} gaps` : ""}${state.leftOut ? `, ${state.leftOut} bins left out` : ""}.`;
}

// ---- drawing -----------------------------------------------------------------------------------------------------

function readInk() {
  const css = getComputedStyle(document.documentElement), get = (name) => css.getPropertyValue(`--${name}`).trim();
  const light = document.documentElement.dataset.theme === "light", mix = (hex, alpha) => hex + Math.round(alpha * 255).toString(16).padStart(2, "0");
  const rgb = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16) / 255);
  state.ink = {
    panel: get("panel"), rule: get("rule"), ruleStrong: get("rule-strong"), grid: get("grid"), bid: get("bid"), ask: get("ask"), accent: get("accent"),
    text: get("ink"), text2: get("ink-2"), text3: get("ink-3"), onTag: light ? "#ffffff" : "#08101a", cross: mix(get("ink-2"), 0.6), crossTag: get("rule-strong"),
    halo: mix(get("plot"), 0.55), bubble: mix(light ? "#ffffff" : "#05080c", 0.75), bidFill: mix(get("bid"), 0.78), askFill: mix(get("ask"), 0.78), noneFill: mix(get("ink-3"), 0.7),
    bidArea: mix(get("bid"), 0.1), askArea: mix(get("ask"), 0.1), background: rgb(get("plot")), hatch: rgb(get("warn")),
  };
  $("heat") && heatmap?.setColours(Boolean(state.field.signed), light ? "light" : "dark");
  drawLegend(light ? "light" : "dark");
  dirty = true;
}

function drawLegend(theme) {
  const ctx = $("legend-bar").getContext("2d"), image = new ImageData(new Uint8ClampedArray(colourTable(Boolean(state.field.signed), theme)), 256, 1);
  ctx.putImageData(image, 0, 0);
}

function uploadNew() {
  const from = Math.max(uploadFrom, history.first());
  for (let n = from; n < history.count; n += 1) heatmap.upload(history, state.field, n);
  uploadFrom = history.count;
}

function tops(seconds) {
  const v = history.at(), part = 1 - Math.exp(-seconds / 2.5);
  let most = 1;
  for (let i = 0; i <= 2 * history.radius; i += 1) most = Math.max(most, v.bid_depth[i] + v.ask_depth[i]);
  view.profileTop = view.profileTop ? view.profileTop + (most - view.profileTop) * (most > view.profileTop ? 0.35 : part) : most;
  const recent = history.trades.slice(-300).map((t) => t.size).sort((a, b) => a - b);
  view.tradeTop = Math.max(1, recent[Math.floor(recent.length * 0.98)] ?? 1);
}

function frame(now) {
  requestAnimationFrame(frame);
  const seconds = Math.min(0.25, (now - frameAt) / 1000);
  frameAt = now;
  const stage = $("stage"), w = stage.clientWidth, h = stage.clientHeight, dpr = window.devicePixelRatio || 1;
  const plotW = Math.max(1, w - AXIS_W - profileWidth(w)), plotH = h - TIME_H;
  const moves = view.step(history, plotH, seconds), size = `${w}x${h}@${dpr}`;
  if (!dirty && !moves && size === state.size && !state.needleMoves) return;
  state.size = size; dirty = false;
  if (history.count) {
    const fresh = uploadFrom < history.count; // a picture without new columns rests: its scale does not move either
    uploadNew();
    if (fresh && (!scale.top || now - (state.scaledAt ?? 0) > SCALE_EVERY_MS)) {
      const passed = state.scaledAt ? Math.min(1, (now - state.scaledAt) / 1000) : 1;
      scale.update(history, state.field, passed); tops(passed); state.scaledAt = now;
    }
    $("legend-low").textContent = state.field.signed ? `−${quantity(scale.end)}` : quantity(scale.low);
    $("legend-high").textContent = quantity(scale.end); $("legend-unit").textContent = state.field.unit;
  }
  const width = Math.max(1, Math.round(plotW * dpr)), height = Math.max(1, Math.round(plotH * dpr));
  $("heat").style.width = `${plotW}px`; $("heat").style.height = `${plotH}px`;
  heatmap.draw(history, {
    width, height, columnPx: view.colW * dpr, tickPx: (view.tickH ?? 8) * dpr, right: view.right, centre: view.centre ?? 0, low: scale.low, top: scale.end,
    gain: state.field.fixed ? 3 : scale.gain, background: state.ink.background, hatch: state.ink.hatch,
  });
  overlay.draw(history, { ...view, w, h, dpr, pointer: state.pointer, quotes: state.quotes, trades: state.trades }, state.ink);
  state.needleMoves = gauges.draw(state.ink, seconds, dpr);
  $("follow").hidden = view.follow;
  showTip();
}

function showTip() {
  const tip = $("tip"), p = state.pointer, c = p && history.column(overlay.columnAt(p.x));
  const inside = p && p.x < overlay.plotW && p.y < overlay.plotH && c;
  tip.hidden = !inside;
  if (!inside) return;
  if (c.kind >= COLUMN.conflated) {
    const gap = c.kind === COLUMN.gap;
    fillTip(p, gap ? "Missing in the source" : "Left out for this page", [["Bins", gap ? `up to ${quantity(c.missing)}` : quantity(c.missing)], ["From", clockText(c.tMs, 1)], ...(gap && state.gapCause ? [["Newest cause", state.gapCause]] : [])]);
    return;
  }
  const tick = overlay.tickAt(p.y), i = tick - c.spot + history.radius, n = overlay.columnAt(p.x);
  const value = i >= 0 && i <= 2 * history.radius ? quantity(state.field.at(history.at(n), i)) + ` ${state.field.unit}` : "not covered";
  const rows = [[`${state.field.group} · ${state.field.label}`, value], ["From mid", `${tick - c.spot} ticks`], ["Time", clockText(c.tMs, 3)]];
  fillTip(p, priceText(tick * history.stepPx, priceDecimals(history.stepPx)), rows);
}

function fillTip(p, title, rows) {
  const tip = $("tip"), head = Object.assign(document.createElement("b"), { textContent: title });
  tip.replaceChildren(head, ...rows.map(([k, v]) => { const d = document.createElement("div"); d.append(...[k, v].map((t) => Object.assign(document.createElement("span"), { textContent: t }))); return d; }));
  tip.style.left = `${p.x + 200 > overlay.plotW ? p.x - tip.offsetWidth - 14 : p.x + 14}px`;
  tip.style.top = `${Math.max(8, Math.min(overlay.plotH - tip.offsetHeight - 8, p.y + 14))}px`;
}

// ---- controls ----------------------------------------------------------------------------------------------------

function chooseField(field) {
  state.field = field;
  scale.reset(); uploadFrom = 0; readInk(); writeAddress(); showFields();
  $("stage").setAttribute("aria-label", `Heatmap of ${field.group.toLowerCase()} ${field.label.toLowerCase()} over time`);
}

function buildFields() {
  const groups = [...new Set(FIELDS.map((f) => f.group))].map((name) => {
    const box = Object.assign(document.createElement("div"), { className: "group" });
    box.append(Object.assign(document.createElement("span"), { textContent: name }));
    FIELDS.filter((f) => f.group === name).forEach((field) => {
      const button = Object.assign(document.createElement("button"), { textContent: field.label, type: "button", title: `Key ${(FIELDS.indexOf(field) + 1) % 10}` });
      button.setAttribute("role", "radio"); button.setAttribute("aria-label", `${field.group}: ${field.label}`);
      button.dataset.field = field.id;
      button.addEventListener("click", () => chooseField(field));
      box.append(button);
    });
    return box;
  });
  $("fields").replaceChildren(...groups);
  showFields();
}

function showFields() {
  for (const b of $("fields").querySelectorAll("button")) {
    const on = b.dataset.field === state.field.id;
    b.setAttribute("aria-checked", String(on)); b.tabIndex = on ? 0 : -1;
  }
}

function setTheme(theme) { document.documentElement.dataset.theme = theme; readInk(); try { localStorage.setItem("theme", theme); } catch { /* private mode keeps nothing */ } }
const otherTheme = () => (document.documentElement.dataset.theme === "dark" ? "light" : "dark");

const KEYS = {
  "+": () => view.zoomTime(1), "=": () => view.zoomTime(1), "-": () => view.zoomTime(-1),
  ArrowUp: (e) => (e.shiftKey ? view.zoomPrice(1.15) : view.pan(4)), ArrowDown: (e) => (e.shiftKey ? view.zoomPrice(1 / 1.15) : view.pan(-4)),
  f: () => view.refollow(history), "[": () => { scale.contrast = Math.max(0.25, scale.contrast / 1.25); }, "]": () => { scale.contrast = Math.min(8, scale.contrast * 1.25); },
  b: () => { state.trades = !state.trades; }, q: () => { state.quotes = !state.quotes; }, t: () => setTheme(otherTheme()),
  " ": () => transport.toggle(), ".": () => transport.step(), ",": () => transport.seek("-1m"), "<": () => transport.seek("-1m"), ">": () => transport.seek("+1m"), l: () => transport.goLive(),
  p: (e) => transport.shiftPace(e.shiftKey ? -1 : 1), g: () => $("t-moment").focus(), k: () => { if (!$("account").hidden) login.open(); }, "?": () => $("keys").showModal(),
};

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("select, dialog, input")) return;
  if (event.key === " " && event.target.closest("button")) return;
  if (event.target.closest("#fields") && ["ArrowLeft", "ArrowRight"].includes(event.key)) { moveField(event.key === "ArrowRight" ? 1 : -1); event.preventDefault(); return; }
  const field = /^\d$/.test(event.key) ? FIELDS[(Number(event.key) + 9) % 10] : null;
  const act = field ? () => chooseField(field) : KEYS[event.key] ?? KEYS[event.key.toLowerCase()];
  if (!act) return;
  event.preventDefault(); act(event); dirty = true;
}

function moveField(by) {
  const next = FIELDS[(FIELDS.indexOf(state.field) + by + FIELDS.length) % FIELDS.length];
  chooseField(next); $("fields").querySelector(`[data-field="${next.id}"]`).focus(); dirty = true;
}

function listen() {
  addEventListener("keydown", onKey);
  addEventListener("resize", () => { dirty = true; });
  addEventListener("hashchange", followAddress);
  const stage = $("stage");
  stage.addEventListener("pointermove", (e) => {
    const box = stage.getBoundingClientRect();
    state.pointer = { x: e.clientX - box.left, y: e.clientY - box.top };
    if (e.buttons === 1 && view.tickH) view.pan(e.movementY / view.tickH);
    dirty = true;
  });
  stage.addEventListener("pointerleave", () => { state.pointer = null; dirty = true; });
  stage.addEventListener("wheel", (e) => { e.preventDefault(); e.shiftKey || e.ctrlKey ? view.zoomPrice(e.deltaY < 0 ? 1.1 : 1 / 1.1) : view.zoomTime(e.deltaY < 0 ? 1 : -1); dirty = true; }, { passive: false });
  $("follow").addEventListener("click", () => { view.refollow(history); dirty = true; });
  $("theme").addEventListener("click", () => setTheme(otherTheme()));
  $("help").addEventListener("click", () => $("keys").showModal());
  for (const key of ["tape", "line", "instrument"]) $(key).addEventListener("change", (e) => { state[key] = e.target.value; fillSelectors(); restart(); });
}

/** What the transport bar says: to the grid, on whose clock the trades are, or to each where none replays. */
function say(op, fields, on) {
  const ids = on === "grid" || state.replays ? [state.gridId] : on === "trades" ? [state.tradesId] : [state.gridId, state.tradesId];
  for (const id of ids) if (id && !state.probing) stream.send({ op, id, ...fields });
  showStatus();
}

// ---- start -------------------------------------------------------------------------------------------------------

function start() {
  readAddress(); buildFields(); listen();
  let theme = null;
  try { theme = localStorage.getItem("theme"); } catch { /* private mode keeps nothing */ }
  document.documentElement.dataset.theme = theme ?? (matchMedia("(prefers-color-scheme: light)").matches ? "light" : "dark");
  try { heatmap = new Heatmap($("heat")); } catch (error) {
    $("notice").hidden = false; $("notice").textContent = `The heatmap cannot be drawn: ${error.message}`; return;
  }
  overlay = new Overlay($("overlay"));
  transport = new Transport(document, {
    say,
    seek, shownMs: () => history.last?.tMs ?? NaN,
  });
  login = new Login(document, admit);
  stream = new Stream({ open: onOpen, closed: onClosed, control: onControl, batch: onBatch, end: onEnd });
  readInk(); loadConfig(); writeAddressSoon();
  setInterval(loadConfig, CONFIG_EVERY_MS); setInterval(showStatus, 250); setInterval(describe, 10_000);
  document.fonts?.ready.then(() => { dirty = true; });
  requestAnimationFrame(frame);
}

function writeAddressSoon() { setTimeout(() => { if (state.instrument) writeAddress(); }, 1500); }

window.__barograph = {
  get columns() { return history.count; }, get bins() { return history.seen; }, get lastBin() { return history.last?.bin ?? -1; }, get uploads() { return heatmap?.uploads ?? 0; },
  get state() { return status()[0]; }, get paused() { return transport.paused; }, get firstBin() { return history.column(history.first())?.bin ?? -1; }, get cursor() { return state.cursor; }, get counts() { return { leftOut: state.leftOut, gaps: state.gaps, lost: state.lost }; }, get live() { return transport.live; }, get pace() { return transport.pace; },
  get drawn() { const all = []; for (let n = history.first(); n < history.count; n += 1) { const c = history.column(n); all.push([c.kind, c.bin]); } return all; }, get trades() { return history.trades.map((t) => [t.bin, t.px, t.size, t.side]); },
  get field() { return state.field.id; }, get instrument() { return state.instrument; }, get view() { return { centre: view.centre, right: view.right, tickH: view.tickH, colW: view.colW }; },
  get width() { return WIDTH; }, checksum: () => heatmap.checksum(), vector: (name) => Array.from(history.at()[name]), last: () => ({ ...history.last }),
};

start();
