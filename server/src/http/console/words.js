// How conditions of a verdict are written: with units, and grouped by the way to a promotion. `onnxd verdict` says the same.

import { NONE, count, counted, isNumber, percent } from "./kit.js";

const WAYS = [[null, "needed always"], ["forecast", "by its forecast"], ["decisions", "by its decisions"], ["both", "either way"]];
// Beyond it, nobody wants to know in how many.
const RAREST = 1e6;

export const label = (name) => (name === "servers" ? "servers that did not tell" : name);

// The conditions by way; of a server that tells none, all are needed.
export const ways = (list) => WAYS.map(([route, way]) => [way, list.filter((found) => (found.route ?? null) === route)])
  .filter(([, of]) => of.length > 0);

const hours = (value) => `${Number(value.toFixed(1))} h`;
const short = (value) => String(Number(value.toFixed(2)));
const rows = (value) => counted(value, "row");
const none = () => "none";
// Beyond ten times, nobody wants to know how many.
const least = (value) => (value < -10 ? `below ${percent(-10)}` : `at least ${percent(Math.min(10, value))}`);
const more = (value) => `more than ${percent(value)}`;

// Of each condition: how its value is written, and what it needs. All others are evidence, as natural logarithms.
const UNITS = {
  hours: [hours, (value) => `at least ${hours(value)}`],
  requests: [rows, (value) => `at least ${rows(value)}`],
  "answers to compare": [rows, () => "some rows"],
  series: [count, (value) => `at least ${count(value)}`],
  servers: [count, none],
  "inputs as in training": [(value) => (value === 0 ? "none drifted" : `${count(value)} drifted`), none],
  "scores as the champion's": [(value) => `PSI ${short(Math.max(0, value))}`, (value) => `PSI at most ${short(value)}`],
  "forecast is better": [least, more],
  "forecast is not worse": [least, more],
  "alarms for each of the champion's": [short, (value) => `0.67 to ${short(value)}`],
};
const SAME = ["catches no less", "no more false alarms"];

export const evidence = ({ name }) => !Object.hasOwn(UNITS, name);

const odds = (value) => {
  const e = Math.exp(value);
  return e < RAREST ? `1 in ${count(Math.floor(e * (1 + 1e-8)))}` : "1 in a million";
};

export const written = (found) => {
  const { name, holds, value, needs } = found;
  if (!isNumber(value)) return name === "scores as the champion's" ? "too few rows" : NONE;
  if (!evidence(found)) return UNITS[name][0](value);
  // Both were right in so many half hours that it takes no evidence.
  if (holds && value < needs) return "no difference";
  return value < Math.log(2) ? "none" : odds(value);
};

export const needed = (found) => {
  const { name, needs } = found;
  if (!isNumber(needs)) return NONE;
  if (!evidence(found)) return UNITS[name][1](needs);
  return SAME.includes(name) ? `${odds(needs)}, or no difference` : odds(needs);
};
