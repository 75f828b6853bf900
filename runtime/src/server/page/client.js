// Requests to this server: the key, errors as messages, and answers as they come.

const KEY = "moesaic-key";

function headers() {
  const key = sessionStorage.getItem(KEY);
  return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
}

async function failure(response) {
  const text = await response.text().catch(() => "");
  try {
    return JSON.parse(text).error.message;
  } catch {
    return text.slice(0, 300) || `${response.status} ${response.statusText}`;
  }
}

// Sends a request; asks for a key as long as the server wants one.
async function request(path, options, askForKey) {
  for (let asked = false; ; asked = true) {
    const response = await fetch(path, { ...options, headers: headers() });
    if (response.status !== 401) {
      if (!response.ok) throw new Error(await failure(response));
      return response;
    }
    const key = await askForKey(asked ? await failure(response) : "");
    if (!key) throw new Error("An API key is needed.");
    sessionStorage.setItem(KEY, key);
  }
}

// The data of server-sent events.
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += value;
    const parts = rest.split(/\r?\n\r?\n/);
    rest = parts.pop();
    for (const part of parts) {
      const lines = part.split(/\r?\n/).filter((line) => line.startsWith("data:"));
      const data = lines.map((line) => line.slice(5).trimStart()).join("\n");
      if (data === "[DONE]") return;
      if (data) yield JSON.parse(data);
    }
  }
}

window.moesaic = {
  async models(askForKey) {
    const response = await request("v1/models", {}, askForKey);
    return (await response.json()).data.map((model) => model.id);
  },
  async *chat(body, signal, askForKey) {
    const options = { method: "POST", body: JSON.stringify(body), signal };
    const response = await request("v1/chat/completions", options, askForKey);
    for await (const event of events(response.body)) {
      if (event.error) throw new Error(event.error.message);
      yield event;
    }
  },
};
