// What the heatmap can show: where each field comes from, its unit, and whether it has a sign.
// The forces are computed here from what the gateway sends, with the engine's default coefficients.

export const COEFFICIENTS = { c1: 1, c2: 0.5, c3: 0.3, c4: 1, c5: 1.5, c6: 0.5, c7: 0.3 };

export const VECTORS = [
  "bid_depth", "ask_depth", "add_mass", "pull_mass", "fill_mass",
  "v_add", "v_pull", "v_fill", "v_rest_depth", "a_add", "a_pull",
];

export const SCALARS = [
  "bin_seq", "ts_start_ns", "ts_end_ns", "event_count", "book_state", "best_bid_px", "best_ask_px", "best_bid_sz",
  "best_ask_sz", "trade_count", "ofi", "epoch",
];

const c = COEFFICIENTS;
export const pressure = (v, i) => c.c1 * v.v_add[i] + c.c2 * Math.max(v.v_rest_depth[i], 0) + c.c3 * Math.max(v.a_add[i], 0);
export const vacuum = (v, i) =>
  c.c4 * v.v_pull[i] + c.c5 * v.v_fill[i] + c.c6 * Math.max(-v.v_rest_depth[i], 0) + c.c7 * Math.max(v.a_pull[i], 0);
const balance = (v, i) => { const p = pressure(v, i), q = vacuum(v, i); return (p - q) / (Math.abs(p) + Math.abs(q) + 1e-12); };
const plain = (name) => (v, i) => v[name][i];

export const FIELDS = [
  { id: "rest_depth", group: "Book", label: "Resting depth", unit: "lots", at: (v, i) => v.bid_depth[i] + v.ask_depth[i] },
  { id: "add_mass", group: "Mass", label: "Added", unit: "lots", at: plain("add_mass") },
  { id: "pull_mass", group: "Mass", label: "Pulled", unit: "lots", at: plain("pull_mass") },
  { id: "fill_mass", group: "Mass", label: "Filled", unit: "lots", at: plain("fill_mass") },
  { id: "v_rest_depth", group: "Velocity", label: "Depth", unit: "lots/s", signed: true, at: plain("v_rest_depth") },
  { id: "v_add", group: "Velocity", label: "Added", unit: "lots/s", at: plain("v_add") },
  { id: "v_pull", group: "Velocity", label: "Pulled", unit: "lots/s", at: plain("v_pull") },
  { id: "pressure", group: "Forces", label: "Pressure", unit: "lots/s", at: pressure },
  { id: "vacuum", group: "Forces", label: "Vacuum", unit: "lots/s", at: vacuum },
  { id: "balance", group: "Forces", label: "Balance", unit: "", signed: true, fixed: 1, at: balance },
];
