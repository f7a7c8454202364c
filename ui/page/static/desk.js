/* Part 7: the service desk. What is written in the editor belongs to this tab; everything else is the server's. */

const reply = find("#wf-reply");
const OPEN = /\{\s*([A-Za-z_\u4e00-\u9fff][\w\- \u4e00-\u9fff]{0,60})\s*\}/g;
const CHIP = /\[([a-z]+) [1-9][0-9]{0,5}\]/g;
const narrow = matchMedia("(max-width: 860px)");
const tip = document.createElement("div");
tip.className = "desk-tip";
tip.id = "wf-tip";
tip.setAttribute("role", "tooltip");
/** @type {PageNode | null} */
let tipped = null; // the pill whose value is shown
let onScreen = ""; // the conversation that is drawn
/** @type {{id: string, n: number} | null} */
let taken = null; // the suggestion that the editor's text comes from: {id, n}
let sending = 0; // since when an answer is on its way
let sentSeen = 0;
let renewed = "";
let greet = false; // a person has just opened a conversation: its title gets the focus

const talkOpen = () => view?.desk_talk ?? null;
const deskAct = (what, data = {}) => tell("desk", { do: what, talk: talkOpen()?.id ?? "", ...data });
const deskHas = () => root.dataset.place === "desk";

/* ---- words with chips */

/** @type {(part: Chip, button: boolean) => PageNode} */
function pill(part, button) {
  const node = button ? make("pill") : /** @type {PageNode} */ (document.createElement("span"));
  const known = talkOpen()?.chips.includes(part.chip);
  const kind = named("chip", part.kind);
  node.className = "pill" + (known ? "" : " gone");
  node.textContent = kind + (/ \d+/.exec(part.chip)?.[0] ?? "");
  node.chip = part.chip;
  if (button) node.setAttribute("aria-label", say("desk.chip", { kind }));
  return node;
}

/** @type {(words: Words, button?: boolean) => Node[]} */
const nodesOf = (words, button = true) =>
  words.map((part) => (typeof part === "string" ? document.createTextNode(part) : pill(part, button)));

// The value comes only when it is asked for, and goes with the hand or the focus that asked.
/** @type {(node: PageNode) => void} */
function showTip(node) {
  hideTip();
  tipped = node;
  root.append(tip);
  if (node.matches("button")) node.setAttribute("aria-describedby", tip.id);
  fillTip();
  if (talkOpen()?.chips.includes(node.chip) && view.desk_chips[node.chip] === undefined) deskAct("chip", { chip: node.chip });
}
function fillTip() {
  if (!tipped?.isConnected) return hideTip();
  const value = view.desk_chips[tipped.chip];
  tip.textContent = value ?? t(talkOpen()?.chips.includes(tipped.chip) ? "desk.chip.wait" : "desk.chip.gone");
  const at = tipped.getBoundingClientRect();
  const left = Math.max(8, Math.min(at.left, innerWidth - tip.offsetWidth - 8));
  const above = at.top - tip.offsetHeight - 6;
  tip.style.left = left + "px";
  tip.style.top = (above < 8 ? at.bottom + 6 : above) + "px";
}
function hideTip() {
  tipped?.removeAttribute("aria-describedby");
  tipped = null;
  tip.textContent = "";
  tip.remove();
}

/* ---- sentences and what they rest on */

/** @type {(parts: DeskPart[]) => Node[]} */
function citedNodes(parts) {
  return parts.flatMap((part) => {
    if (!part.evidence) return nodesOf(part.words);
    const node = /** @type {PageNode} */ (document.createElement("span"));
    node.className = "cited";
    node.dataset.do = "desk-cited";
    node.tabIndex = 0;
    node.setAttribute("role", "button");
    node.setAttribute("aria-expanded", "false");
    node.append(...nodesOf(part.words, false));
    node.evidence = part.evidence;
    return [node];
  });
}

/** @type {(evidence: DeskEvidence) => PageNode} */
function deskProof(evidence) {
  const node = make("proof");
  find(".proof-kind", node).textContent = t("desk.from." + evidence.type);
  if (evidence.post) {
    linkTo(find("a", node), evidence.post);
    find("a", node).hidden = false;
  }
  if (evidence.quote.length) {
    find("blockquote", node).replaceChildren(...nodesOf(evidence.quote));
    find("blockquote", node).hidden = false;
  }
  return node;
}

/** @type {(node: PageNode) => void} */
function toggleCited(node) {
  const card = node.closest(".card");
  const open = node.getAttribute("aria-expanded") !== "true";
  for (const other of findAll(".cited", card)) other.setAttribute("aria-expanded", "false");
  node.setAttribute("aria-expanded", String(open));
  const box = find(".evidence", card);
  box.hidden = !open;
  box.replaceChildren(...(open ? node.evidence.map(deskProof) : []));
}

/* ---- the list */

function drawDeskList() {
  const lists = view.desk;
  const list = find(".desk-list");
  const home = narrow.matches ? find(".desk") : find(".rail-body");
  if (list.parentElement !== home) home.append(list);
  for (const name of /** @type {const} */ (["waiting", "answered"])) {
    const rows = lists?.[name];
    const box = find(".desk-" + name, list);
    const none = /** @type {PageNode} */ (box.previousElementSibling);
    none.hidden = !rows || rows.length > 0;
    keyed(box, rows ?? [], (row) => row.id, () => make("desk-line"), (node, row) => {
      const button = find("button", node);
      part(node, "row", row, () => {
        button.talk = row.id;
        find(".desk-line-words", node).textContent = row.words;
        find(".desk-line-words", node).lang = row.language;
        const facts = [t("desk.language." + row.language), when(row.since)];
        find(".desk-line-facts", node).textContent = facts.filter(Boolean).join(" · ");
        find(".desk-dot .sr", node).hidden = !row.new;
        node.classList.toggle("new", row.new);
      });
      if (row.id === talkOpen()?.id) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    });
  }
  const waiting = lists?.waiting.length ?? 0;
  for (const count of [find("h2 .count", list), find(".desk-steps [data-step=list] .count")]) count.textContent = waiting ? String(waiting) : "";
}

/* ---- the conversation */

function drawTalk() {
  const talk = talkOpen();
  find(".desk-pick").hidden = Boolean(talk);
  find(".desk-talk").hidden = find(".desk-help").hidden = !talk;
  root.classList.toggle("desk-open", Boolean(talk));
  if (!talk) return;
  const moved = onScreen !== talk.id;
  const thread = find(".desk-thread");
  if (moved) {
    hideTip();
    onScreen = talk.id;
    thread.replaceChildren();
    thread.children_ = new Map();
    putEditor(talk.id);
  }
  part(find(".desk-head"), "head", talk, () => {
    find(".desk-head h1").textContent = talk.words;
    const facts = [t("desk.language." + talk.language), when(talk.since)];
    find(".desk-facts").textContent = facts.filter(Boolean).join(" · ");
    find("[data-do=desk-close]").hidden = talk.closed;
    find(".desk-over").hidden = !talk.closed;
    find(".desk-simulate").hidden = find(".desk-write").hidden = talk.closed;
  });
  const turns = Array.from({ length: talk.turns }, (_, place) => view["desk turn " + place]);
  const before = thread.childElementCount;
  keyed(thread, turns, (turn, place) => place + turn.role, (turn) => make(turn.rows ? "desk-facts" : "desk-turn"), (node, turn) =>
    part(node, "turn", [turn, talk.chips], () => (turn.rows ? drawFacts(node, turn) : drawDeskTurn(node, turn))),
  );
  if (thread.childElementCount > before) {
    const scroll = find(".desk-scroll");
    scroll.scrollTop = scroll.scrollHeight;
  }
  const key = talk.id + talk.turns;
  if (talk.stale && renewed !== key) {
    renewed = key;
    deskAct("open", { draft: ownWords() });
  }
  if (greet && moved) {
    greet = false;
    find(".desk-head h1").focus({ preventScroll: true });
  }
}

/** @type {(node: PageNode, turn: DeskTurn) => void} */
function drawDeskTurn(node, turn) {
  node.dataset.role = turn.role;
  find(".sr", node).textContent = t("desk." + turn.role) + ": ";
  find("p", node).replaceChildren(...nodesOf(turn.words));
  node.title = turn.time ? fullDate(turn.time) : "";
}

/** @type {(node: PageNode, turn: DeskTurn & {rows: Fact[]}) => void} */
function drawFacts(node, turn) {
  find(".desk-look-kind", node).textContent = t("desk." + turn.role);
  const plain = (words) => words.map((word) => (typeof word === "string" ? word : named("chip", word.kind))).join("");
  find(".desk-look-short", node).textContent = turn.rows.length
    ? turn.rows.slice(0, 4).map((row) => row.key + ": " + plain(row.words)).join(" · ")
    : plain(turn.words);
  find(".desk-look-more", node).textContent = t(turn.rows.length === 1 ? "desk.more.1" : "desk.more", { n: turn.rows.length });
  find("dl", node).replaceChildren(...rowsOf(turn.rows));
}

/** @type {(rows: Fact[]) => HTMLElement[]} */
function rowsOf(rows) {
  return rows.flatMap((row) => {
    const key = document.createElement("dt");
    const value = document.createElement("dd");
    key.textContent = row.key;
    value.append(...nodesOf(row.words));
    return [key, value];
  });
}

/* ---- the editor */

const kept = {
  get(id) { try { return JSON.parse(sessionStorage.getItem("whyfeed.desk." + id) ?? "{}"); } catch { return {}; } },
  set(id, value) {
    try {
      if (value.text) sessionStorage.setItem("whyfeed.desk." + id, JSON.stringify(value));
      else sessionStorage.removeItem("whyfeed.desk." + id);
    } catch { /* private mode */ }
  },
};

// What a person has typed themselves; the text of a suggestion would only find itself.
const ownWords = () => (taken ? "" : reply.value.trim());

function putEditor(id) {
  const found = kept.get(id);
  reply.value = found.text ?? "";
  taken = found.taken ?? null;
  sending = 0;
  find(".desk-wish input").value = view.desk_help.wanted;
  edited();
}

function edited() {
  if (!reply.value.trim()) taken = null;
  if (onScreen) kept.set(onScreen, { text: reply.value, taken });
  drawEditor();
}

function drawEditor() {
  const mirror = find(".desk-mirror");
  const text = reply.value;
  const pieces = [];
  let at = 0;
  for (const hit of [...text.matchAll(OPEN), ...text.matchAll(CHIP)].sort((one, other) => one.index - other.index)) {
    const mark = document.createElement("mark");
    mark.className = hit[0].startsWith("{") ? "hole" : "held";
    mark.textContent = hit[0];
    pieces.push(text.slice(at, hit.index), mark);
    at = hit.index + hit[0].length;
  }
  mirror.replaceChildren(...pieces, text.slice(at) + "\n");
  mirror.scrollTop = reply.scrollTop;
  const names = [...new Set([...text.matchAll(OPEN)].map((hit) => hit[0]))];
  part(find(".desk-open"), "open", [names, taken?.n ?? 0], () => {
    const goes = names.map((name) => {
      const button = /** @type {PageNode} */ (/** @type {HTMLElement} */ (document.createElement("button")));
      button.setAttribute("type", "button");
      button.className = "hole";
      button.dataset.do = "desk-hole";
      button.textContent = name;
      button.hole = name;
      button.setAttribute("aria-label", say("desk.open.one", { name }));
      return button;
    });
    const from = taken ? say("desk.taken", { n: taken.n }) : "";
    find(".desk-open").replaceChildren(...(goes.length ? [say("desk.open") + " ", ...goes] : [from]));
  });
  find("[data-do=desk-from]").hidden = !ownWords();
  find(".desk-write .main-button").textContent = t(sending ? "desk.sending" : "desk.send");
}

function drawNote() {
  const done = view.desk_sent;
  if (done && done.number !== sentSeen) {
    sentSeen = done.number;
    sending = 0;
    if (done.talk === onScreen) {
      taken = null;
      reply.value = "";
      edited();
    } else kept.set(done.talk, {});
  }
  const doubt = view.desk_doubt;
  if (doubt.length) sending = 0;
  const note = find(".desk-note");
  part(note, "note", [done, doubt, onScreen], () => {
    note.classList.toggle("warn", doubt.length > 0);
    if (doubt.length) note.textContent = t("desk.doubt", { names: doubt.map((name) => "{" + name + "}").join(", ") });
    else if (done?.talk === onScreen) {
      const values = done.values ? " " + t(done.values === 1 ? "desk.sent.values.1" : "desk.sent.values", { n: done.values }) : "";
      note.textContent = t("desk.sent." + done.how, { words: done.of.map((word) => (typeof word === "string" ? word : word.chip)).join("") }) + values;
    } else note.textContent = "";
  });
  drawEditor();
}

function sendReply() {
  const text = reply.value.trim();
  if (!text || (sending && Date.now() - sending < 8000)) return;
  sending = Date.now();
  drawEditor();
  deskAct("send", { text, suggestion: taken?.id ?? "" });
}

// As if it were typed, so that undoing brings back what was there.
/** @type {(text: string, whole: boolean) => void} */
function type(text, whole) {
  reply.focus();
  if (whole) reply.select();
  if (!document.execCommand("insertText", false, text)) {
    if (whole) reply.value = text;
    else reply.setRangeText(text, reply.selectionStart, reply.selectionEnd, "end");
  }
}

/** @type {(hole: string) => void} */
function goTo(hole) {
  const at = reply.value.indexOf(hole);
  reply.focus();
  if (at >= 0) reply.setSelectionRange(at, at + hole.length);
}

/** @type {(node: PageNode | null | undefined) => void} */
function use(node) {
  if (!node?.card || node.card.refused) return;
  step("talk");
  type(node.card.text, true);
  taken = { id: node.card.id, n: node.number };
  edited();
  const hole = [...reply.value.matchAll(OPEN)][0];
  if (hole) goTo(hole[0]);
}

/* ---- the whole, and what a person does */

const stepNow = () => find(".desk").dataset.step ?? "list";

/** @type {(name: string) => void} */
function step(name) {
  find(".desk").dataset.step = name;
  for (const button of findAll(".desk-steps button")) {
    if (button.dataset.step === name) button.setAttribute("aria-current", "step");
    else button.removeAttribute("aria-current");
    button.disabled = !talkOpen() && button.dataset.step !== "list";
  }
}

function drawDesk() {
  if (!view) return;
  drawDeskList();
  if (!view.desk) return;
  drawTalk();
  drawHelp();
  if (talkOpen()) drawNote();
  step(stepNow());
  if (tipped) fillTip();
  const address = new URL(location.href);
  if (deskHas()) address.searchParams.set("desk", talkOpen()?.id ?? "");
  else address.searchParams.delete("desk");
  if (address.href !== location.href) history.replaceState(history.state, "", address);
}

function wish() {
  deskAct("wish", { wanted: find(".desk-wish input").value.trim(), draft: ownWords() });
  drawHelp();
}

Object.assign(acts, {
  "desk-open"(button) {
    greet = button.talk !== onScreen;
    step("talk");
    if (greet) find(".desk-wish input").value = "";
    deskAct("open", { talk: button.talk, draft: kept.get(button.talk).taken ? "" : (kept.get(button.talk).text ?? "") });
  },
  "desk-step": (button) => step(button.dataset.step),
  "desk-chip": (button) => button.focus(),
  "desk-cited": (node) => toggleCited(node),
  "desk-use": (button) => use(button.closest(".suggestion")),
  "desk-refuse": (button) => deskAct("refuse", { suggestion: button.closest(".suggestion").card.id }),
  "desk-hole": (button) => goTo(button.hole),
  "desk-from": () => { step("help"); wish(); },
  "desk-quick"(button) {
    const input = find(".desk-wish input");
    const words = input.value.split(/[,，]\s*/).map((each) => each.trim()).filter(Boolean);
    const wanted = t(button.dataset.wish + ".say");
    const left = words.filter((each) => each !== wanted);
    input.value = (left.length < words.length ? left : [...words, wanted]).join(say("desk.wish.comma"));
    wish();
  },
  "desk-close"(button) {
    if (button.sure) deskAct("close");
    button.sure = !button.sure;
    button.textContent = t(button.sure ? "desk.close.sure" : "desk.close");
    setTimeout(() => { button.sure = false; button.textContent = t("desk.close"); }, 4000);
  },
  "desk-insert"(button) {
    step("talk");
    const before = reply.value.slice(0, reply.selectionStart);
    type((before && !/\s$/.test(before) ? " " : "") + button.post.url, false);
    edited();
  },
  "desk-hand"(button) {
    button.disabled = true;
    deskAct("decide", { action: "hand_over", decision: "approve" });
    setTimeout(() => { button.disabled = false; }, 5000);
  },
  "desk-decide"(button) {
    const node = button.closest(".desk-act");
    const lacks = node.action.fields.some((field) => field.required && !field.value);
    if (button.dataset.decision === "approve" && lacks) changing(node, true);
    else decide(node, button.dataset.decision);
  },
  "desk-change"(button) {
    const node = button.closest(".desk-act");
    changing(node, Boolean(find(".desk-fields", node).hidden));
  },
});

find(".desk").addEventListener("submit", (event) => {
  event.preventDefault();
  const form = targetOf(event);
  if (form.matches(".desk-write")) sendReply();
  else if (form.matches(".desk-wish")) wish();
  else if (form.matches(".desk-fields")) {
    const given = Object.fromEntries(findAll("input", form).map((input) => [input.name, input.value]));
    decide(form.closest(".desk-act"), "edit", { arguments: given });
  } else {
    const input = find("input", form);
    if (!input.value.trim()) return;
    deskAct("receive", { text: input.value.trim() });
    input.value = "";
  }
});

reply.addEventListener("input", edited);
reply.addEventListener("scroll", () => { find(".desk-mirror").scrollTop = reply.scrollTop; });
root.addEventListener("pointerover", (event) => {
  const node = targetOf(event).closest(".pill");
  if (node && event.pointerType !== "touch" && node !== tipped) showTip(node);
  else if (!node && tipped && tipped !== document.activeElement) hideTip();
});
root.addEventListener("focusin", (event) => {
  if (targetOf(event).matches(".pill")) showTip(targetOf(event));
  else if (tipped) hideTip();
});
root.addEventListener("focusout", hideTip);
root.addEventListener("keydown", (event) => {
  if (!deskHas() || event.isComposing) return;
  const field = targetOf(event).matches("input, textarea, select");
  const digit = /^(?:Digit|Numpad)([1-9])$/.exec(event.code)?.[1];
  if (digit && (event.altKey || !field) && !event.ctrlKey && !event.metaKey) {
    const node = findAll(".suggestion").find((each) => each.number === Number(digit) && each.card);
    if (node) {
      event.preventDefault();
      use(node);
    }
  } else if (event.target === reply && event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    sendReply();
  } else if (targetOf(event).classList.contains("cited") && (event.key === "Enter" || event.key === " ")) {
    event.preventDefault();
    toggleCited(targetOf(event));
  } else if (event.key === "Escape") {
    hideTip();
    const open = targetOf(event).closest(".card")?.querySelector(".cited[aria-expanded=true]");
    if (open) { toggleCited(open); open.focus(); }
  } else if (targetOf(event).matches(".desk-line") && (event.key === "ArrowDown" || event.key === "ArrowUp")) {
    event.preventDefault();
    const rows = findAll(".desk-line");
    rows[rows.indexOf(targetOf(event)) + (event.key === "ArrowDown" ? 1 : -1)]?.focus();
  }
});
narrow.addEventListener("change", drawDesk);

function enterDesk() {
  step(stepNow());
  drawDesk();
  deskAct("list");
}
for (const button of findAll(".places button")) {
  button.addEventListener("click", () => (button.dataset.place === "desk" ? enterDesk() : queueMicrotask(drawDesk)));
}
watch("value", drawDesk);

const wantedDesk = new URL(location.href).searchParams.get("desk");
if (wantedDesk !== null) {
  go("desk");
  tell("desk", { do: "list" });
  if (wantedDesk) {
    step("talk");
    tell("desk", { do: "open", talk: wantedDesk });
  }
}
