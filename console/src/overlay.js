// Everything drawn with lines and letters over and beside the heatmap: price and time axes, best quotes, trades, the
// depth profile, the crosshair. Coordinates are CSS pixels; lines sit on half pixels so that they stay one pixel wide.

import { COLUMN } from "./history.js";
import { clockText, milliseconds, priceDecimals, priceText, quantity } from "./format.js";

export const AXIS_W = 78, TIME_H = 28;
const PROFILE_W = 164, PLOT_LEAST = 260;

/** Room for the depth profile beside a heatmap; none where the heatmap would become too narrow for it. */
export const profileWidth = (w) => (w - AXIS_W - PROFILE_W < PLOT_LEAST ? 0 : PROFILE_W);

const FONT = "Inter, system-ui, sans-serif";
const crisp = (x) => Math.round(x) + 0.5;

export class Overlay {
  constructor(canvas) { this.canvas = canvas; this.ctx = canvas.getContext("2d"); }

  begin(w, h, dpr) {
    if (this.canvas.width !== Math.round(w * dpr) || this.canvas.height !== Math.round(h * dpr)) { this.canvas.width = Math.round(w * dpr); this.canvas.height = Math.round(h * dpr); }
    this.ctx.setTransform(dpr, 0, 0, dpr, 0, 0);
    this.ctx.clearRect(0, 0, w, h);
  }

  draw(history, view, ink) {
    this.view = view; this.ink = ink; this.history = history;
    this.profileW = profileWidth(view.w); this.plotW = Math.max(1, view.w - AXIS_W - this.profileW); this.plotH = view.h - TIME_H;
    this.begin(view.w, view.h, view.dpr);
    const ctx = this.ctx;
    ctx.fillStyle = ink.panel;
    ctx.fillRect(this.plotW, 0, view.w - this.plotW, view.h);
    ctx.fillRect(0, this.plotH, view.w, TIME_H);
    if (history.count) {
      ctx.save();
      ctx.beginPath(); ctx.rect(0, 0, this.plotW, this.plotH); ctx.clip();
      this.gridLines();
      if (view.quotes) this.quotes();
      if (view.trades) this.trades();
      ctx.restore();
      if (this.profileW) this.profile();
      this.priceAxis();
      this.timeAxis();
      if (view.pointer) this.crosshair();
    }
    this.rule(this.plotW, 0, this.plotW, view.h);
    if (this.profileW) this.rule(this.plotW + AXIS_W, 0, this.plotW + AXIS_W, this.plotH);
    this.rule(0, this.plotH, view.w, this.plotH);
  }

  rule(x0, y0, x1, y1) {
    const ctx = this.ctx;
    ctx.strokeStyle = this.ink.rule; ctx.lineWidth = 1;
    ctx.beginPath(); ctx.moveTo(crisp(x0), crisp(y0)); ctx.lineTo(crisp(x1), crisp(y1)); ctx.stroke();
  }

  y(tick) { return this.plotH / 2 - (tick - this.view.centre) * this.view.tickH; }
  x(column) { return this.plotW - (this.view.right - column) * this.view.colW; }
  tickAt(y) { return Math.round(this.view.centre + (this.plotH / 2 - y) / this.view.tickH); }
  columnAt(x) { return Math.floor(this.view.right - (this.plotW - x) / this.view.colW); }

  ladder() {
    const least = 44 / this.view.tickH;
    for (const step of [1, 2, 4, 5, 10, 20, 25, 40, 50, 100, 200, 250, 500, 1000, 2000, 5000]) if (step >= least) return step;
    return 10_000;
  }

  gridLines() {
    const ctx = this.ctx, step = this.ladder(), half = this.plotH / 2 / this.view.tickH;
    ctx.strokeStyle = this.ink.grid; ctx.lineWidth = 1; ctx.beginPath();
    for (let t = Math.ceil((this.view.centre - half) / step) * step; t <= this.view.centre + half; t += step) { const y = crisp(this.y(t)); ctx.moveTo(0, y); ctx.lineTo(this.plotW, y); }
    for (const { x } of this.timeMarks()) { ctx.moveTo(crisp(x), 0); ctx.lineTo(crisp(x), this.plotH); }
    ctx.stroke();
  }

  quotes() {
    for (const [side, colour] of [["bidPx", this.ink.bid], ["askPx", this.ink.ask]]) {
      const ctx = this.ctx, { stepPx } = this.history;
      for (const [width, style] of [[3.5, this.ink.halo], [1.5, colour]]) {
        ctx.strokeStyle = style; ctx.lineWidth = width; ctx.lineJoin = "round"; ctx.beginPath();
        let open = false;
        for (let n = Math.max(this.history.first(), this.columnAt(0)); n < this.history.count; n += 1) {
          const c = this.history.column(n), px = c[side];
          if (c.kind >= COLUMN.conflated || !Number.isFinite(px)) { open = false; continue; }
          const y = this.y(px / stepPx), x = this.x(n);
          open ? ctx.lineTo(x, y) : ctx.moveTo(x, y);
          ctx.lineTo(this.x(n + 1), y);
          open = true;
        }
        ctx.stroke();
      }
    }
  }

  trades() {
    const ctx = this.ctx, { stepPx } = this.history, first = this.columnAt(-40), top = this.view.tradeTop || 1;
    for (let i = this.history.trades.length - 1; i >= 0; i -= 1) {
      const t = this.history.trades[i], n = this.history.byBin.get(t.bin);
      if (n === undefined) continue;
      if (n < first) break;
      const r = Math.min(11, 1 + 7.5 * Math.sqrt(t.size / top));
      ctx.beginPath(); ctx.arc(this.x(n + 0.5), this.y(t.px / stepPx), r, 0, 7);
      ctx.fillStyle = t.side > 0 ? this.ink.bidFill : t.side < 0 ? this.ink.askFill : this.ink.noneFill;
      ctx.fill();
      if (r > 3.2) { ctx.strokeStyle = this.ink.bubble; ctx.lineWidth = 1; ctx.stroke(); }
    }
  }

  profile() {
    const ctx = this.ctx, h = this.history, last = h.last, left = this.plotW + AXIS_W + 1, { tickH } = this.view;
    const v = h.at(), size = 2 * h.radius + 1, bar = Math.max(1, tickH - (tickH > 4 ? 1.5 : 0)), room = PROFILE_W - 44;
    const top = Math.max(1, this.view.profileTop);
    let cumBid = 0, cumAsk = 0, cumTop = 1;
    const bids = [], asks = [], labels = [];
    for (let k = 0; k <= h.radius; k += 1) {
      cumBid += v.bid_depth[h.radius - k]; cumAsk += v.ask_depth[h.radius + k];
      bids.push(cumBid); asks.push(cumAsk);
    }
    cumTop = Math.max(1, cumBid, cumAsk);
    ctx.save(); ctx.beginPath(); ctx.rect(left, 0, PROFILE_W, this.plotH); ctx.clip();
    for (const [list, sign, fill] of [[bids, -1, this.ink.bidArea], [asks, 1, this.ink.askArea]]) {
      ctx.fillStyle = fill; ctx.beginPath(); ctx.moveTo(left, this.y(last.spot));
      list.forEach((q, k) => { const x = left + (q / cumTop) * (PROFILE_W - 10); ctx.lineTo(x, this.y(last.spot + sign * (k - 0.5))); ctx.lineTo(x, this.y(last.spot + sign * (k + 0.5))); });
      ctx.lineTo(left, this.y(last.spot + sign * (h.radius + 0.5))); ctx.fill();
    }
    ctx.font = `500 10px ${FONT}`; ctx.textBaseline = "middle"; ctx.textAlign = "left";
    for (let i = 0; i < size; i += 1) {
      const bid = v.bid_depth[i], ask = v.ask_depth[i], q = bid + ask, y = this.y(last.spot + i - h.radius);
      if (!q || y < -tickH || y > this.plotH + tickH) continue;
      const width = Math.max(1, Math.min(1, q / top) * room);
      ctx.fillStyle = bid >= ask ? this.ink.bid : this.ink.ask;
      ctx.globalAlpha = 0.86; ctx.fillRect(left, y - bar / 2, width, bar); ctx.globalAlpha = 1;
      if (tickH >= 11 || (q > 0.55 * top && tickH >= 5)) labels.push({ q, x: left + width + 5, y });
    }
    ctx.fillStyle = this.ink.text2;
    const placed = [];
    for (const label of labels.sort((a, b) => b.q - a.q)) { // the larger order keeps its label where two would touch
      if (placed.some((y) => Math.abs(y - label.y) < 11)) continue;
      placed.push(label.y);
      ctx.fillText(quantity(label.q), label.x, label.y + 0.5);
    }
    ctx.restore();
  }

  priceAxis() {
    const ctx = this.ctx, h = this.history, step = this.ladder(), half = this.plotH / 2 / this.view.tickH, x = this.plotW + 10;
    const digits = priceDecimals(h.stepPx);
    ctx.font = `450 11.5px ${FONT}`; ctx.textBaseline = "middle"; ctx.textAlign = "left"; ctx.fillStyle = this.ink.text3;
    const tags = [["bidPx", this.ink.bid], ["askPx", this.ink.ask]].map(([side, colour]) => ({ px: h.last[side], colour })).filter((t) => Number.isFinite(t.px));
    this.spread(tags);
    for (let t = Math.ceil((this.view.centre - half) / step) * step; t <= this.view.centre + half; t += step) {
      const y = this.y(t);
      if (y < 8 || y > this.plotH - 8 || tags.some((tag) => Math.abs(tag.y - y) < 17)) continue;
      ctx.fillText(priceText(t * h.stepPx, digits), x, y + 0.5);
    }
    for (const tag of tags) this.tag(this.plotW + 1, tag.y, AXIS_W - 1, priceText(tag.px, digits), tag.colour, this.ink.onTag);
  }

  spread(tags) {
    for (const tag of tags) tag.y = Math.min(this.plotH - 10, Math.max(10, this.y(tag.px / this.history.stepPx)));
    if (tags.length === 2 && tags[0].y - tags[1].y < 19) { const mid = (tags[0].y + tags[1].y) / 2; tags[0].y = mid + 9.5; tags[1].y = mid - 9.5; }
  }

  tag(x, y, w, text, fill, colour) {
    const ctx = this.ctx;
    ctx.fillStyle = fill; ctx.fillRect(x, Math.round(y) - 9, w, 18);
    ctx.font = `620 11.5px ${FONT}`; ctx.fillStyle = colour; ctx.textAlign = "left"; ctx.textBaseline = "middle"; ctx.fillText(text, x + 9, y + 0.5);
  }

  timeMarks() {
    const marks = [], h = this.history, every = this.timeStep();
    let before = null, lastX = -1e9;
    for (let n = Math.max(h.first(), this.columnAt(0) - 1); n < h.count; n += 1) {
      const c = h.column(n);
      if (!c) continue;
      const beat = Math.floor(c.tMs / every), x = this.x(n);
      if (before !== null && beat !== before && x - lastX > 74 && x > 0) { marks.push({ x, text: clockText(beat * every, every < 1000 ? 1 : 0) }); lastX = x; }
      before = beat;
    }
    return marks;
  }

  timeStep() {
    const wanted = (96 / this.view.colW) * this.history.cellMs;
    for (const s of [0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600]) if (s * 1000 >= wanted) return s * 1000;
    return 7_200_000;
  }

  timeAxis() {
    const ctx = this.ctx, y = this.plotH + TIME_H / 2 + 0.5, h = this.history;
    ctx.font = `450 11px ${FONT}`; ctx.textBaseline = "middle"; ctx.textAlign = "center";
    const taken = [];
    for (let n = Math.max(h.first(), this.columnAt(0)); n < h.count; n += 1) {
      const c = h.column(n);
      if (!c?.quietMs || c.quietMs < 5000) continue;
      const x = this.x(n + 1);
      if (taken.some((t) => Math.abs(t - x) < 62)) continue;
      taken.push(x);
      ctx.fillStyle = c.kind >= COLUMN.conflated ? this.ink.accent : this.ink.text3;
      ctx.fillText(`${c.kind >= COLUMN.conflated ? "missing" : "quiet"} ${milliseconds(c.quietMs)}`, x, y);
    }
    ctx.fillStyle = this.ink.text3;
    for (const { x, text } of this.timeMarks()) if (x > 26 && x < this.plotW - 26 && !taken.some((t) => Math.abs(t - x) < 66)) ctx.fillText(text, x, y);
    if (!this.profileW) return;
    ctx.fillStyle = this.ink.text3; ctx.textAlign = "left"; ctx.fillText("Depth, lots", this.plotW + AXIS_W + 10, y);
  }

  crosshair() {
    const ctx = this.ctx, { x, y } = this.view.pointer;
    if (x >= this.plotW || y >= this.plotH) return;
    const tick = this.tickAt(y), c = this.history.column(this.columnAt(x)), yy = this.y(tick);
    ctx.strokeStyle = this.ink.cross; ctx.lineWidth = 1; ctx.setLineDash([3, 3]); ctx.beginPath();
    ctx.moveTo(0, crisp(yy)); ctx.lineTo(this.plotW, crisp(yy)); ctx.moveTo(crisp(x), 0); ctx.lineTo(crisp(x), this.plotH); ctx.stroke(); ctx.setLineDash([]);
    this.tag(this.plotW + 1, yy, AXIS_W - 1, priceText(tick * this.history.stepPx, priceDecimals(this.history.stepPx)), this.ink.crossTag, this.ink.text);
    if (!c) return;
    const text = clockText(c.tMs, 1), w = 74;
    ctx.fillStyle = this.ink.crossTag; ctx.fillRect(x - w / 2, this.plotH + 4, w, 19);
    ctx.font = `560 11px ${FONT}`; ctx.fillStyle = this.ink.text; ctx.textAlign = "center"; ctx.textBaseline = "middle"; ctx.fillText(text, x, this.plotH + 14);
  }
}
