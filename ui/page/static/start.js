/* Part 5: drawing a view, listening, and the beginning. */

const box = find("#wf-ask");
let noticed = 0;

function draw() {
  find(".starting").hidden = true;
  drawBanner();
  drawChooser();
  drawRail();
  const hello = find(".hello");
  hello.hidden = !view.user || view.turns.length > 0;
  part(hello, "words", [view.user?.name, view.profile?.events], ([name, events]) => {
    find("h1", hello).textContent = t("hello", { name });
    find(".lead", hello).textContent = t((events ?? 0) > 0 ? "hello.lead" : "hello.lead.new");
  });
  part(hello, "quick", [view.profile?.interests.map((each) => each.label), view.topics], ([labels, topics]) => {
    // One topic that this reader knows well, and one that they have not touched.
    const known = (labels ?? []).flatMap((each) => each.split(", "));
    const first = known[0] ?? topics[0];
    const wanted = [first, topics.find((topic) => topic !== first && !known.includes(topic))];
    findAll(".quick-topic", hello).forEach((button, place) => {
      button.hidden = !wanted[place];
      button.textContent = t("quick.topic", { topic: wanted[place] ?? "" });
    });
  });
  drawTurns();
  drawFoot();
  drawBehind();
  find(".ask").hidden = !view.user;
  find(".ask-send").hidden = view.running;
  find(".ask-stop").hidden = !view.running;
  find(".ask-foot [data-do=new]").hidden = view.turns.length === 0;
  if (focusAsk && view.user && !find(".ask").hidden) {
    focusAsk = false;
    if (matchMedia("(min-width: 760px)").matches) box.focus({ preventScroll: true });
  }
  if (view.notice && view.notice.number > noticed) {
    noticed = view.notice.number;
    find(".notice span").textContent = view.notice.text;
    find(".notice").hidden = false;
  }
  if (!view.running && !sent) giveBack();
  remember();
}

// A message that a server took and did not answer before it was restarted comes back into the box.
function giveBack() {
  const last = unanswered.get();
  if (!last) return;
  unanswered.set("");
  const kept = view.turns.some((turn) => turn.role === "user" && turn.text === last.text);
  if (last.server !== String(window.gradio_config?.app_id) && !kept && !box.value) write(last.text);
}

// Where we are is in the address, so that a reload, a bookmark and a second tab each find their own.
function remember() {
  const address = new URL(location.href);
  const put = (name, value) => (value ? address.searchParams.set(name, value) : address.searchParams.delete(name));
  put("user", view.user?.id);
  put("talk", view.user ? view.conversation : "");
  if (address.href !== location.href) history.replaceState(history.state, "", address);
  if (view.user) {
    store.set("user", view.user.id);
    store.set("talk", view.conversation);
  }
}

function speak(wanted) {
  language = wanted in props.texts ? wanted : "en";
  document.documentElement.lang = say("language.tag");
  label(root);
  for (const button of findAll(".switch button")) {
    button.setAttribute("aria-pressed", String(button.dataset.language === language));
  }
  if (view) draw();
}

function go(place) {
  root.dataset.place = place;
  find(".read").hidden = place !== "read";
  find(".behind").hidden = place !== "behind";
  for (const button of findAll(".places button")) {
    if (button.dataset.place === place) button.setAttribute("aria-current", "page");
    else button.removeAttribute("aria-current");
  }
  if (place === "behind") act("behind");
}

const pageActs = {
  quick: (button) => send(button.textContent),
  stop: () => tell("stop"),
  place(button) { menu(false); go(button.dataset.place); },
  "notice-close": () => { find(".notice").hidden = true; },
};
const acts = { ...cardActs, ...railActs, ...pageActs };

root.addEventListener("click", (event) => {
  const button = targetOf(event).closest("[data-do]");
  if (button && root.contains(button)) acts[button.dataset.do]?.(button);
});
// A middle click opens a link as well.
root.addEventListener("auxclick", (event) => {
  const opened = targetOf(event).closest("a[data-do=open]");
  if (opened && event.button === 1) acts.open(opened);
});
sheet.addEventListener("click", (event) => { if (event.target === sheet) sheet.close(); });
root.addEventListener("keydown", (event) => {
  if (targetOf(event).classList.contains("claim") && (event.key === "Enter" || event.key === " ")) {
    event.preventDefault();
    acts.claim(targetOf(event));
  }
  if (event.key !== "Escape") return;
  if (root.classList.contains("menu-open")) railActs["menu-close"]();
  const open = targetOf(event).closest(".card")?.querySelector(".claim[aria-expanded=true]");
  if (open) { toggleClaim(cardOf(open), open); open.focus(); }
});

function grow() {
  box.style.height = "";
  if (box.scrollHeight > box.clientHeight) box.style.height = Math.min(box.scrollHeight, 180) + "px";
  draft.set(box.value);
}
function write(text) {
  box.value = text;
  grow();
}
// What is being written belongs to this tab and survives a reload.
const draft = {
  get() { try { return sessionStorage.getItem("whyfeed.draft") ?? ""; } catch { return ""; } },
  set(text) { try { sessionStorage.setItem("whyfeed.draft", text); } catch { /* private mode */ } },
};
box.addEventListener("input", grow);
box.addEventListener("keydown", (event) => {
  // Enter also ends a word in an input method: that one is not ours.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
  event.preventDefault();
  send(box.value);
});
find(".ask").addEventListener("submit", (event) => { event.preventDefault(); send(box.value); });

watch("value", () => {
  if (!props.value) return;
  const session = view?.session;
  if (!learn(JSON.parse(props.value))) return;
  if (session !== view.session) noticed = 0;
  draw();
});

for (const [name, texts] of Object.entries(props.texts)) {
  const button = make("language");
  button.dataset.language = button.lang = name;
  button.textContent = texts["language.short"];
  find(".switch").append(button);
}
wear(document.documentElement.dataset.theme || "light");
// Of the browser's languages (zh-CN, en-US ...) the first that we have words for.
const spoken = [navigator.language, ...navigator.languages].map((tag) => tag.split("-")[0].toLowerCase());
speak(store.get("language") ?? spoken.find((tag) => tag in props.texts) ?? "en");
go("read");
write(draft.get());
act("start");
