"use strict";

// Everything on the page is made of /openapi.json; names and texts are put in as text, never as markup.

const make = (tag, attributes = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), attributes);
  element.append(...children);
  return element;
};

const show = (value) => JSON.stringify(value, null, 2);

// Arrays of numbers stay on one line.
const brief = (value) => show(value).replace(/\[[^\[\]{}]*\]/g, (list) => list.replace(/\s+/g, " "));

const kind = (schema) => {
  if (schema.anyOf) return kind(schema.anyOf[0]);
  const type = Array.isArray(schema.type) ? schema.type[0] : schema.type;
  return type === "array" ? `array of ${kind(schema.items ?? {})}` : (type ?? "value");
};

const features = (row) => {
  const body = Object.entries(row.properties).map(([name, schema]) => {
    return make(
      "tr", {},
      make("td", {}, make("code", { textContent: name })),
      make("td", { textContent: kind(schema) }),
      make("td", { textContent: row.required.includes(name) ? "required" : schema.default !== undefined ? `else ${schema.default}` : "optional" }),
      make("td", { textContent: schema.description ?? "" }),
    );
  });
  const head = ["name", "type", "", "meaning"].map((textContent) => make("th", { textContent }));
  return make("div", { className: "wide" }, make("table", {}, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...body)));
};

const example = (operation) => {
  const content = operation.requestBody?.content ?? {};
  for (const [type, { examples = {} }] of Object.entries(content)) {
    for (const { value } of Object.values(examples)) return { type, value };
  }
  return null;
};

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

const curl = (path, { type, value }) => {
  const body = typeof value === "string" ? value : JSON.stringify(value);
  return `curl -s ${quoted(location.origin + path)} \\\n  -H ${quoted(`content-type: ${type}`)} \\\n  -d ${quoted(body)}`;
};

const tryIt = (path, { type, value }) => {
  const text = typeof value === "string" ? value : brief(value);
  const request = make("textarea", { value: text, rows: Math.min(14, text.split("\n").length + 1), spellcheck: false, ariaLabel: "Request" });
  const answer = make("pre", { textContent: "The answer comes here.", tabIndex: 0, ariaLive: "polite" });
  const told = make("span");
  const send = make("button", { textContent: "Send", type: "button" });
  send.onclick = async () => {
    send.disabled = true;
    told.className = "";
    try {
      const start = performance.now();
      const reply = await fetch(path, { method: "POST", headers: { "content-type": type }, body: request.value });
      const body = await reply.text();
      const took = performance.now() - start;
      told.textContent = `${reply.status} in ${took.toFixed(1)} ms, by version ${reply.headers.get("x-model-version") ?? "?"}`;
      told.className = reply.ok ? "" : "bad";
      try { answer.textContent = brief(JSON.parse(body)); } catch { answer.textContent = body; }
    } catch (error) {
      told.textContent = `The server cannot be reached: ${error.message}`;
      told.className = "bad";
    } finally {
      send.disabled = false;
    }
  };
  return make("div", {}, make("div", { className: "ask" }, request, answer), make("div", { className: "bar" }, send, told));
};

const model = (tag, document_) => {
  const { name, description } = tag;
  const section = make("section", { id: name }, make("h2", { textContent: name }), make("p", { textContent: description }));
  const row = document_.components.schemas[`${name}.Row`];
  const answer = document_.components.schemas[`${name}.Answer`];
  const operations = Object.entries(document_.paths).flatMap(([path, methods]) =>
    Object.entries(methods).filter(([, operation]) => operation.tags?.includes(name)).map(([method, operation]) => ({ path, method, operation })));
  const asked = operations.filter(({ method, operation }) => method === "post" && example(operation));
  section.append(make("h3", { textContent: "A row" }), features(row));
  section.append(make("p", { textContent: `The answer has ${Object.keys(answer.properties).join(", ")}.` }));
  const own = asked.find(({ path }) => path === `/models/${name}/predict`);
  if (own) section.append(make("h3", { textContent: "Try it" }), tryIt(own.path, example(own.operation)));
  if (asked.length) section.append(make("h3", { textContent: "From a shell, in each dialect" }));
  for (const { path, operation } of asked) {
    section.append(make("details", { open: path === own?.path },
      make("summary", {}, make("code", { textContent: `POST ${path}` }), ` ${operation.summary}`),
      make("pre", { textContent: curl(path, example(operation)), tabIndex: 0 })));
  }
  return section;
};

const start = async () => {
  const main = document.getElementById("main");
  try {
    const reply = await fetch("/openapi.json");
    if (!reply.ok) throw new Error(`/openapi.json answered ${reply.status}`);
    const document_ = await reply.json();
    document.getElementById("about").textContent = `Version ${document_.info.version}. ${document_.info.description}`;
    document.getElementById("models").replaceChildren(...document_.tags.map(({ name }) => make("a", { href: `#${name}`, textContent: name })));
    const none = make("p", { textContent: "No model serves yet; the operations port's /status says why." });
    main.replaceChildren(...(document_.tags.length ? document_.tags.map((tag) => model(tag, document_)) : [none]));
  } catch (error) {
    main.replaceChildren(make("p", { className: "bad", textContent: `The models cannot be shown: ${error.message}` }));
  }
};

start();
