// The transport bar: live, pause, step, seek and pace, and what the page shows of them.
//
// The gateway keeps the clock; all subscriptions of this page are on one, so that trades follow the grid. A seek asks
// first for the bins that lead to the moment, on a subscription of their own that nobody paces, and then sends the page's
// own subscription behind the last of them: what follows is exact, and the picture is never empty.

export const CONTEXT_BINS = 600;
export const PACES = ["0.25", "0.5", "1", "2", "5", "10", "25", "100", "max"];

/** What a person wrote, as the protocol's `to`; null if it is nothing of the kind. Times are UTC. */
export function parseMoment(text, shownMs = NaN) {
  const wanted = text.trim();
  if (!wanted || wanted === "live") return "live";
  if (/^@\d{1,19}$/.test(wanted) || /^bin\/\d{1,18}$/.test(wanted)) return wanted;
  if (/^[^/\s]+\/[^/\s]+\/[^/\s]+\/[^/\s]+\/\d+\.\d+\.\d+$/.test(wanted)) return wanted;
  const relative = /^([+\-−])(\d+(?:\.\d+)?)(s|m|h)$/.exec(wanted);
  if (relative && Number.isFinite(shownMs)) {
    const ms = Number(relative[2]) * { s: 1e3, m: 6e4, h: 36e5 }[relative[3]];
    return atMs(shownMs + (relative[1] === "+" ? ms : -ms));
  }
  const clock = /^(?:(\d{4}-\d{2}-\d{2})[ T])?(\d{2}:\d{2}(?::\d{2}(?:\.\d{1,3})?)?)Z?$/.exec(wanted);
  if (!clock) return null;
  const day = clock[1] ?? (Number.isFinite(shownMs) ? new Date(shownMs).toISOString().slice(0, 10) : null);
  const ms = day === null ? NaN : Date.parse(`${day}T${clock[2].length === 5 ? `${clock[2]}:00` : clock[2]}Z`);
  return Number.isFinite(ms) ? atMs(ms) : null;
}

const atMs = (ms) => `@${BigInt(Math.round(ms)) * 1_000_000n}`;

export class Transport {
  /** @param page {say(op, fields), seek(to), shownMs()}: sends on the page's subscription; goes elsewhere; time shown */
  constructor(root, page) {
    this.$ = (id) => root.getElementById(id);
    this.page = page;
    this.live = true;
    this.paused = false;
    this.pace = "max"; // whoever pauses what is live and goes on wants to catch up
    this.told = this.warned = "";
    this.mayReplay = true;
    this.$("t-pace").replaceChildren(...PACES.map((p) => new Option(p === "max" ? "max" : `${p}×`, p)));
    this.$("t-live").addEventListener("click", () => this.goLive());
    this.$("t-play").addEventListener("click", () => this.toggle());
    this.$("t-step").addEventListener("click", () => this.step());
    this.$("t-pace").addEventListener("change", (e) => this.setPace(e.target.value));
    for (const [id, by] of [["t-back", "-1m"], ["t-forth", "+1m"]]) this.$(id).addEventListener("click", () => this.seek(by));
    this.$("t-form").addEventListener("submit", (e) => { e.preventDefault(); if (this.seek(this.$("t-moment").value)) { this.$("t-moment").value = ""; this.$("stage").focus(); } }); // keys move on from there
    this.show();
  }

  goLive() { this.reset(); this.page.seek("live"); this.show(); }

  /** A page that starts anew is live. */
  reset() { this.live = true; this.paused = false; this.pace = "max"; this.told = ""; }

  toggle() { this.paused ? this.resume() : this.pause(); }

  /** Whether this person may go back in time; one who may not can still pause. */
  allowReplay(may) { this.mayReplay = may; this.reset(); this.show(); }

  pause() { this.paused = true; this.live = false; this.page.say("pause"); this.show(); }

  resume() { this.paused = false; if (this.mayReplay) this.page.say("speed", { factor: this.factor() }); this.page.say("resume"); this.show(); }

  step(bins = 1) { if (!this.mayReplay) return; this.paused = true; this.live = false; this.page.say("step", { bins }); this.show(); }

  shiftPace(by) { if (!this.live) this.setPace(PACES[Math.max(0, Math.min(PACES.length - 1, PACES.indexOf(this.pace) + by))]); }

  setPace(pace) {
    if (!this.mayReplay) return;
    this.pace = pace;
    if (!this.live) this.page.say("speed", { factor: this.factor() });
    this.show();
  }

  factor() { return this.pace === "max" ? "max" : Number(this.pace); }

  /** Go to what a person wrote; one that is live stands still there, a replay keeps its pace. Gives whether it is a place. */
  seek(text) {
    if (!this.mayReplay && text !== "live") return false;
    const to = parseMoment(text, this.page.shownMs());
    this.told = to === null ? "Write a time such as 14:30:00, −10s, bin/123, or a cursor" : "";
    if (to === "live") { this.goLive(); return true; }
    if (to !== null) {
      if (this.live) { this.paused = true; this.pace = "1"; }
      this.live = false;
      this.page.seek(to);
    }
    this.show();
    return to !== null;
  }

  /** What must be said to a subscription that was made standing still. */
  restore(on) {
    if (this.live) return;
    if (this.mayReplay) this.page.say("speed", { factor: this.factor() }, on);
    if (!this.paused) this.page.say("resume", {}, on);
  }

  /** The gateway says whether the subscription has caught up. Gives whether it has just now. */
  position(live) {
    if (!live || this.paused || this.live) return false;
    this.live = true; this.pace = "max"; this.show();
    return true;
  }

  /** A word that stands there until it is empty; what was refused goes before it. */
  warn(text) { if (text !== this.warned) { this.warned = text; this.show(); } }

  refused(message) { this.told = message; this.show(); }

  show() {
    const play = this.$("t-play");
    play.dataset.icon = this.paused ? "play" : "pause";
    play.setAttribute("aria-label", this.paused ? "Go on (Space)" : "Pause (Space)");
    play.title = play.getAttribute("aria-label");
    this.$("t-live").setAttribute("aria-pressed", String(this.live));
    this.$("t-pace").value = this.pace;
    this.$("t-pace").disabled = this.live || !this.mayReplay;
    for (const id of ["t-back", "t-step", "t-forth", "t-moment", "t-go"]) this.$(id).disabled = !this.mayReplay;
    this.$("t-form").title = this.mayReplay ? "" : "Your role looks at what is live";
    this.$("t-told").textContent = this.told || this.warned;
  }
}
