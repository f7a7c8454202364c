/* Part 2: the conversation and its cards. */

let stageSince = 0;
let stageNow = "";

function drawTurns() {
  const log = find(".log");
  const user = view.user?.id ?? "";
  // A conversation that has just begun gets its id with its first answer; that is not another one.
  const moved = log.user !== user || (log.talk && log.talk !== view.conversation);
  if (moved) {
    log.replaceChildren();
    log.children_ = new Map();
  }
  [log.user, log.talk] = [user, view.conversation];
  keyed(
    log,
    view.turns,
    (turn, index) => index + turn.role,
    (turn) => make(turn.role === "user" ? "said" : "answer"),
    (node, turn) => (turn.role === "user" ? drawSaid(node, turn) : drawAnswer(node, turn)),
  );
  if (sent && view.turns.length > sent.turns) {
    // Only now is it safe: until the server has a message, it stays in the box.
    if (box.value.trim() === sent.text) write("");
    log.children[sent.turns]?.scrollIntoView({ block: "start", behavior: still.matches ? "auto" : "smooth" });
    sent = null;
  } else if (moved && view.turns.length) {
    findAll(".said", log).at(-1)?.scrollIntoView({ block: "start" });
  }
}

/** @type {(node: PageNode, turn: Turn) => void} */
function drawSaid(node, turn) {
  part(node, "text", turn.text, (text) => { find("p", node).textContent = text; });
}

/** @type {(node: PageNode, turn: Turn) => void} */
function drawAnswer(node, turn) {
  part(node, "text", turn.text, (text) => {
    find(".answer-text", node).textContent = text;
    find(".answer-text", node).hidden = !text;
  });
  part(node, "receipt", turn.receipt ?? null, (receipt) => {
    const words = (receipt?.rules ?? []).map((topic) => t("rule.exclude", { topic }));
    if (receipt?.left) words.push(t("receipt.left", { n: receipt.left }));
    if (receipt?.came) words.push(t("receipt.came", { n: receipt.came }));
    const line = find(".answer-receipt", node);
    line.textContent = words.join(" · ");
    line.hidden = words.length === 0;
  });
  keyed(find(".cards", node), turn.items, (card) => card.id, () => make("card"), drawCard);
  drawStage(node, turn);
  part(node, "end", [turn.state, turn.error ?? "", Boolean(turn.text || turn.items.length)], ([state, error, full]) => {
    const line = find(".answer-end", node);
    const ends = { stopped: t("turn.stopped"), failed: t("turn.failed") + " " + error, done: full ? "" : t("turn.empty") };
    line.textContent = ends[state] ?? "";
    line.hidden = !line.textContent;
  });
}

// The running stage stands where the answer will be; once there are cards, at the foot, where nothing moves.
/** @type {(node: PageNode, turn: Turn) => void} */
function drawStage(node, turn) {
  const runs = turn.state === "running";
  node.setAttribute("aria-busy", String(runs));
  const box = find(".stage", node);
  box.hidden = !runs || turn.items.length > 0;
  if (!runs) return;
  if (stageNow !== turn.stage) {
    stageNow = turn.stage;
    stageSince = Date.now();
  }
  part(box, "stage", turn.stage, (stage) => { find(".stage-name", box).textContent = named("stage", stage); });
}

function drawFoot() {
  const turn = view.turns.at(-1);
  const box = find(".ask-foot .stage");
  const runs = view.running && turn?.role === "agent" && turn.items.length > 0;
  box.hidden = !runs;
  find(".ask-keys").hidden = runs;
  part(box, "stage", runs ? turn.stage : "", (stage) => { find(".stage-name", box).textContent = stage ? named("stage", stage) : ""; });
}

setInterval(() => {
  const box = find(".stage:not([hidden]) .stage-seconds");
  if (!box) return;
  const seconds = Math.round((Date.now() - stageSince) / 1000);
  box.textContent = seconds >= 2 ? t("stage.seconds", { n: seconds }) : "";
}, 500);

/** @type {(node: PageNode, card: Card) => void} */
function drawCard(node, card) {
  node.post = card.id;
  part(node, "title", [card.title, card.url], () => {
    const title = find(".card-title", node);
    if (card.url) {
      const link = document.createElement("a");
      link.textContent = card.title;
      link.href = card.url;
      link.target = "_blank";
      link.rel = "noopener noreferrer";
      link.dataset.do = "open";
      link.title = say("card.opens");
      title.replaceChildren(link);
    } else {
      const text = document.createElement("span");
      text.textContent = card.title;
      title.replaceChildren(text);
    }
    find(".card-gone-title", node).textContent = card.title;
  });
  part(node, "facts", [card.community, card.time, card.author, card.tags], () => {
    const facts = find(".card-facts", node);
    const place = document.createElement("span");
    place.className = "community";
    place.textContent = card.community;
    const age = document.createElement("time");
    age.textContent = when(card.time);
    age.title = fullDate(card.time);
    const author = document.createElement("span");
    author.textContent = card.author ? t("card.by", { name: card.author }) : "";
    facts.replaceChildren(...[place, age, author].filter((each) => each.textContent));
  });
  part(node, "reason", card.reason, () => drawReason(node, card.reason));
  part(node, "waiting", card.waiting, (waiting) => {
    node.classList.toggle("waiting", waiting);
    const reason = find(".card-reason", node);
    if (waiting) reason.setAttribute("aria-description", say("card.waiting"));
    else reason.removeAttribute("aria-description");
  });
  const marks = view.marks[card.id] ?? {};
  part(node, "marks", marks, () => {
    for (const button of findAll("[data-do=mark]", node)) {
      button.setAttribute("aria-pressed", String(Boolean(marks[button.dataset.kind ?? ""])));
    }
    const gone = Boolean(marks.hide);
    const had = document.activeElement && node.contains(document.activeElement);
    find(".card-body", node).hidden = gone;
    find(".card-gone", node).hidden = !gone;
    find(".card-gone-text", node).textContent = gone ? t("card.hidden") : "";
    node.classList.toggle("gone", gone);
    if (had) (gone ? find("[data-do=unhide]", node) : find("[data-do=hide]", node)).focus({ preventScroll: true });
  });
  part(node, "why", [Boolean(node.whyOpen), view.why[card.id] ?? null], ([open, found]) => drawWhy(node, open, found));
}

/** @type {(node: PageNode, reason: Reason) => void} */
function drawReason(node, reason) {
  const line = find(".card-reason", node);
  const pieces = reason.parts.map((piece) => {
    if (!piece.evidence) return document.createTextNode(piece.text);
    const claim = /** @type {PageNode} */ (document.createElement("span")); // a button would not break over lines like the words around it
    claim.className = "claim";
    claim.dataset.do = "claim";
    claim.tabIndex = 0;
    claim.setAttribute("role", "button");
    claim.setAttribute("aria-expanded", "false");
    claim.textContent = piece.text;
    claim.evidence = piece.evidence;
    return claim;
  });
  line.replaceChildren(...pieces);
  line.lang = reason.language;
  const box = find(".evidence", node);
  box.hidden = true;
  box.replaceChildren();
  const source = find(".card-source", node);
  source.textContent = t("card.source." + reason.source) ?? "";
}

/** @type {(node: PageNode, claim: PageNode) => void} */
function toggleClaim(node, claim) {
  const box = find(".evidence", node);
  const open = claim.getAttribute("aria-expanded") !== "true";
  for (const other of findAll(".claim", node)) other.setAttribute("aria-expanded", "false");
  claim.setAttribute("aria-expanded", String(open));
  box.hidden = !open;
  box.replaceChildren(...(open ? claim.evidence.map(proof) : []));
  find(".card-source", node).hidden = !open;
}

/** @type {(evidence: Evidence) => PageNode} */
function proof(evidence) {
  const node = make("proof");
  const kind = find(".proof-kind", node);
  const more = find(".proof-more", node);
  if (evidence.type === "event") {
    kind.textContent = evidence.did ? (t("did." + evidence.did) ?? t("did.other")) : t("evidence.gone");
    if (evidence.post) {
      const link = find("a", node);
      linkTo(link, evidence.post);
      link.hidden = false;
    }
    more.textContent = [evidence.text, when(evidence.time)].filter(Boolean).join(" · ");
  } else if (evidence.type === "span") {
    kind.textContent = t("evidence.span");
    const quote = find("blockquote", node);
    quote.textContent = evidence.quote;
    quote.hidden = false;
  } else if (evidence.type === "signal") {
    kind.textContent = t("evidence.signal");
    more.textContent = named("signal", evidence.signal);
  } else {
    kind.textContent = t("evidence.link");
    more.textContent = evidence.text;
  }
  return node;
}

/** @type {(node: PageNode, open: boolean, found: Why | null) => void} */
function drawWhy(node, open, found) {
  const box = find(".why", node);
  find(".why-button", node).setAttribute("aria-expanded", String(open));
  box.hidden = !open;
  if (!open) return;
  if (!found) {
    box.textContent = t("why.loading");
    return;
  }
  const inside = make("why");
  // The sentence says what the bars show; it is needed where there are none.
  const words = find(".why-text", inside);
  words.textContent = found.text;
  words.hidden = !found.text || found.bars.length > 0;
  for (const title of findAll("h4:not(.why-other-title)", inside)) title.hidden = found.bars.length === 0;
  const sources = find(".tags", inside);
  for (const source of found.sources) {
    const tag = document.createElement("li");
    tag.textContent = named("source", source);
    sources.append(tag);
  }
  const bars = find(".bars", inside);
  const largest = Math.max(...found.bars.map((bar) => Math.abs(bar.share)), 1e-9);
  const whole = found.bars.reduce((sum, bar) => sum + Math.abs(bar.share), 0) || 1;
  for (const bar of found.bars) {
    const line = make("bar");
    find(".bar-name", line).textContent = named("signal", bar.signal);
    find(".bar i", line).style.width = Math.max(2, (100 * Math.abs(bar.share)) / largest) + "%";
    line.classList.toggle("against", bar.share < 0);
    const share = Math.round((100 * Math.abs(bar.share)) / whole);
    find(".bar-share", line).textContent = (bar.share < 0 ? "−" : "") + share + " %";
    if (bar.share < 0) line.title = say("why.against");
    bars.append(line);
  }
  find(".why-other", inside).textContent = found.other;
  find(".why-other-title", inside).hidden = find(".why-other", inside).hidden = !found.other;
  box.replaceChildren(inside);
}

/** @type {(node: Element) => PageNode} */
const cardOf = (node) => node.closest(".card");

const cardActs = {
  open: (button) => act("feedback", { post: cardOf(button).post, kind: "open" }),
  claim: (button) => toggleClaim(cardOf(button), button),
  mark(button) {
    const node = cardOf(button);
    const kind = button.dataset.kind;
    const event = view.marks[node.post]?.[kind];
    find(".card-receipt", node).textContent = event ? "" : t(kind === "like" ? "card.liked" : "card.saved");
    button.setAttribute("aria-pressed", String(!event));
    if (event) act("forget", { event });
    else act("feedback", { post: node.post, kind });
  },
  hide: (button) => act("feedback", { post: cardOf(button).post, kind: "hide" }),
  unhide(button) {
    const event = view.marks[cardOf(button).post]?.hide;
    if (event) act("forget", { event });
  },
  why(button) {
    const node = cardOf(button);
    node.whyOpen = !node.whyOpen;
    const found = view.why[node.post] ?? null;
    part(node, "why", [node.whyOpen, found], ([open]) => drawWhy(node, open, found));
    if (node.whyOpen) act("why", { post: node.post });
  },
};
