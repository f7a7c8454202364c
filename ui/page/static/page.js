/* The page's script, part 1: words, templates, and the way to the server.
   All parts are one function whose arguments are Gradio's: element, trigger, props, server, upload, watch.
   Data reaches the page through textContent and checked attributes only. */

const root = /** @type {PageNode} */ (element.querySelector(".wf"));
/** The element of page.html that a selector names. @type {(selector: string, from?: Element) => PageNode} */
const find = (selector, from = root) => /** @type {PageNode} */ (from.querySelector(selector));
/** @type {(selector: string, from?: Element) => PageNode[]} */
const findAll = (selector, from = root) => [...from.querySelectorAll(selector)].map((node) => /** @type {PageNode} */ (node));
/** @type {(event: Event) => PageNode} */
const targetOf = (event) => /** @type {PageNode} */ (event.target);
const still = matchMedia("(prefers-reduced-motion: reduce)");

const store = {
  get(name) { try { return localStorage.getItem("whyfeed." + name); } catch { return null; } },
  set(name, value) { try { localStorage.setItem("whyfeed." + name, value); } catch { /* private mode */ } },
};

/** @type {View} */
let view = /** @type {any} */ (null); // what the server has told us so far
let language = "en";

/* ---- words */

/** @type {(key: string, values?: Record<string, unknown>) => string | null} */
function t(key, values = {}) {
  const text = props.texts[language]?.[key];
  if (text === undefined) return null;
  return text.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? String(values[name]) : whole));
}

// A name that the code uses, in plain words; one that we have no words for is at least readable.
// A text that is there for certain.
/** @type {(key: string, values?: Record<string, unknown>) => string} */
const say = (key, values) => t(key, values) ?? "";

/** @type {(kind: string, name: unknown) => string} */
const named = (kind, name) => t(kind + "." + name) ?? String(name).replace(/[_-]+/g, " ");

function label(scope) {
  const each = (attribute, put) => {
    const nodes = findAll("[" + attribute + "]", scope);
    if (scope.hasAttribute?.(attribute)) nodes.push(scope);
    for (const node of nodes) put(node, say(node.getAttribute(attribute) ?? ""));
  };
  each("data-t", (node, text) => { if (node.textContent !== text) node.textContent = text; });
  each("data-t-label", (node, text) => node.setAttribute("aria-label", text));
  each("data-t-placeholder", (node, text) => node.setAttribute("placeholder", text));
  each("data-t-title", (node, text) => node.setAttribute("title", text));
}

/** @type {(seconds: number | null | undefined) => string} */
function when(seconds) {
  if (seconds === null || seconds === undefined) return "";
  const days = (Date.now() / 1000 - seconds) / 86400;
  const tag = say("language.tag");
  if (days < 0 || days >= 330) {
    return new Intl.DateTimeFormat(tag, { year: "numeric", month: "short" }).format(new Date(seconds * 1000));
  }
  const ago = new Intl.RelativeTimeFormat(tag, { numeric: "auto" });
  if (days < 1 / 24) return ago.format(-Math.round(days * 1440), "minute");
  if (days < 1) return ago.format(-Math.round(days * 24), "hour");
  if (days < 45) return ago.format(-Math.round(days), "day");
  return ago.format(-Math.round(days / 30.4), "month");
}

/** @type {(seconds: number | null) => string} */
const fullDate = (seconds) =>
  seconds ? new Intl.DateTimeFormat(say("language.tag"), { dateStyle: "long" }).format(new Date(seconds * 1000)) : "";

/* ---- templates */

/** @type {(name: string) => PageNode} */
function make(name) {
  const template = find('template[data-template="' + name + '"]').content.firstElementChild;
  const node = /** @type {PageNode} */ (/** @type {Element} */ (template).cloneNode(true));
  label(node);
  return node;
}

// Run `draw` only when what it draws has changed: what a person has opened or focused stays as it is.
/**
 * @template const Data
 * @param {PageNode} node
 * @param {string} name
 * @param {Data} data
 * @param {(data: Data) => void} draw
 */
function part(node, name, data, draw) {
  const now = JSON.stringify([language, data]);
  node.parts ??= {};
  if (node.parts[name] === now) return;
  node.parts[name] = now;
  draw(data);
}

// Keep one child of `box` for each row, in order; `key` says which child belongs to which row.
/**
 * @template Row
 * @param {PageNode} box
 * @param {Row[]} rows
 * @param {(row: Row, index: number) => string | number} key
 * @param {(row: Row, index: number) => PageNode} build
 * @param {(node: PageNode, row: Row, index: number) => void} draw
 */
function keyed(box, rows, key, build, draw) {
  box.children_ ??= new Map();
  const old = box.children_;
  /** @type {Map<string | number, PageNode>} */
  const kept = new Map();
  rows.forEach((row, index) => {
    const id = key(row, index);
    const node = old.get(id) ?? build(row, index);
    kept.set(id, node);
    if (box.children[index] !== node) box.insertBefore(node, box.children[index] ?? null);
    draw(node, row, index);
  });
  for (const [id, node] of old) if (!kept.has(id)) node.remove();
  box.children_ = kept;
}

/** @type {(node: HTMLElement, post: {title: string, url: string}) => void} */
function linkTo(node, post) {
  node.textContent = post.title;
  if (post.url) node.setAttribute("href", post.url);
  else node.removeAttribute("href");
}

/* ---- to the server */

// Every message says where this tab is, for a server that has been restarted and does not know.
function here() {
  const address = new URL(location.href).searchParams;
  const own = address.has("user");
  return {
    language: language,
    user: own ? address.get("user") : store.get("user"),
    conversation: own ? address.get("talk") : store.get("talk"),
  };
}
const seen = () => (view ? { session: view.session, version: view.version } : null);
const tell = (event, data = {}) => trigger(event, { here: here(), seen: seen(), ...data });
const act = (what, data = {}) => tell("act", { do: what, ...data });

// Take in news; false when it is older than what we have.
/** @type {(news: News) => boolean} */
function learn(news) {
  if (view?.session === news.session && news.version < view.version) return false;
  if (view?.session !== news.session) view = /** @type {View} */ ({ turns: /** @type {Turn[]} */ ([]) });
  view.session = news.session;
  view.version = news.version;
  for (const [name, value] of Object.entries(news.parts)) {
    if (name.startsWith("turn ")) view.turns[Number(name.slice(5))] = value;
    else view[name] = value;
  }
  view.turns.length = news.turns;
  return true;
}

// The last message until its answer is there: a server that is stopped in the middle of an answer has not kept it.
const unanswered = {
  get() { try { return JSON.parse(sessionStorage.getItem("whyfeed.unanswered") ?? "null"); } catch { return null; } },
  set(text) {
    const said = text && JSON.stringify({ text: text, server: String(window.gradio_config?.app_id) });
    try { sessionStorage.setItem("whyfeed.unanswered", said || "null"); } catch { /* private mode */ }
  },
};

/** @type {{text: string, turns: number, time: number} | null} */
let sent = null; // what was sent and is not in the view yet: {text, turns, time}

/** @type {(text: string) => void} */
function send(text) {
  const words = text.trim();
  if (!words || !view?.user || view.running || (sent && Date.now() - sent.time < 5000)) return;
  sent = { text: words, turns: view.turns.length, time: Date.now() };
  unanswered.set(words);
  tell("ask", { text: words });
}

/** @type {(name: string) => string} */
const initial = (name) => [...name.trim()][0]?.toUpperCase() ?? "?";
/** @type {(text: string) => number} */
const hue = (text) => [...text].reduce((sum, letter) => (sum * 137 + (letter.codePointAt(0) ?? 0) * 53) % 360, 7);

/** @type {(node: HTMLElement, member: Member) => void} */
function face(node, member) {
  node.textContent = initial(member.name);
  node.style.setProperty("--hue", String(hue(member.id)));
}
