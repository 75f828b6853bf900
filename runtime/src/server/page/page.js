// The conversation: what is shown, what is sent, and how fast the answer came.

const at = (id) => document.getElementById(id);
const log = at("log");
const input = at("input");
let messages = [];
let running = null;

function askForKey(error) {
  const dialog = at("key-dialog");
  at("key").value = "";
  at("key-error").textContent = error;
  dialog.showModal();
  return new Promise((resolve) => {
    at("key-cancel").onclick = () => dialog.close();
    dialog.returnValue = "";
    dialog.onclose = () => resolve(dialog.returnValue === "use" ? at("key").value.trim() : "");
  });
}

function article(role) {
  const node = document.createElement("article");
  const title = document.createElement("h2");
  const body = document.createElement("div");
  node.className = role;
  title.textContent = role === "user" ? "You" : at("model").value || "Model";
  body.className = "body";
  node.append(title, body);
  log.append(node);
  at("welcome").hidden = true;
  return { node, body };
}

const isAtEnd = () => log.scrollHeight - log.scrollTop - log.clientHeight < 80;
const toEnd = () => { log.scrollTop = log.scrollHeight; };

// An answer on the page, drawn at most once a frame.
function answerView() {
  const { node, body } = article("assistant");
  let reasoning = null;
  let due = false;
  const state = { text: "", thoughts: "" };
  body.classList.add("waiting");
  function draw() {
    due = false;
    const follow = isAtEnd();
    if (state.thoughts && !reasoning) {
      reasoning = document.createElement("details");
      reasoning.className = "reasoning";
      reasoning.open = true;
      const summary = document.createElement("summary");
      summary.textContent = "Thoughts";
      reasoning.append(summary, document.createElement("div"));
      node.insertBefore(reasoning, body);
    }
    if (reasoning) reasoning.lastChild.textContent = state.thoughts;
    body.replaceChildren(...window.renderMarkdown(state.text));
    if (follow) toEnd();
  }
  return {
    state,
    changed() {
      if (!due) { due = true; requestAnimationFrame(draw); }
    },
    end(stats, error) {
      draw();
      body.classList.remove("waiting");
      if (reasoning && state.text) reasoning.open = false;
      const note = (text, name, role) => {
        const line = document.createElement("p");
        line.className = name;
        if (role) line.setAttribute("role", role);
        line.textContent = text;
        node.append(line);
      };
      if (error) note(error, "error", "alert");
      if (stats) note(stats, "stats");
      toEnd();
    },
  };
}

function describe(clock, usage, timings, pieces, stopped) {
  if (!clock.first) return stopped ? "stopped" : "";
  const parts = [];
  const tokens = usage ? usage.completion_tokens : pieces;
  const seconds = (clock.last - clock.first) / 1000;
  if (usage) {
    const cached = usage.prompt_tokens_details?.cached_tokens ?? 0;
    parts.push(`${usage.prompt_tokens} prompt tokens, ${cached} cached`);
  }
  parts.push(`${usage ? "" : "about "}${tokens} tokens`);
  // The server's own figure knows nothing of the network.
  const rate = timings?.predicted_per_second ?? (seconds > 0 ? (tokens - 1) / seconds : 0);
  if (tokens > 1 && rate > 0) parts.push(`${rate.toFixed(1)} tokens/s`);
  parts.push(`first token after ${((clock.first - clock.start) / 1000).toFixed(2)} s`);
  if (stopped) parts.push("stopped");
  return parts.join(" · ");
}

function requestBody() {
  const system = at("system").value.trim();
  const body = {
    model: at("model").value,
    messages: (system ? [{ role: "system", content: system }] : []).concat(messages),
    stream: true,
    stream_options: { include_usage: true },
  };
  if (at("temperature").value !== "") body.temperature = Number(at("temperature").value);
  if (at("max-tokens").value !== "") body.max_tokens = Number(at("max-tokens").value);
  return body;
}

function setRunning(controller) {
  running = controller;
  at("stop").hidden = !controller;
  at("send").hidden = Boolean(controller);
  log.setAttribute("aria-busy", String(Boolean(controller)));
}

async function answer() {
  const view = answerView();
  const controller = new AbortController();
  const clock = { start: performance.now(), first: 0, last: 0 };
  let usage = null;
  let timings = null;
  let pieces = 0;
  let error = "";
  setRunning(controller);
  toEnd();
  try {
    for await (const event of window.moesaic.chat(requestBody(), controller.signal, askForKey)) {
      usage = event.usage ?? usage;
      timings = event.timings ?? timings;
      const delta = event.choices?.[0]?.delta;
      if (!delta?.content && !delta?.reasoning_content) continue;
      clock.last = performance.now();
      clock.first ||= clock.last;
      pieces += 1;
      view.state.text += delta.content ?? "";
      view.state.thoughts += delta.reasoning_content ?? "";
      view.changed();
    }
  } catch (problem) {
    if (!controller.signal.aborted) error = problem.message;
  }
  // Another chat may have been begun meanwhile.
  if (running === controller) {
    if (view.state.text) messages.push({ role: "assistant", content: view.state.text });
    else messages.pop();
    setRunning(null);
  }
  view.end(describe(clock, usage, timings, pieces, controller.signal.aborted), error);
  input.focus();
}

function send() {
  const text = input.value.trim();
  if (!text || running) return;
  article("user").body.textContent = text;
  messages.push({ role: "user", content: text });
  input.value = "";
  fit();
  answer();
}

function stop() {
  running?.abort();
}

function reset() {
  stop();
  setRunning(null);
  messages = [];
  log.replaceChildren();
  at("welcome").hidden = false;
  input.focus();
}

function fit() {
  input.rows = Math.min(10, Math.max(1, input.value.split("\n").length));
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  at("theme").textContent = theme === "dark" ? "Light" : "Dark";
  localStorage.setItem("moesaic-theme", theme);
}

async function loadModels() {
  try {
    const names = await window.moesaic.models(askForKey);
    at("model").replaceChildren(...names.map((name) => new Option(name, name)));
  } catch (problem) {
    answerView().end("", problem.message);
  }
}

at("composer").addEventListener("submit", (event) => { event.preventDefault(); send(); });
input.addEventListener("input", fit);
input.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    send();
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !at("key-dialog").open) stop();
});
at("stop").addEventListener("click", stop);
at("new-chat").addEventListener("click", reset);
at("settings-toggle").addEventListener("click", () => {
  const panel = at("settings");
  panel.hidden = !panel.hidden;
  at("settings-toggle").setAttribute("aria-expanded", String(!panel.hidden));
});
const dark = matchMedia("(prefers-color-scheme: dark)").matches;
at("theme").addEventListener("click", () => setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
setTheme(localStorage.getItem("moesaic-theme") ?? (dark ? "dark" : "light"));
loadModels();
