/* Part 6: the desk's right side: suggestions with their evidence, the draft, the hand-over, proposed actions. */

function drawHelp() {
  const help = view.desk_help;
  const talk = talkOpen();
  if (!talk) return;
  const loading = help.state === "loading";
  const cards = help.cards;
  const box = find(".desk-cards");
  const fresh = loading && cards.length === 0;
  if (fresh) keyed(box, ["waits 1", "waits 2", "waits 3"], (id) => id, () => make("desk-waiting"), () => {});
  else keyed(box, cards, (card) => card.id, () => make("suggestion"), (node, card, place) => drawSuggestion(node, card, place + 1));
  box.setAttribute("aria-busy", String(loading));
  const n = cards.length;
  const words = loading ? t("desk.loading") : n ? t(n === 1 ? "desk.found.1" : "desk.found", { n }) : "";
  const status = find(".desk-status");
  if (status.textContent !== words) status.textContent = words;
  const none = find(".desk-none");
  const text = { ready: n ? "" : t("desk.found.none"), drafting: "", idle: t("desk.idle"), failed: t("desk.failed") + " " + (help.error ?? "") };
  none.textContent = talk.closed ? "" : (text[help.state] ?? "");
  none.hidden = !none.textContent;
  find(".desk-wish").hidden = talk.closed;
  find(".desk-steps [data-step=help] .count").textContent = n ? String(n) : "";
  drawWritten(n + 1);
  part(find(".desk-posts"), "posts", help.posts, (posts) => {
    find(".desk-posts").hidden = posts.length === 0;
    const lines = posts.map((post) => {
      const line = make("desk-post");
      linkTo(find("a", line), post);
      find(".quiet", line).textContent = post.reason.map((piece) => piece.text).join("");
      find("button", line).hidden = !post.url;
      find("button", line).post = post;
      return line;
    });
    find(".desk-posts ul").replaceChildren(...lines);
  });
  drawDeskActs(help.handover);
  const other = talk.language === "zh" ? "desk.other.en" : "desk.other.zh";
  const button = find(".desk-other");
  button.dataset.wish = other;
  button.textContent = t(other);
  button.lang = other.slice(-2);
  const wanted = find(".desk-wish input").value;
  for (const each of findAll("[data-do=desk-quick]")) each.setAttribute("aria-pressed", String(wanted.includes(say(each.dataset.wish + ".say"))));
}

/** @type {(node: PageNode, card: Suggestion, number: number) => void} */
function drawSuggestion(node, card, number) {
  node.card = card;
  node.number = number;
  part(node, "card", [card, number], () => {
    find("kbd", node).textContent = String(number);
    find(".desk-card-source", node).textContent = t("desk.source." + card.source);
    const sure = find(".desk-card-sure", node);
    sure.textContent = t("desk.sure." + card.sure);
    sure.dataset.sure = card.sure;
    const text = find(".desk-card-text", node);
    text.replaceChildren(...citedNodes(card.parts));
    text.lang = card.language;
    find(".evidence", node).hidden = true;
    const missing = find(".desk-card-missing", node);
    missing.hidden = card.missing.length === 0;
    missing.textContent = t("desk.missing", { names: card.missing.map((name) => "{" + name + "}").join(", ") });
    find(".desk-use", node).setAttribute("aria-label", say("desk.use.key", { n: number }));
    find(".desk-use", node).title = "Alt + " + number;
    node.classList.toggle("refused", card.refused);
    find(".desk-buttons", node).hidden = card.refused;
    find(".desk-card-gone", node).hidden = !card.refused;
    find(".desk-card-gone", node).textContent = card.refused ? t("desk.refused") : "";
  });
}

/** @type {(number: number) => void} */
function drawWritten(number) {
  const box = find(".desk-draft");
  const written = view.desk_draft;
  box.hidden = written.state === "none";
  part(box, "kind", written.state === "done", (done) => {
    const node = make("suggestion");
    node.classList.toggle("writing", !done);
    box.replaceChildren(node);
  });
  const node = /** @type {PageNode} */ (box.firstElementChild);
  if (written.state === "done") return drawSuggestion(node, written.card, number);
  node.card = null;
  part(node, "draft", written, () => {
    const writing = written.state === "writing";
    find("kbd", node).hidden = true;
    find(".desk-card-source", node).textContent = t("desk.draft");
    find(".desk-card-sure", node).textContent = writing ? t("desk.draft.writing") : "";
    find(".desk-card-text", node).textContent = writing ? written.text : t("desk.draft." + written.state) ?? "";
    find(".desk-buttons", node).hidden = true;
    node.setAttribute("aria-busy", String(writing));
  });
}

/* ---- what a person decides */

/** @type {(action: Action) => boolean} */
const decided = (action) => ["approve", "edit", "reject"].includes(action.state);

/** @type {(handover: DeskHelp["handover"]) => void} */
function drawDeskActs(handover) {
  const actions = view.desk_actions;
  const hand = actions.find((action) => action.name === "hand_over");
  const section = find(".desk-hand");
  part(section, "hand", [handover, hand ?? null], () => {
    section.hidden = !handover;
    if (!handover) return;
    find(".desk-hand-why").textContent = handover.reason;
    find(".desk-hand-summary").replaceChildren(...nodesOf(handover.summary));
    const over = hand !== undefined && decided(hand);
    const button = find("[data-do=desk-hand]");
    button.hidden = over;
    button.disabled = hand?.state === "preparing";
    find(".desk-buttons span", section).textContent = over ? t("desk.act." + hand?.state) : "";
  });
  const shown = actions.filter((action) => action !== hand || !handover);
  find(".desk-acts").hidden = shown.length === 0;
  keyed(find(".desk-act-list"), shown, (action) => action.name, () => make("desk-act"), drawDeskAct);
}

/** @type {(node: PageNode, action: Action) => void} */
function drawDeskAct(node, action) {
  node.action = action;
  part(node, "action", action, () => {
    find("h3", node).textContent = t("desk.act." + action.name) ?? action.name;
    find(".desk-act-why", node).replaceChildren(...citedNodes([{ words: action.why, evidence: action.evidence.length ? action.evidence : null }]));
    find(".evidence", node).hidden = true;
    const rows = action.fields.map((field) => ({
      key: t("desk.field." + field.name) ?? field.name,
      words: field.words.length ? field.words : [say("desk.field.none")],
    }));
    find("dl", node).replaceChildren(...rowsOf(rows));
    const fields = action.fields.map((field) => {
      const line = make("desk-field");
      find("span", line).textContent = t("desk.field." + field.name) ?? field.name;
      const input = find("input", line);
      input.name = field.name;
      input.value = field.value;
      input.required = field.required;
      if (field.type === "number") input.inputMode = "decimal";
      return line;
    });
    find(".desk-fields-in", node).replaceChildren(...fields);
    changing(node, false);
    const ready = action.state === "waiting";
    const buttons = findAll(".desk-choices button", node);
    for (const button of buttons) button.disabled = !ready;
    buttons[1].hidden = action.fields.length === 0;
    find(".desk-choices", node).hidden = decided(action);
    find(".desk-act-state", node).textContent = ready ? "" : (t("desk.act." + action.state) ?? "");
    node.classList.toggle("decided", decided(action));
  });
}

/** @type {(node: PageNode, open: boolean) => void} */
function changing(node, open) {
  find(".desk-fields", node).hidden = !open;
  find("dl", node).hidden = open;
  find(".desk-choices", node).hidden = open || decided(node.action);
  if (open) (findAll("input", node).find((input) => !input.value) ?? find("input", node))?.focus();
}

/** @type {(node: PageNode, decision: string | undefined, more?: object) => void} */
function decide(node, decision, more = {}) {
  for (const button of findAll("button", node)) button.disabled = true;
  find(".desk-act-state", node).textContent = t("desk.act.deciding");
  deskAct("decide", { action: node.action.id, decision, ...more });
  // What could not be done waits again; its card is the same as before, so it is drawn anew here.
  setTimeout(() => {
    if (node.action.state !== "waiting") return;
    for (const button of findAll("button", node)) button.disabled = false;
    find(".desk-act-state", node).textContent = "";
  }, 5000);
}
