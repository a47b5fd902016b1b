// The side panel: net pressure as a barometer's dial with its trace, the four forces, and the top of the book.
//
// Pressure is orders being added, vacuum is orders being pulled or filled (fields.js). Near the mid (weights
// exp(-|k|/12)), pressure below and vacuum above push the price up, the other two down:
//     net = (P_below + V_above - P_above - V_below) / (sum of the four)

import { pressure, vacuum } from "./fields.js";
import { COLUMN } from "./history.js";
import { priceDecimals, priceText, quantity, signed } from "./format.js";

const REACH = 12;
const TRACE_S = 60;
const FORCES = [
  ["p_above", "Pressure above", "ask"], ["v_above", "Vacuum above", "bid"],
  ["p_below", "Pressure below", "bid"], ["v_below", "Vacuum below", "ask"],
];

export function forces(history, n = history.count - 1) {
  const v = history.at(n), r = history.radius, sum = { p_above: 0, v_above: 0, p_below: 0, v_below: 0 };
  for (let i = 0; i <= 2 * r; i += 1) {
    const k = i - r;
    if (k === 0) continue;
    const w = Math.exp(-Math.abs(k) / REACH), where = k > 0 ? "above" : "below";
    sum[`p_${where}`] += w * Math.max(0, pressure(v, i));
    sum[`v_${where}`] += w * Math.max(0, vacuum(v, i));
  }
  const up = sum.p_below + sum.v_above, down = sum.p_above + sum.v_below;
  return { ...sum, net: up + down > 0 ? (up - down) / (up + down) : 0 };
}

export const word = (net) => {
  const a = Math.abs(net);
  if (a < 0.04) return "in balance";
  return `${a < 0.12 ? "slightly" : a < 0.3 ? "clearly" : "strongly"} ${net > 0 ? "upward" : "downward"}`;
};

export class Gauges {
  constructor(root) {
    this.$ = (id) => root.getElementById(id);
    this.points = [];
    this.needle = 0;
    this.top = 0;
    const list = this.$("forces");
    list.replaceChildren(...FORCES.map(([key, label, tone]) => {
      const row = root.createElement("div");
      row.className = "force";
      row.innerHTML = `<span>${label}</span><b>–</b><i></i>`;
      row.lastChild.style.setProperty("--tone", `var(--${tone})`);
      row.dataset.key = key;
      return row;
    }));
  }

  reset() {
    this.points = []; this.needle = 0; this.top = 0; this.net = 0;
    this.$("net").textContent = "–"; this.$("net-word").textContent = "waiting";
    for (const id of ["f-bid", "f-ask", "f-ofi", "f-trades", "f-records"]) this.$(id).textContent = "–";
    for (const row of this.$("forces").children) { row.children[1].textContent = "–"; row.lastChild.style.setProperty("--value", 0); }
  }

  /** Take in the columns from number `since` on. */
  update(history, since = history.count - 1) {
    const { last } = history;
    let now = null;
    for (let n = Math.max(since, history.first()); n < history.count; n += 1) {
      const column = history.column(n);
      if (column.kind !== COLUMN.data || column.tMs < last.tMs - TRACE_S * 1000) continue;
      now = forces(history, n);
      this.points.push({ t: column.tMs, net: now.net });
    }
    if (!now) return;
    this.net = now.net;
    while (this.points.length && this.points[0].t < last.tMs - TRACE_S * 1000) this.points.shift();
    const most = Math.max(now.p_above, now.v_above, now.p_below, now.v_below, 1e-9);
    this.top = this.top ? this.top + (most - this.top) * (most > this.top ? 0.3 : 0.06) : most;
    for (const row of this.$("forces").children) {
      row.children[1].textContent = quantity(now[row.dataset.key]);
      row.lastChild.style.setProperty("--value", Math.min(1, now[row.dataset.key] / this.top).toFixed(3));
    }
    this.book(history, last);
  }

  book(history, last) {
    const digits = priceDecimals(history.stepPx), total = last.bidSz + last.askSz || 1;
    const text = (px, sz) => (Number.isFinite(px) ? `${quantity(sz)} at ${priceText(px, digits)}` : "none");
    this.$("f-bid").textContent = text(last.bidPx, last.bidSz);
    this.$("f-ask").textContent = text(last.askPx, last.askSz);
    this.$("balance").style.setProperty("--bid-share", last.bidSz / total || 0.001);
    this.$("balance").style.setProperty("--ask-share", last.askSz / total || 0.001);
    this.$("balance").setAttribute("aria-label", `Bid ${last.bidSz}, ask ${last.askSz} lots`);
    let ofi = 0, trades = 0, records = 0;
    for (let n = history.count - 1; n >= history.first(); n -= 1) {
      const c = history.column(n), age = last.tMs - c.tMs;
      if (age >= 10_000) break;
      ofi += c.ofi; trades += c.trades;
      if (age < 1000) records += c.records;
    }
    const cell = this.$("f-ofi");
    cell.textContent = signed(ofi);
    cell.className = ofi > 0 ? "up" : ofi < 0 ? "down" : "";
    this.$("f-trades").textContent = quantity(trades);
    this.$("f-records").textContent = quantity(records);
  }

  /** Draw dial and trace; gives whether the needle still moves. */
  draw(ink, seconds, dpr) {
    const target = Math.max(-1, Math.min(1, (this.net ?? 0) / 0.6));
    this.needle += (target - this.needle) * (1 - Math.exp(-seconds / 0.25));
    this.dial(ink, dpr);
    this.trace(ink, dpr);
    if (this.points.length) {
      this.$("net").textContent = signed((this.net ?? 0) * 100) + " %";
      this.$("net-word").textContent = word(this.net ?? 0);
      this.$("dial").setAttribute("aria-label", `Net pressure ${Math.round(this.net * 100)} percent, ${word(this.net)}`);
    }
    return Math.abs(target - this.needle) > 0.002;
  }

  prepare(canvas, dpr) {
    const w = canvas.clientWidth, h = canvas.clientHeight, ctx = canvas.getContext("2d");
    if (canvas.width !== Math.round(w * dpr)) { canvas.width = Math.round(w * dpr); canvas.height = Math.round(h * dpr); }
    ctx.setTransform(dpr, 0, 0, dpr, 0, 0);
    ctx.clearRect(0, 0, w, h);
    return { ctx, w, h };
  }

  dial(ink, dpr) {
    const { ctx, w } = this.prepare(this.$("dial"), dpr), x = w / 2, y = 104, r = 88;
    const angle = (v) => -Math.PI / 2 + v * 1.25;
    ctx.lineCap = "butt";
    for (const [from, to, colour] of [[-1, 1, ink.rule], [Math.min(0, this.needle), Math.max(0, this.needle), this.needle > 0 ? ink.bid : ink.ask]]) {
      ctx.beginPath(); ctx.arc(x, y, r, angle(from), angle(to)); ctx.strokeStyle = colour; ctx.lineWidth = 5; ctx.stroke();
    }
    ctx.lineWidth = 1;
    for (let i = -10; i <= 10; i += 1) {
      const a = angle(i / 10), long = i % 5 === 0, inner = r - (long ? 17 : 12);
      ctx.strokeStyle = long ? ink.text3 : ink.ruleStrong;
      ctx.beginPath(); ctx.moveTo(x + (r - 7) * Math.cos(a), y + (r - 7) * Math.sin(a)); ctx.lineTo(x + inner * Math.cos(a), y + inner * Math.sin(a)); ctx.stroke();
    }
    const a = angle(this.needle);
    ctx.strokeStyle = ink.accent; ctx.lineWidth = 2.2; ctx.lineCap = "round";
    ctx.beginPath(); ctx.moveTo(x + 42 * Math.cos(a), y + 42 * Math.sin(a)); ctx.lineTo(x + (r - 8) * Math.cos(a), y + (r - 8) * Math.sin(a)); ctx.stroke();
    ctx.font = "450 10px Inter, system-ui, sans-serif"; ctx.fillStyle = ink.text3; ctx.textAlign = "center";
    ctx.fillText("down", x - r + 8, y - 12); ctx.fillText("up", x + r - 8, y - 12);
  }

  trace(ink, dpr) {
    const { ctx, w, h } = this.prepare(this.$("trace"), dpr), mid = h / 2;
    ctx.strokeStyle = ink.rule; ctx.lineWidth = 1; ctx.beginPath(); ctx.moveTo(0, Math.round(mid) + 0.5); ctx.lineTo(w, Math.round(mid) + 0.5); ctx.stroke();
    if (this.points.length < 2) return;
    const end = this.points.at(-1).t, x = (t) => w - ((end - t) / (TRACE_S * 1000)) * w;
    const most = Math.max(0.15, ...this.points.map((p) => Math.abs(p.net))), y = (v) => mid - (v / most) * (mid - 4);
    ctx.beginPath();
    this.points.forEach((p, i) => (i ? ctx.lineTo(x(p.t), y(p.net)) : ctx.moveTo(x(p.t), y(p.net))));
    ctx.strokeStyle = ink.accent; ctx.lineWidth = 1.5; ctx.lineJoin = "round"; ctx.stroke();
    ctx.lineTo(x(end), mid); ctx.lineTo(x(this.points[0].t), mid);
    ctx.globalAlpha = 0.12; ctx.fillStyle = ink.accent; ctx.fill(); ctx.globalAlpha = 1;
  }
}
