// Reads what the server tells, every two seconds, and brings the page up to date.

import { open as openChange, prepare } from "./change.js";
import { paint } from "./charts.js";
import { count, counted, make, patchChildren, span, when } from "./kit.js";
import { cards, careful, challengers, comparison, comparisons, decided, drift, epochOf, ledger, members, troubles } from "./parts.js";

const PERIOD = 2000;
const LONGEST = 30_000;
const JUDGED = 5000;
// A pointer is written before its record.
const RECORDING = 10_000;

const byId = (id) => document.getElementById(id);
const main = byId("main");
const state = {
  status: null, verdict: {}, ledger: {}, notReady: "", model: null, role: null,
  paused: false, failures: 0, since: null, readAt: null, next: 0, error: "",
};
let timer = 0;
let turn = 0;

const say = (text) => { byId("said").textContent = text; };

const ask = async (path) => {
  const reply = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(8000) });
  const text = await reply.text();
  let body = null;
  try { body = JSON.parse(text); } catch { /* It is no JSON: the status says enough. */ }
  if (reply.ok && body !== null) return { value: body };
  return { status: reply.status, error: body?.detail ?? (text.slice(0, 300).trim() || `${path} answered ${reply.status}`) };
};

const chosen = () => {
  const [, model, role] = location.hash.startsWith("#/") ? location.hash.split("/").map(decoded) : [];
  const names = (state.status?.models ?? []).map(({ name }) => name);
  if (model) [state.model, state.role] = [model, role ?? null];
  if (!names.includes(state.model)) state.model = names[0] ?? null;
  return state.status?.models.find(({ name }) => name === state.model);
};

const decoded = (text) => { try { return decodeURIComponent(text); } catch { return ""; } };

// The ledger is read from the repository: only when something changed, or for whoever asks for it.
const readLedger = async (model) => {
  const key = `${model.name} ${epochOf(model)} ${model.epoch}`;
  const { ledger: known } = state;
  if (known.key !== key) state.ledger = { key, at: Date.now(), value: known.model === model.name ? known.value : null, model: model.name };
  const newest = known.value?.records?.[0]?.epoch ?? 0;
  const waits = known.key === key && newest < epochOf(model) && Date.now() - known.at < RECORDING;
  const again = known.key === key && known.error && Date.now() - known.asked > LONGEST;
  if (known.key === key && !waits && !again) return;
  const told = await ask(`/models/${encodeURIComponent(model.name)}/ledger?most=20`);
  if (state.ledger.key === key) state.ledger = { ...state.ledger, error: null, ...told, asked: Date.now() };
};

// All servers of the model are asked for it: less often than for the status of this one.
const readVerdict = async (model) => {
  const { verdict: known } = state;
  if (known.model === model.name && known.epoch === model.epoch && Date.now() - known.asked < JUDGED) return known;
  // Of the same models, the last one that was told stays.
  const before = known.model === model.name && known.epoch === model.epoch ? known.value : undefined;
  return { value: before, ...await ask(`/models/${encodeURIComponent(model.name)}/verdict`), model: model.name, epoch: model.epoch, asked: Date.now() };
};

const read = async () => {
  const mine = ++turn;
  try {
    const status = await ask("/status");
    if (!status.value) throw new Error(status.error);
    if (mine !== turn) return;
    state.status = status.value;
    const model = chosen();
    const ready = status.value.ready ? "" : (await ask("/readyz")).error ?? "";
    const serves = model?.champion;
    const [verdict] = await Promise.all([serves ? readVerdict(model) : {}, model && readLedger(model)]);
    if (mine !== turn) return;
    const before = state.told;
    Object.assign(state, { verdict, notReady: ready, readAt: Date.now() / 1000 });
    if (state.failures) say("The server answers again.");
    Object.assign(state, { failures: 0, since: null, error: "" });
    announce(before);
  } catch (error) {
    if (mine !== turn) return;
    state.error = error.name === "TimeoutError" ? "no answer within 8 s" : error.message;
    state.since ??= Date.now() / 1000;
    if (state.failures++ === 0) say("The server does not answer.");
  }
  schedule();
  render();
};

// What changed since the last time, for whoever listens to the page.
const announce = (before) => {
  const model = chosen();
  const found = comparisons(state.verdict.value);
  const words = found.map((one) => `${one.role} ${one.version}: ${decided(one)}`).join(", ");
  state.told = { model: model?.name, champion: model?.champion?.version, words };
  if (!before || before.model !== state.told.model) return;
  if (before.champion !== state.told.champion) say(`Version ${state.told.champion} of ${model.name} is the champion now.`);
  else if (before.words !== words) say(words);
};

const schedule = () => {
  clearTimeout(timer);
  if (state.paused || document.hidden) return;
  const wait = state.failures ? Math.min(LONGEST, PERIOD * 2 ** (state.failures - 1)) : PERIOD;
  state.next = Date.now() + wait;
  timer = setTimeout(read, wait);
};

const now = () => {
  clearTimeout(timer);
  return read();
};

const setText = (element, text) => { if (element.textContent !== text) element.textContent = text; };

const renderAge = () => {
  const age = state.readAt ? Math.max(0, Date.now() / 1000 - state.readAt) : null;
  const live = age === null ? "" : age < 4 ? "live" : `read ${span(age)} ago`;
  setText(byId("age"), state.paused ? `paused, ${live.replace("live", "read just now")}` : live);
  const trouble = byId("trouble");
  const source = state.status?.source;
  const words = [];
  if (state.failures) {
    words.push(`The server does not answer (${state.error}). `,
      make("span", { "aria-live": "off" }, state.paused ? "It is not asked again while reading is paused." : `It is asked again in ${Math.max(0, Math.ceil((state.next - Date.now()) / 1000))} s.`),
      state.readAt ? [" What is shown is of ", when(state.readAt), "."] : "");
  } else if (source?.error) {
    words.push(`The repository cannot be read: ${source.error}. What serves goes on; it was last read `, when(source.read_at), ".");
  }
  trouble.hidden = words.length === 0;
  patchChildren(trouble, [...make("div", {}, words).childNodes]);
};

const renderHead = () => {
  const { status } = state;
  if (!status) return;
  setText(byId("version"), status.version);
  const pill = byId("ready");
  setText(pill, state.failures ? "unreachable" : status.ready ? "ready" : "not ready");
  pill.className = `pill ${state.failures || !status.ready ? "badpill" : "goodpill"}`;
  const { source, downloads = [] } = status;
  const how = [source?.from_cache && "from the cache", source?.watching ? "watched for changes" : "looked at now and then"].filter(Boolean).join(", ");
  const loads = downloads.map(({ model, version, bytes, of }) => `; version ${version} of ${model} is coming: ${count(bytes)} of ${of ? count(of) : "?"} bytes`);
  patchChildren(byId("source"), [...make("div", {}, "Models from ", make("code", {}, source?.repository ?? "?"), ` (${source?.kind ?? "?"}), ${how}, last read `, when(source?.read_at),
    `; ONNX Runtime ${status.onnxruntime ?? "?"}`, loads, state.notReady && make("strong", { class: "badword" }, ` ${state.notReady}`)).childNodes]);
  const tabs = status.models.map(({ name, champion, rejected }) => make("a", {
    href: `#/${encodeURIComponent(name)}`, "data-key": name, "aria-current": name === state.model && "page",
  }, name, make("span", { class: "dim" }, champion ? ` ${champion.version}` : " –"), (rejected ?? []).length > 0 && make("span", { class: "badword" }, " refused")));
  patchChildren(byId("models"), tabs);
};

const shownOf = (compared) => compared.find(({ role }) => role === state.role) ?? compared[0];

const render = () => {
  const model = chosen();
  renderHead();
  renderAge();
  if (!state.status) {
    if (state.failures) patchChildren(main, [make("p", { class: "dim" }, "Nothing was read yet.")]);
    return;
  }
  document.title = `${model?.name ?? "onnxd"}: console`;
  if (!model) {
    patchChildren(main, [make("p", { class: "dim" }, "The repository has no models: onnxd push adds one.")]);
    return;
  }
  const compared = comparisons(state.verdict.value);
  const shown = shownOf(compared);
  const verdict = state.verdict.value;
  const missing = verdict?.servers?.missing ?? [];
  const section = (name, ...content) => make("section", { "data-key": name }, make("h2", {}, name), content);
  const rule = verdict && make("p", { class: "dim" }, `Rule: ${verdict.rule}. Mode: ${verdict.mode === "auto" ? "auto, the server promotes by itself" : verdict.mode}. Told by ${counted(verdict.servers?.told ?? 1, "server")}`,
    missing.length ? `; missing: ${missing.join(", ")}.` : ".");
  patchChildren(main, [
    make("div", { class: "bar", "data-key": "title" },
      make("h2", { class: "model" }, model.name),
      make("span", { class: "dim" }, `epoch ${model.epoch}`, model.queued_rows > 0 && `, ${counted(model.queued_rows, "row")} waiting`),
      model.previous && make("button", { type: "button", class: "plain push", "data-act": "rollback", "data-to": model.previous.version }, `Roll back to ${model.previous.version} …`)),
    make("div", { "data-key": "troubles" }, careful(troubles, model)),
    make("div", { "data-key": "members" }, careful(members, model)),
    section("Champion and challengers",
      state.verdict.error && make("p", { class: "note bad" }, state.verdict.error),
      rule, compared.length > 0 ? cards(model, compared, shown) : !state.verdict.error && make("p", { class: "dim" }, challengers(model).length ? "Nothing was compared yet." : "There is no challenger: onnxd push --as challenger adds one."),
      shown && comparison(model, shown, state.verdict)),
    section("Drift of the features", careful(drift, verdict?.drift)),
    section("Ledger", careful(ledger, state.ledger)),
  ]);
  paint(main);
};

const act = (action, to) => {
  const model = chosen();
  if (!model || document.querySelector("dialog[open]")) return;
  const found = comparisons(state.verdict.value).find(({ version, role }) => version === to && (role === "previous") === (action === "rollback"));
  openChange(model, action, to, found);
};

const pause = () => {
  state.paused = !state.paused;
  setText(byId("pause"), state.paused ? "Go on" : "Pause");
  say(state.paused ? "Reading is paused." : "Reading goes on.");
  if (state.paused) {
    clearTimeout(timer);
    turn += 1;
    renderAge();
  } else now();
};

const step = (by) => {
  const names = (state.status?.models ?? []).map(({ name }) => name);
  const next = names[(names.indexOf(state.model) + by + names.length) % names.length];
  if (next) location.hash = `#/${encodeURIComponent(next)}`;
};

const press = (key) => {
  const model = chosen();
  const compared = comparisons(state.verdict.value);
  const shown = shownOf(compared);
  if (key === "?") byId("help").showModal();
  else if (key === "p") pause();
  else if (key === "r") { Object.assign(state, { ledger: {}, verdict: {} }); now(); }
  else if (key === "[" || key === "]") step(key === "]" ? 1 : -1);
  else if (key === "c" && shown && shown.role !== "previous") act("promote", shown.version);
  else if (key === "b" && model?.previous) act("rollback", model.previous.version);
  else if (/^[1-4]$/.test(key) && compared[key - 1]) location.hash = `#/${encodeURIComponent(model.name)}/${compared[key - 1].role}`;
  else return false;
  return true;
};

document.addEventListener("keydown", (event) => {
  const typing = event.target.closest?.("input, textarea, select, dialog");
  if (typing || event.ctrlKey || event.metaKey || event.altKey || !byId("keys-on").checked) return;
  if (press(event.key)) event.preventDefault();
});
document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-act]");
  if (button) act(button.dataset.act, button.dataset.to);
});
document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(timer) : state.paused || now()));
addEventListener("hashchange", () => {
  if (!location.hash.startsWith("#/")) return;
  chosen();
  render();
  now();
});
addEventListener("resize", () => paint(main));
byId("pause").addEventListener("click", pause);
byId("keys").addEventListener("click", () => byId("help").showModal());
prepare((told) => {
  setText(byId("done"), told);
  byId("done").hidden = false;
  // The button that was pressed may be gone.
  main.focus();
  setTimeout(() => { byId("done").hidden = true; }, 15_000);
  now();
});
setInterval(renderAge, 1000);
read();
