// Charts, drawn to the width that they have.

import { count, draw, isNumber, make, moment, number, patch, percent, seconds } from "./kit.js";

const drawings = new Map();

// A place for a chart. `told` is the same in words.
const chart = (key, told, paint) => {
  drawings.set(key, paint);
  return make("div", { class: "chart", "data-key": key, role: "img", "aria-label": told });
};

export const paint = (within) => {
  for (const place of within.querySelectorAll(".chart")) {
    if (!place.clientWidth) continue;
    const drawn = drawings.get(place.dataset.key)?.(place.clientWidth);
    if (place.firstChild && drawn) patch(place.firstChild, drawn);
    else if (drawn) place.append(drawn);
  }
};

const picture = (width, height, ...parts) =>
  draw("svg", { width, height, viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" }, ...parts);
const text = (x, y, words, attributes = {}) => draw("text", { x, y, ...attributes }, words);
const line = (x1, y1, x2, y2, kind) => draw("line", { x1, y1, x2, y2, class: kind });
const points = (list) => list.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join(" ");

// Round numbers between two others, about five of them.
const ticks = (least, most) => {
  const rough = (most - least) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((size) => size * power >= rough) * power;
  const found = [];
  for (let at = Math.ceil(least / step); at * step <= most; at += 1) found.push(at * step);
  return found;
};

// Buckets of ten minutes before which bounds are not used.
export const BURN_IN = 50;
const TEN_MINUTES = 600;
// Points further apart than this many of the usual distance are not joined.
const APART = 3;

// Points that are joined: a run ends at a gap in time. Where bounds begin to be used, the next begins with the same point.
export const runs = (seen) => {
  const distances = seen.slice(1).map(({ at }, before) => at - seen[before].at).sort((a, b) => a - b);
  const most = APART * Math.max(TEN_MINUTES, distances[Math.floor(distances.length / 2)] ?? 0);
  const found = [];
  seen.forEach((point, at) => {
    const gap = at > 0 && point.at - seen[at - 1].at > most;
    if (at === 0 || gap) found.push({ used: point.ready, points: [point] });
    else if (point.ready !== seen[at - 1].ready) found.push({ used: point.ready, points: [seen[at - 1], point] });
    else found.at(-1).points.push(point);
  });
  return found;
};

// The scale of a band: the first bounds are far apart, so that it is that of those that are used, or of the later half.
export const scale = (seen) => {
  const used = seen.filter(({ ready }) => ready);
  const shown = used.length > 1 ? used : seen;
  const late = shown.slice(Math.floor(shown.length / 2));
  const values = late.flatMap(({ mean, lower, upper }) => [mean, lower, upper]).filter(isNumber).concat(0);
  const [least, most] = [Math.min(...values), Math.max(...values)];
  const room = (most - least || 0.01) * 0.15;
  return [least - room, most + room];
};

// The improvement of the forecast over time, with its bounds: grey until they are used, dashed where they go on beyond the edge.
export const band = (key, seen, latest) => {
  const bounds = latest ? `between ${percent(latest.lower)} and ${percent(latest.upper)}` : "its bounds are not used yet";
  const told = `Improvement of the forecast over time: now ${percent(latest?.mean ?? seen.at(-1).mean)}, ${bounds}`;
  return chart(key, told, (width) => {
    const [height, left, right, top, bottom] = [230, 58, width - 8, 10, 204];
    const [least, most] = scale(seen);
    const [first, last] = [seen[0].at, seen.at(-1).at];
    const x = (at) => left + ((at - first) / (last - first || 1)) * (right - left);
    const y = (value) => bottom - ((Math.min(most, Math.max(least, value)) - least) / (most - least)) * (bottom - top);
    // Without a bound, it is anywhere.
    const upper = (point) => (isNumber(point.upper) ? point.upper : Infinity);
    const lower = (point) => (isNumber(point.lower) ? point.lower : -Infinity);
    const grid = ticks(least, most).flatMap((value) => [
      line(left, y(value), right, y(value), Math.abs(value) < 1e-12 ? "zero" : "grid"),
      text(left - 8, y(value) + 4, percent(value), { "text-anchor": "end" }),
    ]);
    const joined = runs(seen);
    const early = (used) => (used ? "" : " early");
    const edge = (from, to, at) => line(x(from.at), at, x(to.at), at, "beyond");
    const edges = (run) => run.slice(1).flatMap((to, before) => {
      const from = run[before];
      const above = upper(from) > most && upper(to) > most;
      const below = lower(from) < least && lower(to) < least;
      return [above && edge(from, to, top), below && edge(from, to, bottom)];
    });
    const outline = (run) => points([...run.map((point) => [x(point.at), y(upper(point))]), ...run.map((point) => [x(point.at), y(lower(point))]).reverse()]);
    return picture(width, height,
      ...joined.map(({ used, points: run }) => draw("polygon", { class: `band${early(used)}`, points: outline(run) })),
      ...grid,
      ...joined.flatMap(({ points: run }) => edges(run)),
      ...joined.map(({ used, points: run }) => (run.length > 1
        ? draw("polyline", { class: `mean${early(used)}`, points: points(run.map(({ at, mean }) => [x(at), y(mean)])) })
        : draw("circle", { class: `dot${early(used)}`, cx: x(run[0].at), cy: y(run[0].mean), r: 2 }))),
      draw("circle", { class: `dot${early(joined.at(-1).used)}`, cx: right, cy: y(seen.at(-1).mean), r: 3.5 }),
      text(left, height - 6, moment(first)),
      text(right, height - 6, moment(last), { "text-anchor": "end" }));
  });
};

// Two histograms over the same bins, each as shares of its own sum. Heights are square roots, so that tails are seen.
export const overlaid = (key, champion, challenger) => {
  const sum = (counts) => counts.reduce((a, b) => a + b, 0);
  const share = (counts) => counts.map((value) => Math.sqrt(value / (sum(counts) || 1)));
  const [a, b] = [share(champion), share(challenger)];
  const bins = Math.max(a.length, b.length);
  const middle = (counts) => {
    let rest = sum(counts) / 2;
    const bin = counts.findIndex((value) => (rest -= value) <= 0);
    return number(1 / (1 + Math.exp(8 - ((bin + 0.5) / counts.length) * 16)));
  };
  const told = `Scores: the champion's median is about ${middle(champion)} of ${sum(champion)}, the challenger's about ${middle(challenger)} of ${sum(challenger)}`;
  return chart(key, told, (width) => {
    const [height, left, right, top, bottom] = [170, 1, width - 1, 8, 146];
    const most = Math.max(...a, ...b) || 1;
    const x = (bin) => left + (bin / bins) * (right - left);
    const y = (value) => bottom - (value / most) * (bottom - top);
    const steps = (values) => values.flatMap((value, bin) => [[x(bin), y(value)], [x(bin + 1), y(value)]]);
    const closed = (values) => points([[left, bottom], ...steps(values), [right, bottom]]);
    // Bins are even in the score's logit, from -8 to 8.
    const marks = ["0.0003", "0.018", "0.5", "0.982", "0.9997"].map((score, at) =>
      text(x((at / 4) * bins), height - 6, score, { "text-anchor": ["start", "middle", "middle", "middle", "end"][at] }));
    return picture(width, height,
      line(x(bins / 2), top, x(bins / 2), bottom, "grid"),
      draw("polygon", { class: "fill champion", points: closed(a) }),
      draw("polyline", { class: "edge champion", points: closed(a) }),
      draw("polyline", { class: "edge challenger", points: closed(b) }),
      line(left, bottom, right, bottom, "axis"), ...marks);
  });
};

// Counts by upper bound.
export const bars = (key, { bounds, counts }, what) => {
  const sum = counts.reduce((a, b) => a + b, 0);
  const name = (bin) => (bin < bounds.length ? (bounds[bin] === 0 ? "0" : `≤ ${number(bounds[bin])}`) : `> ${number(bounds.at(-1))}`);
  const seen = counts.map((value, bin) => [name(bin), value]).filter(([, value]) => value > 0);
  const told = `${what}: ${seen.map(([label, value]) => `${label}: ${value}`).join(", ")}`;
  return chart(key, told, (width) => {
    const rows = counts.map((value, bin) => [name(bin), value]).slice(counts.findIndex((value) => value > 0), counts.findLastIndex((value) => value > 0) + 1);
    const [step, left] = [17, 68];
    const most = Math.max(...counts) || 1;
    return picture(width, rows.length * step + 4, ...rows.flatMap(([label, value], at) => {
      const y = at * step + 3;
      const long = (value / most) * (width - left - 62);
      return [
        text(left - 8, y + 11, label, { "text-anchor": "end" }),
        draw("rect", { class: "plainbar", x: left, y: y + 1, width: value ? Math.max(1.5, long) : 0, height: step - 5, rx: 1.5 }),
        value > 0 && text(left + Math.max(1.5, long) + 6, y + 11, percent(value / sum)),
      ];
    }));
  });
};

// The time of runs: median to p99, and p90 between them.
export const ranges = (key, rows) => {
  const told = rows.map(([name, { p50, p90, p99 }]) => `${name}: median ${seconds(p50)}, p90 ${seconds(p90)}, p99 ${seconds(p99)}`).join("; ");
  return chart(key, told, (width) => {
    const values = rows.flatMap(([, { p50, p90, p99 }]) => [p50, p90, p99]).filter((value) => value > 0);
    const [least, most] = [Math.log(Math.min(...values) / 1.15), Math.log(Math.max(...values) * 1.15)];
    const x = (value) => 6 + ((Math.log(value) - least) / (most - least)) * (width - 12);
    const parts = rows.flatMap(([, { p50, p90, p99 }, kind], at) => {
      const y = 14 + at * 26;
      return [
        line(x(p50), y, x(p99), y, `range ${kind}`),
        draw("circle", { class: `dot ${kind}`, cx: x(p50), cy: y, r: 5 }),
        [p90, p99].filter((value) => value > 0).map((value) => line(x(value), y - 7, x(value), y + 7, `tick ${kind}`)),
      ];
    });
    return picture(width, 54, ...parts);
  });
};

// Parts of a whole, one beside the other.
export const parts = (key, list) => {
  const told = list.map(([name, value]) => `${name}: ${count(value)}`).join(", ");
  return chart(key, told, (width) => {
    const sum = list.reduce((all, [, value]) => all + (value ?? 0), 0);
    let x = 0;
    return picture(width, 22, ...list.filter(([, value]) => value > 0).map(([, value, kind]) => {
      const wide = (value / sum) * width;
      x += wide;
      return draw("rect", { class: `part ${kind}`, x: x - wide, y: 2, width: Math.max(1, wide - 2), height: 18, rx: 2 });
    }));
  });
};
