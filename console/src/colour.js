// Colour maps that people with any kind of colour vision can order by lightness, for both themes, and the scale that
// maps values to them: logarithmic between two quantiles that follow the market slowly, so that the ordinary recedes, one
// huge order does not darken everything else, and the picture does not flicker.

const SEQUENTIAL = {
  dark: ["#0a0f16", "#0d1b2e", "#10294a", "#123b63", "#175276", "#236b80", "#3c8581", "#639c79", "#96b06c", "#cdbf62", "#f5c95f", "#ffe08f", "#fff6d8"],
  light: ["#fbfcfd", "#edf4f4", "#d5e9e6", "#b2d9d6", "#86c3c8", "#5da8ba", "#3f8bab", "#2f6e9b", "#2a5288", "#27376f", "#201f50", "#150f33", "#0a0618"],
};
const DIVERGING = {
  dark: ["#ffd9a8", "#ffab5c", "#e07f2e", "#a5571c", "#5f3516", "#1d1a1c", "#0a0f16", "#10202f", "#123f63", "#1a679f", "#3a93d6", "#7cbdf5", "#cfe7ff"],
  light: ["#5a2600", "#8f4206", "#c26518", "#e39250", "#f3c396", "#fae6d2", "#fbfcfd", "#d8e8f5", "#a3cbeb", "#61a2d8", "#2b77ba", "#0d4f8c", "#062c54"],
};

const channel = (hex, i) => parseInt(hex.slice(1 + 2 * i, 3 + 2 * i), 16);

/** 256 RGBA entries of a map. */
export function colourTable(diverging, theme) {
  const stops = (diverging ? DIVERGING : SEQUENTIAL)[theme];
  const out = new Uint8Array(1024);
  for (let i = 0; i < 256; i += 1) {
    const at = (i / 255) * (stops.length - 1), low = Math.min(Math.floor(at), stops.length - 2), part = at - low;
    for (let c = 0; c < 3; c += 1) out[4 * i + c] = Math.round(channel(stops[low], c) * (1 - part) + channel(stops[low + 1], c) * part);
    out[4 * i + 3] = 255;
  }
  return out;
}

const SAMPLE_COLUMNS = 64;
const ADAPT_S = 2.5;
const FLOOR = 0.7; // share of the 30th percentile that is shown as nothing: the sea in which the walls stand

export class Scale {
  constructor() { this.top = this.low = 0; this.contrast = 1; }

  reset() { this.top = this.low = 0; }

  /** Move towards the 99.5th percentile of magnitudes in recent columns. */
  update(history, field, seconds) {
    if (field.fixed) { this.top = field.fixed; this.low = 0; return; }
    const magnitudes = [], size = 2 * history.radius + 1, last = history.count - 1;
    for (let n = last; n > Math.max(history.first() - 1, last - 8 * SAMPLE_COLUMNS); n -= 8) {
      if (history.column(n)?.kind !== 0) continue;
      const vectors = history.at(n);
      for (let i = 0; i < size; i += 1) { const x = Math.abs(field.at(vectors, i)); if (x > 0) magnitudes.push(x); }
    }
    if (magnitudes.length < 8) return;
    magnitudes.sort((a, b) => a - b);
    const quantile = (q) => magnitudes[Math.min(magnitudes.length - 1, Math.floor(magnitudes.length * q))];
    const part = this.top ? 1 - Math.exp(-seconds / ADAPT_S) : 1, low = field.signed ? 0 : FLOOR * quantile(0.3);
    this.top += (quantile(0.995) - this.top) * part;
    this.low += (low - this.low) * part;
  }

  /** How strongly small values are lifted: much when values span decades, little when they are all alike. */
  get gain() { return this.low > 0 ? Math.min(7, Math.max(1, 0.8 * (this.end / this.low - 1))) : 7; }

  get end() { return Math.max((this.top || 1) / this.contrast, this.low * 1.01); }
}
