// Keeps what a page says of its items up to date. Without it the pages work too: a reload shows more.
"use strict";

const POLL_MS = 400;
const RETRY_MS = 1500;
const PATIENCE_MS = 3000;

// What changes all the time. When anything else does, the item's look does, and the page is fetched again.
const fields = {
  status: (item) => item.label,
  message: (item) => item.message,
  remaining: (item) => (item.token.remaining === null ? "–" : `${item.token.remaining.toFixed(0)} s`),
};

function show(item) {
  const card = document.getElementById(`item-${item.id}`);
  for (const place of card.querySelectorAll("[data-field]")) {
    const text = fields[place.dataset.field](item);
    if (place.textContent !== text) place.textContent = text;
  }
  const bar = card.querySelector("progress");
  if (bar && item.progress) {
    bar.max = item.progress.total;
    bar.value = item.progress.done;
  }
}

// Takes the parts that change from a fresh copy of this page, so that templates alone say how they look.
async function refresh() {
  const answer = await fetch(location.href);
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const focus = document.activeElement?.id;
  for (const part of document.querySelectorAll("[data-refresh]")) {
    const fresh = page.getElementById(part.id);
    if (fresh && fresh.innerHTML !== part.innerHTML) part.replaceChildren(...fresh.childNodes);
  }
  if (focus && document.activeElement?.id !== focus) document.getElementById(focus)?.focus();
}

async function poll() {
  const cards = [...document.querySelectorAll("[data-live]:not(:has(background-progress))")];
  if (cards.length === 0) return;
  const lost = document.getElementById("lost");
  let pause = POLL_MS;
  try {
    const ids = new URLSearchParams(cards.map((card) => ["id", card.dataset.item]));
    const answer = await fetch(`/items?${ids}`, { signal: AbortSignal.timeout(PATIENCE_MS) });
    if (!answer.ok) throw new Error(answer.statusText);
    const { items } = await answer.json();
    const looks = new Map(cards.map((card) => [card.dataset.item, card.dataset.look]));
    const same = items.filter((item) => !item.final && item.look === looks.get(item.id));
    same.forEach(show);
    // After a pause of the server its processes are others, too.
    if (!lost.hidden || same.length < items.length) await refresh();
    lost.hidden = true;
  } catch {
    lost.hidden = false;
    pause = RETRY_MS;
  }
  setTimeout(poll, pause);
}

// An item that <background-progress> has shown has ended, and the page says more of it.
async function showEnd() {
  try {
    await refresh();
  } catch {
    setTimeout(showEnd, RETRY_MS);
  }
}

// Says what was chosen, and that it is too much before it is sent in vain.
function watchUpload(form) {
  const input = form.querySelector("input[type=file]");
  const button = form.querySelector("button");
  const chosen = form.querySelector("[data-chosen]");
  const error = form.querySelector("[data-error]");
  const words = { hint: chosen.textContent, button: button.textContent };
  const { limit, most } = form.dataset;

  function look() {
    const files = [...input.files];
    const size = files.reduce((sum, file) => sum + file.size, 0);
    const megabytes = Math.ceil(size / 104_857.6) / 10;
    const tooMuch = size > limit || files.length > most;
    chosen.textContent = files.length === 0 ? words.hint
      : files.length === 1 ? `${files[0].name}, ${megabytes} MB`
      : `${files.length} pictures, ${megabytes} MB`;
    error.hidden = !tooMuch;
    error.textContent = tooMuch
      ? `That is too much at once: at most ${most} pictures and ${limit / 1_048_576} MB together.` : "";
    button.disabled = tooMuch;
    button.textContent = words.button;
  }

  input.addEventListener("change", look);
  form.addEventListener("submit", () => {
    button.disabled = true;
    button.textContent = "Uploading …";
  });
  addEventListener("pageshow", look);  // also when the visitor comes back to a page that was left as it is
}

document.querySelectorAll("form[data-limit]").forEach(watchUpload);
addEventListener("background-finished", showEnd);
poll();

// Times a view that does nothing, twenty times a second: while no items run, and while some do.
function watchPings(section) {
  const EVERY_MS = 50;
  const DRAWN = 200;
  const KEPT = 2000;
  const WIDTH = 300;
  const HEIGHT = 60;
  const line = section.querySelector("polyline");
  const drawn = [];
  // A click on a button loads the page anew, and the figures stay.
  const times = JSON.parse(sessionStorage.getItem("pings") ?? "{}");
  addEventListener("pagehide", () => sessionStorage.setItem("pings", JSON.stringify(times)));
  for (const part of section.querySelectorAll("[hidden]")) part.removeAttribute("hidden");
  Object.keys(times).forEach(showRow);

  function showRow(load) {
    const sorted = [...times[load]].sort((a, b) => a - b);
    const cells = section.querySelectorAll(`tr[data-load="${load}"] td`);
    [0.5, 0.99].forEach((part, i) => {
      cells[i].textContent = `${sorted[Math.floor((sorted.length - 1) * part)].toFixed(0)} ms`;
    });
  }

  function draw() {
    const most = Math.max(50, ...drawn);
    line.setAttribute("points", drawn.map((time, i) =>
      `${(i * WIDTH / DRAWN).toFixed(1)},${(HEIGHT - time / most * (HEIGHT - 2)).toFixed(1)}`).join(" "));
  }

  async function ping() {
    const { load } = document.getElementById("load").dataset;
    const began = performance.now();
    try {
      await fetch(section.dataset.ping, { cache: "no-store" });
      const time = performance.now() - began;
      for (const [list, most] of [[drawn, DRAWN], [times[load] ??= [], KEPT]]) {
        list.push(time);
        if (list.length > most) list.shift();
      }
      showRow(load);
      draw();
    } catch {
      // The server is gone for a moment; the line at the foot of the page says so.
    }
    setTimeout(ping, EVERY_MS);
  }
  ping();
}

const pings = document.getElementById("pings");
if (pings) watchPings(pings);
