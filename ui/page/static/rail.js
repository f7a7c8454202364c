/* Part 3: the rail (who reads, what whyfeed believes, rules) and the chooser. */

const chooser = find(".chooser");
const sheet = find(".sheet");
const picked = new Set(); // topics that a newcomer has touched

function drawRail() {
  const user = view.user;
  part(root, "who", user, () => {
    find(".who").hidden = !user;
    find(".top-who").textContent = user?.name ?? "";
    if (!user) return;
    find(".who-name").textContent = user.name;
    face(find(".who .face"), user);
  });
  const profile = view.profile;
  find(".believed").hidden = !profile;
  if (!profile) return;
  find(".believed-none").hidden = profile.interests.length > 0;
  keyed(find(".interests"), profile.interests, (interest) => interest.label, () => make("interest"), drawInterest);
  find(".rules-none").hidden = profile.rules.length > 0;
  keyed(find(".rules"), profile.rules, (rule) => rule.id, () => make("rule"), (node, rule) =>
    part(node, "rule", rule, () => {
      const words = t("rule." + rule.kind, { topic: rule.topic });
      const chip = find(".chip", node);
      chip.textContent = words;
      chip.setAttribute("aria-pressed", String(rule.active));
      chip.setAttribute("aria-label", say(rule.active ? "rule.on" : "rule.off", { rule: words }));
      chip.rule = rule;
    }),
  );
  const hidden = find(".hidden-posts");
  hidden.hidden = profile.hidden.length === 0;
  find("summary", hidden).textContent = t("profile.hidden", { n: profile.hidden.length });
  keyed(find(".lines", hidden), profile.hidden, (post) => post.id, () => make("line"), (node, post) =>
    part(node, "line", post, () => {
      linkTo(find("a", node), post);
      const again = find("button", node);
      again.textContent = t("profile.unhide");
      again.hidden = !post.event;
      again.dataset.do = "forget";
      again.event = post.event;
    }),
  );
  const talks = find(".talks");
  const others = view.conversations.filter((talk) => talk.id !== view.conversation);
  talks.hidden = others.length === 0;
  keyed(find(".lines", talks), others.slice(0, 20), (talk) => talk.id, () => make("line"), (node, talk) =>
    part(node, "line", talk, () => {
      node.querySelector("a")?.remove(); // drawn again, it has none
      const open = find("button", node);
      open.textContent = talk.title;
      open.dataset.do = "talk";
      open.talk = talk.id;
    }),
  );
}

/** @type {(node: PageNode, interest: Interest) => void} */
function drawInterest(node, interest) {
  part(node, "interest", interest, () => {
    find(".interest-label", node).textContent = interest.label;
    find(".bar i", node).style.width = Math.round(100 * interest.share) + "%";
    const lines = interest.posts.map((post) => {
      const line = make("line");
      linkTo(find("a", line), post);
      find("button", line).remove();
      return line;
    });
    find(".lines", node).replaceChildren(...lines);
  });
}

/* ---- the chooser lives in the welcome, or in the sheet once somebody reads */

function drawChooser() {
  const home = view.user ? find(".sheet-body") : find(".chooser-home");
  if (chooser.parentElement !== home) home.append(chooser);
  chooser.hidden = false;
  find(".welcome").hidden = Boolean(view.user);
  const found = view.members.found;
  find(".members-none").hidden = found.length > 0;
  keyed(find(".members"), found, (member) => member.id, () => make("member"), (node, member) =>
    part(node, "member", member, () => {
      node.member = member.id;
      node.id = "wf-member-" + hue(member.id) + "-" + member.id.replace(/[^\w-]/g, "_");
      face(find(".face", node), member);
      find(".member-name", node).textContent = member.name;
      find(".member-where", node).textContent = member.communities.join(", ");
      find(".member-events", node).textContent = t(member.events === 1 ? "who.events.1" : "who.events", { n: member.events });
    }),
  );
  point(null);
  keyed(find(".topics"), view.topics, (topic) => topic, () => make("topic"), (node, topic) => {
    node.textContent = topic;
    node.topic = topic;
    node.setAttribute("aria-pressed", String(picked.has(topic)));
  });
}

// The list's own cursor: arrows move it while the focus stays in the search field.
/** @type {(step: number | null) => void} */
function point(step) {
  const rows = findAll("[role=option]", chooser);
  const now = rows.findIndex((row) => row.getAttribute("aria-selected") === "true");
  const next = step === null ? -1 : Math.max(0, Math.min(rows.length - 1, now + step));
  rows.forEach((row, index) => { row.setAttribute("aria-selected", String(index === next)); });
  const field = find("[role=combobox]", chooser);
  if (rows[next]) {
    field.setAttribute("aria-activedescendant", rows[next].id);
    rows[next].scrollIntoView({ block: "nearest" });
  } else field.removeAttribute("aria-activedescendant");
}

let searching = 0;
find("[role=combobox]", chooser).addEventListener("input", (event) => {
  clearTimeout(searching);
  searching = setTimeout(() => act("members", { text: targetOf(event).value }), 150);
});
find("[role=combobox]", chooser).addEventListener("keydown", (event) => {
  if (event.isComposing) return;
  if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    event.preventDefault();
    point(event.key === "ArrowDown" ? 1 : -1);
  } else if (event.key === "Enter") {
    event.preventDefault();
    const row = find("[aria-selected=true]", chooser) ?? find("[role=option]", chooser);
    if (row) railActs.choose(row);
  }
});

function showPane(newcomer) {
  find(".members-pane").hidden = newcomer;
  find(".newcomer-pane").hidden = !newcomer;
  const first = newcomer ? find(".topics .chip") ?? find(".own") : find("[role=combobox]", chooser);
  first?.focus({ preventScroll: true });
}

find(".newcomer-pane").addEventListener("submit", (event) => {
  event.preventDefault();
  const own = find(".own").value.split(/[,，、;；\n]/).map((each) => each.trim()).filter(Boolean);
  const interests = [...picked, ...own];
  find(".newcomer-pane .error").hidden = interests.length > 0;
  if (!interests.length) return find(".own").focus();
  act("newcomer", { interests, name: find(".name").value.trim() });
  picked.clear();
  find(".own").value = find(".name").value = "";
  leaveChooser();
});

function leaveChooser() {
  if (sheet.open) sheet.close();
  menu(false);
  showPane(false);
  focusAsk = true;
}

function menu(open) {
  root.classList.toggle("menu-open", open);
  find("[data-do=menu]").setAttribute("aria-expanded", String(open));
  find(".main").inert = open;
  if (open) find(".rail-close").focus();
}

const railActs = {
  menu: () => menu(true),
  "menu-close": () => { menu(false); find("[data-do=menu]").focus(); },
  who() {
    menu(false);
    showPane(false);
    sheet.showModal();
    find("[role=combobox]", chooser).focus();
  },
  "who-close": () => sheet.close(),
  choose(row) {
    act("choose", { user: row.member });
    find("[role=combobox]", chooser).value = "";
    leaveChooser();
  },
  "someone-new": () => showPane(true),
  "someone-known": () => showPane(false),
  topic(chip) {
    if (!picked.delete(chip.topic)) picked.add(chip.topic);
    chip.setAttribute("aria-pressed", String(picked.has(chip.topic)));
    find(".newcomer-pane .error").hidden = true;
  },
  rule: (chip) => act("rule", { rule: chip.rule.id, active: !chip.rule.active }),
  talk(button) { menu(false); act("talk", { conversation: button.talk }); },
  new() { menu(false); focusAsk = true; act("talk"); },
  forget: (button) => act("forget", { event: button.event }),
  theme() {
    const now = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    store.set("theme", now);
    wear(now);
  },
  language(button) {
    store.set("language", button.dataset.language);
    speak(button.dataset.language);
    act("language", { language: language });
  },
};
let focusAsk = false;

function wear(theme) {
  document.documentElement.dataset.theme = theme;
  document.body.classList.toggle("dark", theme === "dark");
}
