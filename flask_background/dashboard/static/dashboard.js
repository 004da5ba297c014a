// Shows times in the visitor's zone, and keeps the live parts of the page up to date. Every page works without it.
"use strict";

(() => {
  const FIRST = 2000, CALM = 10000, LOST = 60000; // milliseconds between two questions
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });
  const date = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
  const live = () => document.querySelectorAll("[data-live]");

  // Times.

  const localize = (part) => {
    for (const element of part.querySelectorAll("time[datetime]")) {
      const at = new Date(element.dateTime);
      element.title = element.textContent;
      element.textContent = (at.toDateString() === new Date().toDateString() ? clock : date).format(at);
    }
  };

  const pad = (number, length = 2) => String(number).padStart(length, "0");
  const asLocal = (at) =>
    `${pad(at.getFullYear(), 4)}-${pad(at.getMonth() + 1)}-${pad(at.getDate())}T${pad(at.getHours())}:${pad(at.getMinutes())}`;

  // The fields of times hold local times here; the form sends UTC.
  const localizeForm = (form) => {
    const fields = [...form.querySelectorAll("[name=since], [name=until]")];
    for (const field of fields) {
      const given = field.value;
      const at = given && new Date(/([zZ]|[+-]\d\d:?\d\d)$/.test(given) ? given : `${given}Z`);
      if (given && Number.isNaN(at.getTime())) continue; // the server has complained of it
      field.labels[0].textContent = field.labels[0].textContent.replace(" (UTC)", "");
      field.type = "datetime-local";
      if (given) field.value = asLocal(at);
    }
    form.addEventListener("formdata", (event) => {
      for (const field of fields) {
        if (field.type === "datetime-local" && field.value)
          event.formData.set(field.name, new Date(field.value).toISOString().replace(".000Z", "Z"));
      }
      for (const name of [...event.formData.keys()]) if (!event.formData.get(name)) event.formData.delete(name);
    });
  };

  // Changes a part of the page into another one, node by node: what has not changed is not touched, so that focus,
  // scrolling and selections stay.

  let changes = 0;

  const morph = (from, to) => {
    if (from.isEqualNode(to)) return;
    if (from.nodeName !== to.nodeName || from.id !== to.id) {
      changes += 1;
      from.replaceWith(to);
      return;
    }
    if (from.nodeType !== Node.ELEMENT_NODE) {
      changes += 1;
      from.data = to.data;
      return;
    }
    for (const { name, value } of [...to.attributes]) {
      if (from.getAttribute(name) === value) continue;
      from.setAttribute(name, value);
      if (from.type !== "hidden") changes += 1; // the token of a form is always a new one
    }
    for (const { name } of [...from.attributes]) {
      // Whether details are open is the visitor's choice.
      if (!to.hasAttribute(name) && !(name === "open" && from.nodeName === "DETAILS")) from.removeAttribute(name);
    }
    const old = new Map([...from.children].filter((child) => child.id).map((child) => [child.id, child]));
    const kept = new Set([...to.children].map((child) => child.id).filter(Boolean));
    let cursor = from.firstChild;
    const skipGone = () => {
      while (cursor?.id && !kept.has(cursor.id)) {
        const next = cursor.nextSibling;
        cursor.remove();
        changes += 1;
        cursor = next;
      }
    };
    for (const node of [...to.childNodes]) {
      skipGone();
      const known = node.id ? old.get(node.id) : cursor?.id ? null : cursor;
      if (!known) {
        changes += 1;
        from.insertBefore(node, cursor);
      } else {
        if (known !== cursor) from.insertBefore(known, cursor);
        else cursor = cursor.nextSibling;
        morph(known, node);
      }
    }
    while (cursor) {
      const next = cursor.nextSibling;
      cursor.remove();
      changes += 1;
      cursor = next;
    }
  };

  // A process's own items in memory: another process's answer does not replace them at once.
  const seen = new Map();
  const isOfOther = (from, to) => {
    const ours = from.dataset.process;
    if (!ours || ours === to.dataset.process) {
      seen.set(from.id, Date.now());
      return false;
    }
    return Date.now() - (seen.get(from.id) ?? 0) < 10000;
  };

  const selects = (part) => {
    const selection = getSelection();
    return selection && !selection.isCollapsed && part.contains(selection.anchorNode);
  };

  const update = (text) => {
    const page = new DOMParser().parseFromString(text, "text/html");
    localize(page);
    for (const part of live()) {
      const fresh = page.getElementById(part.id);
      if (!fresh || selects(part) || isOfOther(part, fresh)) continue;
      const focused = part.contains(document.activeElement);
      morph(part, fresh);
      if (focused && !part.contains(document.activeElement)) {
        part.tabIndex = -1; // the control is gone: the keyboard goes on from here
        part.focus({ preventScroll: true });
      }
    }
  };

  // Asks again and again: seldom while nothing changes, and not at all while the page is hidden.

  const state = document.getElementById("state");
  const pause = document.getElementById("pause");
  let wait = FIRST, timer = 0, isPaused = false, isAsking = false;

  const say = (text) => {
    if (state.textContent !== text) state.textContent = text;
  };

  const later = (milliseconds) => {
    clearTimeout(timer);
    if (!isPaused && !document.hidden) timer = setTimeout(ask, milliseconds);
  };

  const ask = async () => {
    if (isAsking || isPaused || document.hidden) return;
    isAsking = true;
    const begun = Date.now();
    let why = "does not answer";
    try {
      const answer = await fetch(location.href, {
        headers: { "X-Background-Live": "1" },
        redirect: "manual",
        cache: "no-store",
        signal: AbortSignal.timeout(20000),
      });
      if (answer.type === "opaqueredirect" || answer.status === 401 || answer.status === 403) {
        isPaused = true;
        pause.textContent = "Resume updates";
        say("You are no longer signed in: reload the page.");
      } else if (answer.status === 404) {
        wait = CALM; // an item in the memory of another process, or one that is gone
      } else if (answer.ok) {
        const before = changes;
        const text = await answer.text();
        if (!isPaused) update(text);
        say("");
        wait = changes > before ? FIRST : Math.min(CALM, wait * 1.3);
        wait = Math.max(wait, 20 * (Date.now() - begun)); // a server that is slow is asked less
      } else {
        why = `answers with the status ${answer.status}`;
        throw new Error(why);
      }
    } catch {
      wait = Math.min(LOST, wait * 2);
      say(`The server ${why}: the page is as it was. Next try in ${Math.round(wait / 1000)} s.`);
    }
    isAsking = false;
    later(wait);
  };

  const start = () => {
    localize(document);
    const zoned = document.querySelector("[data-zone]");
    if (zoned) zoned.textContent = `Times are in your zone, ${zone}.`;
    for (const form of document.querySelectorAll("form.filter")) localizeForm(form);
    const address = new URL(location.href);
    if (address.searchParams.has("notice")) {
      address.searchParams.delete("notice"); // a reload does not say it again
      history.replaceState(history.state, "", address);
    }
    if (!live().length || !state) return;
    for (const part of live()) seen.set(part.id, Date.now());
    pause.hidden = false;
    pause.addEventListener("click", () => {
      isPaused = !isPaused;
      pause.textContent = isPaused ? "Resume updates" : "Pause updates";
      say(isPaused ? "Updates are paused." : "");
      wait = FIRST;
      if (!isPaused) ask();
    });
    document.addEventListener("visibilitychange", () => {
      wait = FIRST;
      if (document.hidden) clearTimeout(timer);
      else ask();
    });
    addEventListener("pageshow", (event) => event.persisted && ask());
    later(FIRST);
  };

  start();
})();
