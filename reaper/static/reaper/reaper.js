"use strict";
// Keeps the overview as it is now: every 5 s, while somebody looks and works on nothing in it. Without it, reload the page.
(function () {
  const SECONDS = 5;
  const live = document.getElementById("reaper-overview");
  if (!live) return;
  const box = document.createElement("label");
  box.className = "reaper-live";
  box.innerHTML = '<input type="checkbox" checked> live';
  live.before(box);
  const on = box.querySelector("input");

  function busy() {
    return document.hidden || !on.checked || live.contains(document.activeElement) || live.querySelector("details[open]");
  }

  async function refresh() {
    if (busy()) return;
    try {
      const answer = await fetch(location.href, { headers: { "X-Requested-With": "fetch" }, credentials: "same-origin" });
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const now = page.getElementById("reaper-overview");
      if (answer.ok && now && !busy()) live.replaceChildren(...now.childNodes);
      live.classList.toggle("reaper-stale", !now);
    } catch (error) {
      live.classList.add("reaper-stale");
    }
  }

  setInterval(refresh, SECONDS * 1000);
})();
