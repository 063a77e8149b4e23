"use strict";
// Keeps a page up to date while it is open, and sends what its buttons ask for. Everything can be
// read without it.

const TOKEN = "contimg-token";
const EVERY_MS = 10000;
const main = document.getElementById("main");
const fragment = main.dataset.fragment;
const linkState = document.getElementById("link-state");
const answer = document.getElementById("answer");
let lastSeen = Date.now();
let asking = false;
let again = false;

function show(text, refused) {
  answer.textContent = text;
  answer.classList.toggle("refused", Boolean(refused));
  clearTimeout(show.timer);
  show.timer = setTimeout(() => { answer.textContent = ""; }, refused ? 15000 : 6000);
}

// A dead page must not look like a quiet night.
function showLink() {
  const age = Math.round((Date.now() - lastSeen) / 1000);
  const lost = age > 25;
  linkState.classList.toggle("lost", lost);
  const text = lost ? `NOT CONNECTED: what you see is ${age} s old` : "live";
  if (linkState.textContent !== text) linkState.textContent = text; // said once, not every time
}

function revealButtons(root) {
  for (const button of root.querySelectorAll("button.act")) button.hidden = false;
}

// One tab stop for each timeline; arrows, Home and End go along it.
function setTabStops() {
  const tiles = [...document.querySelectorAll(".hours a.tile")];
  const active = tiles.indexOf(document.activeElement);
  tiles.forEach((tile, i) => { tile.tabIndex = i === Math.max(active, 0) ? 0 : -1; });
}

function moveAlong(event) {
  if (!event.target.matches(".hours a.tile")) return;
  const tiles = [...document.querySelectorAll(".hours a.tile")];
  const at = tiles.indexOf(event.target);
  const lines = [...document.querySelectorAll(".hours ol")].filter((line) => line.querySelector("a"));
  const line = lines.indexOf(event.target.closest("ol"));
  const column = [...lines[line].querySelectorAll("a")].indexOf(event.target);
  const inLine = (n) => {
    const there = lines[n] ? [...lines[n].querySelectorAll("a")] : [];
    return there[Math.min(column, there.length - 1)];
  };
  const to = {
    ArrowRight: tiles[at + 1], ArrowLeft: tiles[at - 1],
    ArrowDown: inLine(line + 1), ArrowUp: inLine(line - 1),
    Home: tiles[0], End: tiles[tiles.length - 1],
  }[event.key];
  if (!to) return;
  event.preventDefault();
  for (const tile of tiles) tile.tabIndex = -1;
  to.tabIndex = 0;
  to.focus();
}

function replaceSections(text) {
  const fresh = new DOMParser().parseFromString(text, "text/html");
  const focused = document.activeElement ? document.activeElement.id : "";
  const open = [...main.querySelectorAll("details[open]")].map((d) => d.closest("section").id);
  revealButtons(fresh);
  const wanted = [...fresh.querySelectorAll("section[id]")];
  const ids = new Set(wanted.map((section) => section.id));
  for (const old of main.querySelectorAll(":scope > section[id]")) if (!ids.has(old.id)) old.remove();
  let before = null;
  for (const section of wanted) {
    const old = document.getElementById(section.id);
    if (open.includes(section.id)) for (const d of section.querySelectorAll("details")) d.open = true;
    if (!old) {
      if (before) before.after(section); else main.prepend(section);
      before = section;
    } else if (old.dataset.was !== section.innerHTML || old.className !== section.className) {
      const was = section.innerHTML;
      old.replaceWith(section);
      section.dataset.was = was;
      before = section;
    } else before = old;
  }
  setTabStops();
  const back = focused && document.getElementById(focused);
  if (back && document.activeElement !== back) {
    if (back.matches("a.tile")) {
      for (const tile of document.querySelectorAll(".hours a.tile")) tile.tabIndex = -1;
      back.tabIndex = 0;
    }
    back.focus({ preventScroll: true });
  }
  const title = main.querySelector("h1");
  if (title) document.title = `${title.textContent} – contimg-dask`;
}

async function refresh() {
  if (asking) { again = true; return; }
  asking = true;
  try {
    const found = await fetch(fragment, { cache: "no-store" });
    if (found.ok) {
      replaceSections(await found.text());
      lastSeen = Date.now();
    }
  } catch { /* showLink says for how long */ }
  asking = false;
  showLink();
  if (again) { again = false; refresh(); }
}

// At most so often, however much happens; and once more afterwards, because what the server tells
// may be a second old.
function soon() {
  if (!soon.timer) soon.timer = setTimeout(() => { soon.timer = 0; refresh(); }, 400);
  clearTimeout(soon.last);
  soon.last = setTimeout(refresh, 1800);
}

async function send(button) {
  const token = sessionStorage.getItem(TOKEN);
  if (!token) {
    show("Give the token first.", true);
    document.getElementById("token").focus();
    return;
  }
  button.disabled = true;
  const said = button.dataset.body;
  try {
    const found = await fetch(button.dataset.post, {
      method: "POST",
      headers: { "Authorization": `Bearer ${token}`, "Content-Type": "application/json" },
      body: said === undefined ? null : said,
    });
    const body = await found.json();
    if (found.ok) show(`Done: ${button.dataset.done}.`);
    else show(`${body.code}: ${body.message}`, true);
    if (found.status === 401) forget();
  } catch (error) {
    show(`Not sent: ${error.message}`, true);
  }
  button.disabled = false;
  if (fragment) refresh();
}

function forget() {
  sessionStorage.removeItem(TOKEN);
  showToken();
}

function showToken() {
  const form = document.getElementById("token-form");
  if (!form) return;
  const kept = sessionStorage.getItem(TOKEN) !== null;
  form.querySelector("input").value = "";
  form.querySelector("input").placeholder = kept ? "kept in this tab" : "";
  form.querySelector("button").textContent = kept ? "Forget" : "Use";
}

function listen() {
  if (listen.source) listen.source.close();
  listen.source = null;
  if (document.hidden) return;
  listen.source = new EventSource("/api/v1/events/stream");
  listen.source.addEventListener("change", soon);
  listen.source.addEventListener("open", refresh);
}

function start() {
  const form = document.getElementById("token-form");
  if (form) {
    form.hidden = false;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const text = form.querySelector("input").value.trim();
      if (text) sessionStorage.setItem(TOKEN, text);
      else sessionStorage.removeItem(TOKEN);
      showToken();
      show(text ? "The token is kept until this tab is closed." : "The token is forgotten.");
    });
    showToken();
  }
  revealButtons(document);
  setTabStops();
  document.addEventListener("keydown", moveAlong);
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button.act");
    if (button) send(button);
  });
  if (!fragment) return;
  for (const section of main.querySelectorAll(":scope > section[id]")) section.dataset.was = section.innerHTML;
  listen();
  // A browser has few connections to one server: a tab that nobody looks at keeps none.
  document.addEventListener("visibilitychange", listen);
  setInterval(() => { if (!document.hidden) refresh(); }, EVERY_MS);
  setInterval(showLink, 5000);
  showLink();
}

start();
