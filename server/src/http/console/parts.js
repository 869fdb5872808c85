// The parts of the page, each made of what the server told. Whatever was not told is a dash, or a word that says so.

import { BURN_IN, band, bars, overlaid, parts, ranges, runs, scale } from "./charts.js";
import { evidence, label, needed, ways, written } from "./words.js";
import { NONE, cell, count, counted, isNumber, make, moment, num, number, objects, percent, row, seconds, span, table, when } from "./kit.js";

const dim = (...words) => make("p", { class: "dim" }, words);
const short = (sha256) => make("code", { title: sha256 }, sha256 ? sha256.slice(0, 12) : NONE);
const panel = (title, ...content) => make("section", { class: "panel", "data-key": title }, make("h4", {}, title), content);
const not_counted = () => dim("Not counted yet.");
const sum = (counts) => counts.reduce((a, b) => a + b, 0);
const capital = (word = "") => word.charAt(0).toUpperCase() + word.slice(1).replaceAll("_", " ");

export const challengers = (model) => objects(model.challengers ?? []);

// The pointer's epoch: that of the last one read, which may not serve.
export const epochOf = (model) => model.wanted?.epoch ?? model.epoch ?? 0;

// Every version that is compared with the champion, with all that is told of it.
export const comparisons = (verdict) => objects([...(verdict?.verdicts ?? []), verdict?.previous]);

const batched = { exact: "same answer", close: "last digits differ", no: "never" };

const member = (role, kind, { version, sha256, loaded_at, profile, signature }) =>
  make("tr", { "data-key": `${role} ${version}`, class: "whole" },
    make("th", { scope: "row" }, make("span", { class: `mark ${kind}` }), role),
    num(version, { class: "strong" }), cell(short(sha256)), cell(when(loaded_at)),
    num(isNumber(profile?.one_row_us) ? seconds(profile.one_row_us / 1e6) : NONE),
    num(isNumber(profile?.row_in_batch_us) ? seconds(profile.row_in_batch_us / 1e6) : NONE),
    num(count(profile?.max_batch)), cell(batched[profile?.invariance] ?? NONE), cell(signature ?? NONE));

export const members = (model) => {
  if (!model.champion) return make("p", { class: "note bad" }, "Nothing serves under this name yet.");
  const named = (list) => list.map((found, at) => member(at ? `challenger ${at + 1}` : "challenger", "challenger", found));
  const head = ["role", "#version", "SHA-256", "loaded", "#one row", "#row in a batch", "#rows a run", "in a batch", "signature"];
  const warnings = [model.champion, ...challengers(model)].flatMap(({ version, profile }) =>
    (profile?.warnings ?? []).map((warning) => make("li", {}, `Version ${version}: ${warning}`)));
  return [
    table("What is in memory", head, [
      member("champion", "champion", model.champion), named(challengers(model)),
      model.previous && member("previous", "previous", model.previous),
    ]),
    warnings.length > 0 && make("ul", { class: "dim small" }, warnings),
  ];
};

// What is not as the repository asks for.
export const troubles = (model) => {
  const asked = epochOf(model);
  const guard = model.guard;
  return [
    model.error && make("p", { class: "note bad" }, `The repository's wish cannot be read: ${model.error}`),
    model.champion && asked !== model.epoch && make("p", { class: "note warn" },
      `The repository asks for epoch ${asked}; epoch ${model.epoch} serves.`),
    objects(model.rejected).length > 0 && make("div", { class: "note bad", "data-key": "rejected" },
      make("h3", {}, "Refused"),
      make("ul", {}, objects(model.rejected).map(({ role, version, stage, reason, passing, at }) =>
        make("li", {}, make("strong", {}, `${capital(role)} ${version}`), ` at ${stage}, `, when(at), `: ${reason}`,
          passing && " It is tried again by itself.")))),
    guard && make("p", { class: `note ${guard.state === "tripped" ? "bad" : "plain"}` },
      make("strong", {}, `Guard ${guard.state.replace("_", " ")}`), `, against version ${guard.against}.`,
      guard.evidence && ` ${capital(guard.evidence.finding)} (after ${span(guard.evidence.after_seconds)}).`),
  ];
};

// What is to be done, in words: the champion before is brought back or left where it is.
export const decided = (verdict) => {
  const decision = verdict?.decision ?? "no verdict";
  return verdict?.role === "previous" ? { promote: "bring back", reject: "leave" }[decision] ?? decision : decision;
};
const word = (verdict) => make("span", { class: `word ${verdict?.decision ?? "none"}` }, decided(verdict));
const title = ({ role, version }) => `${role === "previous" ? "Previous" : "Challenger"} ${version ?? NONE}`;

// One card for each version that is compared; the one that is shown in full is marked.
export const cards = (model, compared, shown) => make("nav", { class: "cards", "aria-label": "Compared with the champion" },
  compared.map((found) => make("a", {
    class: "card", "data-key": found.role, href: `#/${encodeURIComponent(model.name)}/${found.role}`,
    "aria-current": found.role === shown?.role && "true",
  },
  make("span", { class: "name" }, make("span", { class: `mark ${found.role === "previous" ? "previous" : "challenger"}` }), title(found)),
  word(found),
  make("span", { class: "dim small" }, `${counted(found.statistics?.pairs ?? 0, "pair")}, ${percent(found.agreement)} agree`))));

// What is missing and how long it takes.
const estimate = (list) => make("ul", {}, list.map(({ condition, text }) => make("li", { "data-key": condition }, make("strong", {}, label(condition)), `: ${text}`)));

const condition = (found) => make("tr", { "data-key": found.name, class: found.holds ? "holds" : "open" },
  make("th", { scope: "row" }, label(found.name)),
  cell(make("span", { class: found.holds ? "yes" : "notyet" }, found.holds ? "✓ yes" : "not yet")), num(written(found)), num(needed(found)));

// Grouped by the way to a promotion, of which one is enough.
const conditions = (list) => {
  const groups = ways(list);
  return [
    table("Conditions of the verdict", ["condition", "holds", "#value", "#needs"], groups.map(([way, of]) => [
      make("tr", { "data-key": `way ${way}`, class: "way" }, make("th", { scope: "colgroup", colspan: 4 }, way)), of.map(condition)]), { class: "conditions" }),
    groups.length > 1 && dim("One way is enough, with all that is needed always. By its forecast: it is better, and alarms are like the champion's, or both of “either way” hold. ",
      "By its decisions: it catches more and gives no more false alarms, or gives fewer and catches no less; its forecast is not worse."),
    list.some(evidence) && dim("1 in 20 is evidence that luck alone would give with a chance of at most 1 in 20."),
  ];
};

const verdictOf = (found, told) => {
  if (!told.value) {
    return dim(`${told.error ?? "It was not asked for yet"}.`);
  }
  const waits = objects(found.estimate);
  return make("div", { class: "verdict" },
    make("div", { class: "stack" },
      make("ul", { class: "reasons" }, (found.reasons ?? []).map((reason) => make("li", {}, reason))),
      waits.length > 0 && make("div", { class: "estimate", "data-key": "estimate" }, make("h4", {}, "What it waits for"), estimate(waits)),
      improvement(found)),
    make("details", { class: "panel", open: true, "data-key": "conditions" }, make("summary", {}, "Conditions"),
      objects(found.conditions).length ? conditions(objects(found.conditions)) : not_counted()));
};

// How far the bounds that are drawn go beyond the edges.
const beyond = (seen, latest) => {
  const [least, most] = scale(seen);
  const all = (side) => seen.map((point) => point[side]).filter(isNumber);
  const [low, high] = [Math.min(...all("lower")), Math.max(...all("upper"))];
  const words = [high > most && `up to ${percent(high)}`, low < least && `down to ${percent(low)}`].filter(Boolean).join(" and ");
  return words && ` Dashed at the edge: it goes on, ${words}.`;
};

const improvement = ({ improvement: found, band: told }) => {
  const latest = found?.ready === false ? null : found;
  const seen = objects(told).filter(({ at, mean }) => isNumber(at) && isNumber(mean));
  const joined = seen.length > 1 ? runs(seen) : [];
  const gaps = joined.slice(1).some(({ points }, before) => points[0] !== joined[before].points.at(-1));
  return panel("Improvement of the forecast",
    latest && make("p", { class: "figures" }, make("strong", { class: "big" }, percent(latest.mean)),
      ` between ${percent(latest.lower)} and ${percent(latest.upper)}, from ${count(latest.buckets)} buckets of 10 minutes`),
    seen.length > 1 ? [
      !latest && make("p", { class: "figures" }, `Not used yet: bounds count from ${BURN_IN} buckets of 10 minutes on, and later where one resembles the next.`),
      band("band", seen, latest),
      dim("Share of the champion's loss that the challenger saves, with its confidence band. Above the zero line it is better.",
        latest && joined.some(({ used }) => !used) && ` Grey: not used yet.`,
        gaps && " Where the line breaks, nothing counted.", beyond(seen, latest))]
      : !latest && not_counted());
};

const decisions = ({ statistics, agreement }) => {
  const told = Object.entries(statistics?.decisions ?? {});
  const split = told.map(([key, rows]) => [key.split(">"), rows, key]);
  const pairs = split.filter(([sides]) => sides.length === 2);
  const labels = [...new Set(pairs.flatMap(([sides]) => sides))].sort();
  const rows = (champion, challenger) => pairs.find(([sides]) => sides[0] === champion && sides[1] === challenger)?.[1] ?? 0;
  const matrix = labels.length > 0 && labels.length <= 5;
  const rest = matrix ? split.filter(([sides]) => sides.length !== 2) : split;
  return panel("Decisions",
    make("p", { class: "figures" }, make("strong", { class: "big" }, percent(agreement)), ` the same, of ${counted(statistics?.decided ?? 0, "decided pair")}`),
    matrix && table("Decisions of both", ["champion ↓  challenger →", ...labels.map((label) => `#${label}`)],
      labels.map((champion) => row(champion, labels.map((challenger) => {
        const kind = champion === challenger ? "same" : rows(champion, challenger) ? "differ" : "";
        return num(count(rows(champion, challenger)), { class: kind });
      })))),
    rest.length > 0 && table("Decisions", ["champion > challenger", "#rows"], rest.map(([, seen, key]) => row(key, num(count(seen))))));
};

const alarms = ({ alarms: told }) => {
  if (!told) return panel("Alarms", not_counted());
  const list = [["both", told.both, "both"], ["champion alone", told.champion, "champion"], ["challenger alone", told.challenger, "challenger"]];
  return panel("Alarms",
    sum(list.map(([, value]) => value ?? 0)) > 0 && parts("alarms", list),
    table("Alarms", ["", "#half hours"], list.map(([name, value, kind]) => row([make("span", { class: `mark ${kind}` }), name], num(count(value))))),
    dim("Half hours with alarms, by those of one series in each."));
};

const key = () => make("p", { class: "key small" }, make("span", { class: "mark champion" }), "champion ", make("span", { class: "mark challenger" }), "challenger");

const scores = ({ scores: told, score_distances: apart }) => {
  const [champion, challenger] = [told?.champion ?? [], told?.challenger ?? []];
  if (sum(champion) + sum(challenger) === 0) return panel("Scores", not_counted());
  return panel("Scores", key(), overlaid("scores", champion, challenger), dim("Share of rows by score, heights as square roots; 0.5 is in the middle."),
    isNumber(apart?.ks) && dim(`Apart by PSI ${number(Math.max(0, apart.psi))}, KS ${number(apart.ks)}, W1 ${number(apart.w1)} (logits).`));
};

const difference = (name, told, of) => {
  if (!told?.count || !told.counts || !told.bounds) return panel(name, not_counted());
  const mean = told.sum / told.count;
  return panel(name,
    make("p", { class: "figures" }, make("strong", { class: "big" }, `${mean > 0 ? "+" : ""}${number(mean)}`), ` on average, ${number(told.sum_abs / told.count)} in size`),
    of && bars(of, told, name),
    dim("Challenger less champion; root mean square ", number(Math.sqrt(told.sum_squares / told.count)), ", rows ", count(told.count), "."));
};

const latency = ({ latency: told }) => {
  const rows = [["champion", told?.champion], ["challenger", told?.challenger]];
  const whole = rows.filter(([, quantiles]) => quantiles?.p50 > 0 && quantiles?.p99 > 0);
  return panel("Time of a run",
    whole.length > 0 && [key(), ranges("latency", whole.map(([name, quantiles]) => [name, quantiles, name]))],
    table("Time of a run", ["", "#p50", "#p90", "#p99"], rows.map(([name, quantiles]) =>
      row(name, num(seconds(quantiles?.p50)), num(seconds(quantiles?.p90)), num(seconds(quantiles?.p99))))),
    dim("For the rows of the champion's runs, the challenger's on an idle CPU."),
    !told && dim("Quantiles are not counted yet."));
};

const reasonsOfLoss = {
  full: "the challenger was too slow", waited: "the machine was too busy", deadline: "a run took too long", failed: "it failed", non_finite: "its answer is no number", paused: "it was paused after failures",
};

const lost = ({ statistics, errors, slow }) => {
  const list = Object.entries(statistics?.lost ?? {}).filter(([, rows]) => rows > 0);
  const events = [["rows that failed", errors], ["runs that took too long", slow]].filter(([, told]) => told);
  const share = ({ events: seen, trials }) => (trials > 0 ? `${count(seen)} of ${count(trials)}` : "not judged yet");
  return panel("Errors and losses",
    list.length > 0 ? table("Rows without a pair", ["rows without a pair", "#rows"], list.map(([reason, rows]) =>
      make("tr", {}, make("th", { scope: "row" }, make("code", {}, reason), reasonsOfLoss[reason] && ` ${reasonsOfLoss[reason]}`), num(count(rows)))))
      : make("p", {}, statistics ? "No row was lost." : NONE),
    events.length > 0 && table("Failures and slow runs", ["", "#seen"], events.map(([name, told]) => row(name, num(share(told))))));
};

const labels = ({ labels: told, brier }) => {
  const rows = Object.entries(told ?? {}).flatMap(([source, kinds]) => Object.entries(kinds ?? {})
    .filter(([, counts]) => counts && ["challenger", "champion", "concordant"].some((side) => counts[side] > 0))
    .map(([kind, counts]) => row(source, cell(kind), num(count(counts.champion)), num(count(counts.challenger)), num(count(counts.concordant)))));
  if (rows.length === 0) return panel("Labels", dim("No labels yet: POST /feedback brings them."));
  return panel("Labels", table("Labels by source", ["source", "of", "#champion right", "#challenger right", "#alike"], rows),
    dim("Champion and challenger: half hours in which only the one is right. Alike: rows on which both are, or neither."),
    isNumber(brier?.champion) && dim(`Brier scores, less is better: champion ${number(brier.champion)}, challenger ${number(brier.challenger)}.`));
};

const scoreDifference = ({ statistics }) => difference("Score difference", statistics?.score_difference, "differences");
const forecastDifference = ({ statistics }) => difference("Forecast difference", statistics?.forecast_difference);

// What a server of another version tells in another way is no reason to show nothing else.
export const careful = (part, ...told) => {
  try {
    return part(...told);
  } catch (error) {
    return make("p", { class: "note warn" }, `A part cannot be shown, the server tells it in another way: ${error.message}`);
  }
};

export const comparison = (model, found, told) => {
  const act = found.role === "previous" ? "rollback" : "promote";
  const label = act === "promote" ? `Promote ${found.version} …` : `Roll back to ${found.version} …`;
  return make("section", { class: "comparison", "data-key": found.role, "aria-labelledby": "compared" },
    make("div", { class: "bar" },
      make("h3", { id: "compared" }, title(found), make("span", { class: "dim" }, ` against champion ${model.champion?.version ?? NONE}`)),
      found.version && make("button", { type: "button", class: `push ${found.decision === "promote" ? "" : "plain"}`.trim(), "data-act": act, "data-to": found.version }, label)),
    make("p", { class: `verdictword ${found.decision ?? "none"}`, id: "verdict" }, decided(found)),
    careful(verdictOf, found, told),
    make("div", { class: "panels" }, [decisions, alarms, scores, scoreDifference, latency, forecastDifference, labels, lost].map((part) => careful(part, found))));
};

export const drift = (told) => {
  const features = Object.entries(told ?? {}).filter(([, of]) => of);
  if (features.length === 0) return dim("Not counted yet.");
  features.sort(([, a], [, b]) => Number(b.alarm ?? 0) - Number(a.alarm ?? 0) || (b.log_e ?? 0) - (a.log_e ?? 0));
  return [table("Drift by feature", ["feature", "#PSI", "#ln E", "alarm"], features.map(([name, { psi, log_e, alarm }]) =>
    make("tr", { "data-key": name, class: alarm && "alarm" }, make("th", { scope: "row" }, make("code", {}, name)), num(number(psi)), num(number(log_e)),
      cell(make("span", { class: alarm ? "badword" : "dim" }, alarm ? "drifted" : "no"))))), dim("Drifted: PSI from 0.1 and ln E from 6.9 on, together.")];
};

export const ledger = (told) => {
  if (!told.value) return make("p", { class: told.error ? "note bad" : "dim" }, told.error ?? "Reading the ledger …");
  const records = objects(told.value.records);
  if (records.length === 0) return dim("No change was recorded.");
  return table("The last changes", ["#epoch", "action", "#champion", "by", "at", "reason", "evidence"], records.map((record) => {
    const at = Date.parse(record.at) / 1000;
    return make("tr", { "data-key": `epoch ${record.epoch}` }, make("th", { scope: "row", class: "num" }, String(record.epoch)), cell(record.action),
      num([record.replaced && record.replaced !== record.champion && make("span", { class: "dim" }, `${record.replaced} → `), record.champion]),
      cell(record.by || NONE), cell(isNumber(at) ? make("time", { datetime: record.at, class: "still" }, moment(at)) : record.at || NONE), make("td", { class: "reason" }, record.reason || NONE),
      cell(record.evidence ? make("details", {}, make("summary", {}, "show"), make("pre", { tabindex: 0 }, JSON.stringify(record.evidence, null, 2))) : NONE));
  }), { class: "ledger" });
};
