// The last few thousand columns, on this side of the wire: every field of every bin, so that choosing another field
// redraws the past at once. A column is a bin that came, a short quiet stretch that is carried on, or an honest hole.

import { VECTORS } from "./fields.js";
import { UNDEF_PRICE } from "./format.js";

export const WIDTH = 2048;
export const COLUMN = { data: 0, held: 1, conflated: 2, gap: 3 };
const QUIET_MOST = 12; // empty bins carried on as columns; a longer quiet stretch is drawn as that many and labelled

export class History {
  constructor() { this.cellMs = 100; this.clear(); }

  clear() {
    this.radius = 0;
    this.count = 0; // columns ever added; column n lies in slot n % WIDTH
    this.vectors = null;
    this.columns = new Array(WIDTH).fill(null);
    this.byBin = new Map();
    this.trades = [];
    this.stepPx = 0;
    this.origin = 0;
    this.seen = 0;
  }

  get last() { return this.count ? this.columns[(this.count - 1) % WIDTH] : null; }
  first() { return Math.max(0, this.count - WIDTH); }
  column(n) { return n >= this.first() && n < this.count ? this.columns[n % WIDTH] : null; }

  allocate(radius) {
    this.radius = radius;
    const size = WIDTH * (2 * radius + 1);
    this.vectors = Object.fromEntries(VECTORS.map((name) => [name, new Float32Array(size)]));
  }

  /** Add the rows of one batch up to before the first for which `stop(row)` holds; gives how many those are. */
  add(table, header, flags, stop = () => false) {
    const col = Object.fromEntries(table.names.map((name) => [name, table.getChild(name)]));
    for (let row = 0; row < table.numRows; row += 1) {
      if (stop(row)) return row;
      this.addRow(col, row, row === 0 ? header : null, flags);
    }
    return table.numRows;
  }

  addRow(col, row, header, flags) {
    const bin = Number(col.bin_seq.at(row));
    const last = this.last;
    if (last && bin <= last.bin) return;
    const radius = (col.bid_depth.at(row).length - 1) / 2;
    if (!this.vectors || radius !== this.radius) { this.clear(); this.allocate(radius); }
    this.describe(col, row);
    if (last && header) this.bridge(last, bin, header, flags);
    else if (last && bin - last.bin > 1) this.quiet(last, bin);
    const values = Object.fromEntries(VECTORS.map((name) => [name, col[name].at(row)]));
    this.push(this.scalars(col, row, bin), values);
    this.seen += 1;
  }

  describe(col, row) {
    this.stepPx = Number(col.tick_px.at(row)) * Number(col.bucket.at(row));
    this.cellMs = Number(col.ts_end_ns.at(row) - col.ts_start_ns.at(row)) / 1e6;
    if (!this.count) this.origin = Number(col.spot_tick.at(row));
  }

  scalars(col, row, bin) {
    const price = (c) => { const px = c.at(row); return px === UNDEF_PRICE ? NaN : Number(px); };
    return {
      kind: COLUMN.data, bin, tMs: Number(col.ts_end_ns.at(row) / 1000n) / 1000, spot: Number(col.spot_tick.at(row)),
      bidPx: price(col.best_bid_px), askPx: price(col.best_ask_px), bidSz: Number(col.best_bid_sz.at(row)),
      askSz: Number(col.best_ask_sz.at(row)), state: col.book_state.at(row), ofi: col.ofi.at(row),
      trades: col.trade_count.at(row), records: col.event_count.at(row), quietMs: 0,
    };
  }

  bridge(last, bin, header, flags) {
    if (header.flags & flags.gap) this.hole(last, bin, COLUMN.gap, 4, bin - last.bin - 1);
    else if (header.leftOut) this.hole(last, bin, COLUMN.conflated, Math.min(header.leftOut, QUIET_MOST), header.leftOut);
    else if (bin - last.bin > 1) this.quiet(last, bin);
  }

  /** Columns of which nothing is known; `missing` bins they are, of a gap at most. */
  hole(last, bin, kind, columns, missing) {
    for (let i = 0; i < columns; i += 1) this.push({ ...last, kind, bin: last.bin, missing, quietMs: 0, trades: 0, records: 0, ofi: 0 }, null);
    this.last.quietMs = (bin - last.bin - 1) * this.cellMs;
  }

  quiet(last, bin) {
    const missing = bin - last.bin - 1;
    const kept = this.copyOf((this.count - 1) % WIDTH);
    for (let i = 0; i < Math.min(missing, QUIET_MOST); i += 1)
      this.push({ ...last, kind: COLUMN.held, bin: last.bin, tMs: last.tMs + (i + 1) * this.cellMs, trades: 0, records: 0, ofi: 0, quietMs: 0 }, kept);
    if (missing > QUIET_MOST) this.last.quietMs = missing * this.cellMs;
  }

  copyOf(slot) {
    const n = 2 * this.radius + 1;
    return Object.fromEntries(VECTORS.map((name) => [name, this.vectors[name].slice(slot * n, slot * n + n)]));
  }

  push(column, values) {
    const slot = this.count % WIDTH, n = 2 * this.radius + 1;
    const old = this.columns[slot];
    if (old && this.byBin.get(old.bin) === this.count - WIDTH) this.byBin.delete(old.bin);
    this.columns[slot] = column;
    for (const name of VECTORS) values ? this.vectors[name].set(values[name], slot * n) : this.vectors[name].fill(0, slot * n, slot * n + n);
    if (column.kind === COLUMN.data) this.byBin.set(column.bin, this.count);
    this.count += 1;
  }

  addTrades(table) {
    const ts = table.getChild("ts_ns"), px = table.getChild("px"), sz = table.getChild("sz"), side = table.getChild("side");
    for (let i = 0; i < table.numRows; i += 1) {
      const price = px.at(i);
      if (price === UNDEF_PRICE) continue;
      const bin = Math.floor(Number(ts.at(i) / 1000n) / 1000 / this.cellMs);
      const size = Number(sz.at(i)), last = this.trades.at(-1);
      if (last && last.bin === bin && last.px === Number(price) && last.side === side.at(i)) last.size += size;
      else this.trades.push({ bin, px: Number(price), size, side: side.at(i) });
    }
    if (this.trades.length > 6000) this.trades.splice(0, 2000);
  }

  /** The vectors of column n as views; the newest data column if n is not given. */
  at(n = this.count - 1) {
    const size = 2 * this.radius + 1, slot = n % WIDTH;
    return Object.fromEntries(VECTORS.map((name) => [name, this.vectors[name].subarray(slot * size, slot * size + size)]));
  }
}
