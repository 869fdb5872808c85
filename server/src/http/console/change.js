// Promoting and rolling back: a dialog that says what will change, and the call with the token.

import { make } from "./kit.js";
import { decided, epochOf } from "./parts.js";

const part = (name) => document.getElementById(`change-${name}`);
const dialog = document.getElementById("change");
// What was asked for when the dialog was opened: the epoch from then goes with it, so that whoever looks at an old page loses.
let order = null;

const outcomes = {
  401: "Refused, nothing was changed",
  403: "Refused",
  404: "There is no such model",
  409: "Someone else was first, nothing was changed: close this, look again and decide anew",
  412: "It is not as this page shows it any more: close this, look again and decide anew",
  422: "It cannot be changed like this",
  502: "The repository could not be read or written",
  503: "The server is busy",
};

const fail = (text) => {
  part("error").textContent = text;
  part("error").hidden = !text;
};

// Opens it, for a model and a version to go to.
export const open = (model, action, to, verdict) => {
  const from = model.champion?.version;
  order = { model: model.name, action, to, from, epoch: epochOf(model) };
  const doing = action === "promote" ? `Promote version ${to}` : `Roll back to version ${to}`;
  part("title").textContent = `${doing} of ${model.name}?`;
  const against = verdict?.decision !== "promote";
  part("what").replaceChildren(
    make("p", { class: "fromto" }, make("span", {}, "champion "), make("strong", {}, from ?? "none"), " → ", make("strong", {}, to)),
    make("ul", {},
      make("li", {}, `Version ${to} answers all requests for ${model.name}, on every server of this repository.`),
      from && make("li", {}, action === "promote" ? `Version ${from} is kept for a rollback.` : `Version ${from} is not kept: nothing is left to roll back to.`),
      make("li", {}, `It is done only if nobody changed it since epoch ${order.epoch}.`)),
    make("p", { class: `note ${against ? "warn" : "plain"}` }, verdict?.decision ? `The verdict on it is to ${decided(verdict)}: ${(verdict.reasons ?? []).join("; ") || "no reason told"}.` : "There is no verdict on it."));
  part("do").textContent = doing;
  fail("");
  dialog.showModal();
  part("reason").focus();
};

const send = async () => {
  const { model, action, to, epoch } = order;
  const body = JSON.stringify({ version: to, reason: part("reason").value, by: part("by").value, epoch });
  const reply = await fetch(`/models/${encodeURIComponent(model)}/${action}`, {
    method: "POST", body, signal: AbortSignal.timeout(60_000),
    headers: { "content-type": "application/json", authorization: `Bearer ${part("token").value}` },
  });
  let told = {};
  try { told = await reply.json(); } catch { /* The status says enough. */ }
  if (!reply.ok) throw new Error(`${outcomes[reply.status] ?? "It was not changed"} (${reply.status}). ${told.detail ?? ""}`);
  const { changed, aliases, warning } = told;
  const done = changed ? `Version ${to} of ${model} is the champion since epoch ${aliases?.epoch}.` : `Version ${to} of ${model} was the champion already; nothing was changed.`;
  return warning ? `${done} ${warning}` : done;
};

// `done` is told what was changed.
export const prepare = (done) => {
  part("cancel").addEventListener("click", () => dialog.close());
  part("form").addEventListener("submit", async (event) => {
    event.preventDefault();
    if (part("do").disabled) return;
    part("do").disabled = true;
    fail("");
    try {
      const told = await send();
      dialog.close();
      part("reason").value = "";
      done(told);
    } catch (error) {
      const cut = error.name === "TimeoutError" || error instanceof TypeError;
      fail(cut ? `The server did not answer (${error.message}): whether it was changed shows when it does.` : error.message);
    } finally {
      part("do").disabled = false;
    }
  });
};
