// Numbers and times as people read them. Prices stay exact: they are integers of 1e-9 until the last moment.

export const UNDEF_PRICE = (1n << 63n) - 1n;

export function priceDecimals(stepPx) {
  let digits = 9;
  let step = BigInt(Math.round(stepPx));
  while (digits > 0 && step % 10n === 0n) { step /= 10n; digits -= 1; }
  return Math.min(9, Math.max(digits, stepPx >= 1e9 ? 0 : 2));
}

export const priceText = (px, digits) => (px / 1e9).toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });

export function quantity(x) {
  const a = Math.abs(x);
  if (!Number.isFinite(x)) return "–";
  if (a >= 1e6) return (x / 1e6).toFixed(a >= 1e7 ? 0 : 1) + "M";
  if (a >= 1e4) return (x / 1e3).toFixed(a >= 1e5 ? 0 : 1) + "k";
  if (a >= 100 || Number.isInteger(x)) return Math.round(x).toLocaleString("en-US");
  return x.toFixed(a >= 10 ? 1 : 2);
}

export function signed(x, digits = 0) {
  const rounded = Number(x.toFixed(digits)); // what rounds to nothing has no sign
  return (rounded > 0 ? "+" : rounded < 0 ? "−" : "") + Math.abs(rounded).toLocaleString("en-US", { maximumFractionDigits: digits, minimumFractionDigits: digits });
}

export function milliseconds(ms) {
  if (!Number.isFinite(ms)) return "–";
  if (ms < 10) return ms.toFixed(1) + " ms";
  if (ms < 1000) return Math.round(ms) + " ms";
  if (ms < 60_000) return (ms / 1000).toFixed(1) + " s";
  return Math.round(ms / 60_000) + " min";
}

const two = (n) => String(n).padStart(2, "0");
export function clockText(ms, fraction = 0) {
  const d = new Date(ms);
  const base = `${two(d.getUTCHours())}:${two(d.getUTCMinutes())}:${two(d.getUTCSeconds())}`;
  return fraction ? `${base}.${String(Math.floor(ms % 1000)).padStart(3, "0").slice(0, fraction)}` : base;
}
export const dateText = (ms) => new Date(ms).toISOString().slice(0, 10);
