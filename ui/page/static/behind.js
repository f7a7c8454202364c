/* Part 4: the place behind: models, traces of the last answers, the reader's ledger. */

function drawBehind() {
  const status = view.status;
  const roles = ["writer", "ranker", "embedder"].filter((role) => status[role]);
  keyed(find(".models"), roles, (role) => role, () => make("model"), (node, role) =>
    part(node, "model", status[role], (model) => {
      find(".model-role", node).textContent = t("model." + role);
      find(".model-name", node).textContent = model.name ?? "";
      const percent = model.state === "downloading" && model.total ? " " + share(model) + " %" : "";
      find(".state", node).textContent = named("state", model.state) + percent;
      find(".state", node).dataset.state = model.state;
      find(".state", node).title = model.why ?? "";
    }),
  );
  const number = new Intl.NumberFormat(say("language.tag"));
  find(".home-size").textContent =
    status.posts === undefined ? "" : t("behind.home", { posts: number.format(status.posts), users: number.format(status.users) });
  const behind = view.behind;
  const traces = behind?.traces ?? [];
  find(".traces-none").hidden = traces.length > 0;
  keyed(find(".traces"), traces, (_, index) => traces.length - index, () => make("trace"), drawTrace);
  find(".ledger-title").textContent = view.user ? t("behind.ledger", { name: view.user.name }) : "";
  const events = behind?.events ?? [];
  find(".ledger-none").hidden = events.length > 0 || !view.user;
  keyed(find(".ledger"), events, (event) => event.id, () => make("event"), (node, event) =>
    part(node, "event", event, () => {
      find(".event-when", node).textContent = when(event.time);
      find(".event-did", node).textContent = t("did." + event.kind) ?? event.kind;
      find(".event-about", node).textContent = event.about;
      find("button", node).event = event.id;
    }),
  );
}

const share = (model) => Math.floor((100 * (model.done || 0)) / (model.total || 1));

/** @type {(node: PageNode, trace: Trace) => void} */
function drawTrace(node, trace) {
  part(node, "trace", trace, () => {
    const stages = trace.stages ?? [];
    find(".trace-asked", node).textContent = trace.asked;
    const total = Math.round(stages.reduce((sum, stage) => sum + stage.ms, 0));
    find(".trace-sum", node).textContent = total + " ms";
    const request = trace.request ?? {};
    find(".trace-intent", node).textContent = request.intent ? t("behind.intent", { intent: request.intent }) : "";
    const rows = stages.map((stage) => {
      const row = document.createElement("tr");
      const removed = Object.entries(stage.removed ?? {}).map(([reason, count]) => reason + " " + count).join(", ");
      const detail = stage.detail ? ": " + stage.detail : "";
      const note = stage.note ? " (" + stage.note + ")" : "";
      for (const [text, kind] of [
        [stage.name, ""], [stage.in, "num"], [stage.out, "num"], [removed, ""], [stage.ms, "num"],
        [stage.status + detail + note, ""],
      ]) {
        const cell = document.createElement("td");
        cell.className = String(kind);
        cell.textContent = String(text ?? "");
        row.append(cell);
      }
      return row;
    });
    find("tbody", node).replaceChildren(...rows);
    const weights = Object.entries(trace.weights ?? {}).filter(([, weight]) => weight);
    find(".trace-weights", node).textContent = weights.length
      ? t("behind.weights") + ": " + weights.map(([name, weight]) => name + " " + weight).join(", ")
      : "";
  });
}

function drawBanner() {
  const writer = view.status.writer;
  const banner = find(".banner");
  const text = writer ? t("banner." + writer.state, { percent: share(writer) }) : null;
  banner.hidden = !text;
  if (banner.textContent !== (text ?? "")) banner.textContent = text ?? "";
}
