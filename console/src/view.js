// Where the picture stands: zoom, centre, scroll. The centre follows the mid softly and only when it nears the edge of
// the middle half, so that the price axis rests most of the time.

const FOLLOW_ZONE = 0.22; // share of the height that the mid may leave the centre by before the picture moves
const GLIDE_S = 0.45;
const SCROLL_S = 0.09;

export class View {
  constructor() { this.columns = [1, 2, 3, 4, 5, 6, 8, 10, 14]; this.colW = 4; this.reset(); }

  reset() { this.centre = null; this.target = null; this.right = 0; this.follow = true; this.tickH = null; }

  fit(plotH, radius) { if (this.tickH === null && radius) this.tickH = Math.max(2, plotH / (1.62 * radius)); }

  /** Move on by `seconds`; gives whether anything still moves. */
  step(history, plotH, seconds) {
    const last = history.last;
    if (!last) return false;
    this.fit(plotH, history.radius);
    if (this.centre === null) { this.centre = this.target = last.spot; this.right = history.count; }
    if (this.follow && Math.abs(last.spot - this.target) * this.tickH > FOLLOW_ZONE * plotH) this.target = last.spot;
    this.centre += (this.target - this.centre) * (1 - Math.exp(-seconds / GLIDE_S));
    if (Math.abs(this.target - this.centre) < 0.02) this.centre = this.target;
    const behind = history.count - this.right;
    this.right = Math.abs(behind) > 60 ? history.count : this.right + behind * (1 - Math.exp(-seconds / SCROLL_S));
    if (Math.abs(behind) < 0.01) this.right = history.count;
    return this.centre !== this.target || this.right !== history.count;
  }

  zoomTime(direction) { const i = this.columns.indexOf(this.colW); this.colW = this.columns[Math.max(0, Math.min(this.columns.length - 1, i + direction))]; }
  zoomPrice(factor) { this.tickH = Math.max(1.5, Math.min(40, this.tickH * factor)); }
  pan(ticks) { this.follow = false; this.centre += ticks; this.target = this.centre; }
  refollow(history) { this.follow = true; if (history.last) this.target = history.last.spot; }
}
