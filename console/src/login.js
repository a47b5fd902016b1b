// Who looks: the key or token that the api and the gateway ask for, where they ask for one. It lies in this tab's session
// storage and goes with the tab; it is sent in a header to the api and as the first message to the gateway, and stands in
// no address.

const STORED = "barograph.token";
const SOON_MS = 60_000; // a token that ends so soon is worth a word; the dialog takes the next one without a break

/** When a JWT ends, ms since the epoch; NaN for keys and tokens that do not say. */
export function endOf(token) {
  try {
    const body = token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/");
    return JSON.parse(atob(body)).exp * 1000;
  } catch { return NaN; }
}

export class Login {
  /** @param given called with a token that a person gave */
  constructor(root, given) {
    this.$ = (id) => root.getElementById(id);
    this.given = given;
    this.needed = false; // nothing is asked of api and gateway before a token is given
    this.why = "";
    try { this.token = sessionStorage.getItem(STORED) ?? ""; } catch { this.token = ""; }
    this.$("account").addEventListener("click", () => this.open());
    this.$("login-form").addEventListener("submit", () => this.take(this.$("login-token").value.trim()));
    this.$("login-forget").addEventListener("click", () => { this.keep(""); location.reload(); });
    this.show();
  }

  headers() { return this.token ? { Authorization: `Bearer ${this.token}` } : {}; }

  /** A token is asked for, and why. */
  ask(why) {
    this.needed = true;
    this.why = why;
    this.show();
    this.open();
  }

  open() {
    this.$("login-why").textContent = this.why;
    this.$("login-why").hidden = !this.why;
    if (!this.$("login").open) this.$("login").showModal();
  }

  take(token) {
    this.$("login-token").value = "";
    if (!token) return;
    this.keep(token);
    this.needed = false;
    this.why = "";
    this.show();
    this.given(token);
  }

  keep(token) {
    this.token = token;
    try { token ? sessionStorage.setItem(STORED, token) : sessionStorage.removeItem(STORED); } catch { /* kept by this page alone */ }
  }

  /** A word about a token that is about to end; empty otherwise. */
  warning(nowMs) {
    const left = endOf(this.token) - nowMs;
    return left > 0 && left < SOON_MS ? `The token ends in ${Math.ceil(left / 1000)} s: give the next one (K)` : "";
  }

  show() {
    this.$("account").hidden = !this.needed && !this.token;
    this.$("account").classList.toggle("alert", this.needed);
    this.$("login-forget").hidden = !this.token;
  }
}
