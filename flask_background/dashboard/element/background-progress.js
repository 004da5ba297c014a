// <background-progress item="ID"> shows how far an item is, until it dispatches "background-finished".
// Attributes: src, the URL of the item's status; label, the bar's name; and another word for a status, as in
// succeeded="Fertig". The element sets its attribute "status".
const WORDS = {
  queued: "Waiting", running: "Running", succeeded: "Done", failed: "Failed", cancelled: "Cancelled",
  interrupted: "Interrupted", unknown: "Not known", unreachable: "No answer, trying again",
};

customElements.define("background-progress", class extends HTMLElement {
  #turn = 0;
  #bar = document.createElement("progress");
  #message = document.createElement("span");
  #word = document.createElement("span");

  connectedCallback() { this.#watch(++this.#turn); }
  disconnectedCallback() { this.#turn++; }

  async #watch(turn) {
    const src = this.getAttribute("src");
    const url = src ?? new URL(encodeURIComponent(this.getAttribute("item")), import.meta.url);
    let last, pause = 1000;
    for (;;) {
      while (document.hidden) {
        await new Promise((go) => document.addEventListener("visibilitychange", go, { once: true }));
      }
      let item = { status: "unknown", is_final: true };
      try {
        const answer = await fetch(url, { cache: "no-store", signal: AbortSignal.timeout(10_000) });
        if (answer.status !== 404 && answer.status !== 403) {
          const text = await answer.text();
          item = JSON.parse(answer.ok ? text : "");
          pause = text === last ? Math.min(pause * 1.5, 10_000) : 1000 * (answer.headers.get("Retry-After") ?? 1);
          last = text;
        }
      } catch {
        item = { status: "unreachable" };
        pause = Math.min(pause * 2, 30_000);
      }
      if (turn !== this.#turn) return;
      this.#show(item);
      if (item.is_final) {
        this.dispatchEvent(new CustomEvent("background-finished", { bubbles: true, detail: item }));
        return;
      }
      await new Promise((go) => setTimeout(go, pause * (1 + Math.random() / 8)));
      if (turn !== this.#turn) return;
    }
  }

  #show({ status, progress, error }) {
    const [bar, message, word] = [this.#bar, this.#message, this.#word];
    if (!bar.isConnected) {
      bar.setAttribute("aria-label", this.getAttribute("label") ?? "Progress");
      word.setAttribute("role", "status");
      message.className = "message";
      this.replaceChildren(bar, word, " ", message);
    }
    if (status !== "unreachable") {
      const total = progress?.total;
      if (total) bar.max = total;
      if (status === "succeeded") bar.value = bar.max;
      else if (total || status !== "running") bar.value = total ? progress.done : 0;
      else bar.removeAttribute("value");
      message.textContent = error ?? progress?.message ?? "";
      if (status === "unknown") bar.remove();
    }
    if (this.getAttribute("status") !== status) {
      this.setAttribute("status", status);
      word.textContent = this.getAttribute(status) ?? WORDS[status];
    }
  }
});
