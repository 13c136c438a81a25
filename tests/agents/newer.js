// An agent on a client of its own for the newer dialect of Codebolt's agents, as the history of the public repository
// codeboltai/codeboltjs has it: each frame has a number, and what comes in is matched by that first. The client notes
// which step of the matching took each frame. Its prompt is a JSON list of orders: `ask` a frame (and with `later` go on
// before the answer is there), `send` one, or wait `until` a frame of a type has come unasked, once or so many `times`.
// The result is what each ask resolved, how many frames each step took, what came unasked, and the length of the URL. A
// prompt that is no list is one of `words` below.
const { randomUUID } = require("node:crypto");
const { EventEmitter, once } = require("node:events");
const WebSocket = require("ws");

const CONNECT = 10000;
const DEADLINE = 10000;

// What is not told to the hub, or has a place of its own in the query.
const KNOWN = [
  "SOCKET_PORT", "CODEBOLT_SERVER_URL", "agentId", "parentId", "parentAgentInstanceId", "agentTask", "threadToken",
  "Is_Dev", "PATH", "NODE_ENV", "HOME", "USER", "SHELL", "IS_PLUGIN", "pluginId", "pluginToken", "PLUGIN_DIR", "instanceId",
];

function url(env) {
  const id = `ws_${Date.now().toString(36)}_${Math.random().toString(36).slice(2, 15)}`;
  let query = `id=${id}`;
  // These go as they are; only the token and what follows is encoded.
  for (const name of ["agentId", "parentId", "parentAgentInstanceId", "agentTask"]) {
    if (env[name]) query += `&${name}=${env[name]}`;
  }
  if (env.threadToken) query += `&threadToken=${encodeURIComponent(env.threadToken)}`;
  for (const [name, value] of Object.entries(env)) {
    if (!value || KNOWN.includes(name) || name.startsWith("npm_") || name.startsWith("_")) continue;
    query += `&${encodeURIComponent(name)}=${encodeURIComponent(value)}`;
  }
  if (env.Is_Dev) query += "&dev=true";
  return `ws://${env.CODEBOLT_SERVER_URL || "localhost"}:${env.SOCKET_PORT || "12345"}/codebolt?${query}`;
}

class Client extends EventEmitter {
  pending = new Map();
  routes = new Map();
  took = { number: 0, type: 0, route: 0, message: 0 };

  connect(where) {
    return new Promise((resolve, reject) => {
      this.socket = new WebSocket(where);
      const late = setTimeout(() => {
        this.socket.terminate();
        reject(new Error("WebSocket connection timeout after 10 seconds"));
      }, CONNECT);
      this.socket.on("error", (error) => { clearTimeout(late); reject(error); });
      this.socket.on("open", () => { clearTimeout(late); resolve(); });
      this.socket.on("message", (data) => this.take(JSON.parse(data.toString())));
      this.socket.on("close", (code, reason) => {
        clearTimeout(late);
        for (const { reject } of this.pending.values()) reject(new Error("WebSocket connection closed"));
        this.pending.clear();
        this.emit("closed", code, reason.toString());
      });
    });
  }

  // Number, type, route, message: the first that fits takes the frame.
  take(frame) {
    let id = frame.requestId;
    let by = "number";
    if (!this.pending.has(id)) {
      by = "type";
      id = [...this.pending].find(([, one]) => one.awaits.includes(frame.type))?.[0];
    }
    const asked = this.pending.get(id);
    if (asked) {
      this.pending.delete(id);
      asked.resolve({ by, at: this.count(by), id, frame });
    } else if (this.routes.has(frame.type)) {
      this.count("route");
      this.routes.get(frame.type)(frame);
    } else {
      this.count("message");
      this.emit("message", frame);
    }
  }

  count(by) {
    this.took[by] += 1;
    return Object.values(this.took).reduce((sum, one) => sum + one);
  }

  send(frame) {
    const id = randomUUID();
    this.socket.send(JSON.stringify({ ...frame, requestId: id }));
    return id;
  }

  ask(frame, awaits) {
    return new Promise((resolve, reject) => {
      this.pending.set(this.send(frame), { awaits: awaits.split("|"), resolve, reject });
    });
  }
}

const client = new Client();
const unasked = [];
const where = url(process.env);
client.routes.set("steeringMessage", () => {});

function deadline(what, made) {
  let timer;
  const late = new Promise((resolve) => { timer = setTimeout(resolve, DEADLINE, { by: "nothing", what }); });
  return Promise.race([made, late]).finally(() => clearTimeout(timer));
}

async function came(type, times = 1) {
  while (unasked.filter((frame) => frame.type === type).length < times) await once(client, "message");
  return { by: "message" };
}

async function follow(orders) {
  const results = [];
  for (const { ask, awaits, later, send, until, times } of orders) {
    if (send) {
      client.send(send);
    } else if (until) {
      results.push(await deadline(until, came(until, times)));
    } else {
      const made = deadline(ask, client.ask(ask, awaits));
      results.push(later ? made : await made);
    }
  }
  return JSON.stringify({ results: await Promise.all(results), took: client.took, unasked, query: where.length });
}

const later = () => client.ask({ type: "waitforReply", message: "never answered" }, "waitFormessageResponse");

// What a rejection says is the last line that this process writes.
function rejected(error) {
  console.error(error.message);
  process.exitCode = 3;
}

const words = {
  // It listens for the stop beside what it waits for, and is done when it has heard of both.
  "stop me": async () => {
    const waits = later();
    client.send({ type: "processStarted" });
    client.send({ type: "sendMessage", message: "I wait" });
    const [{ by, frame }] = await Promise.all([waits, came("stopProcessClicked")]);
    console.error(`by ${by}: ${frame.errorKind}; by message: stopProcessClicked`);
    return "stopped as I was told";
  },
  "give up": async () => { throw new Error("no more paper"); },
  "finish": async () => {
    client.send({ type: "sendMessage", message: "my last words" });
    client.send({ type: "processFinished" });
    return new Promise(() => {});
  },
  "say nonsense": () => {
    client.once("closed", (code, reason) => console.error(`closed ${code}: ${reason}`));
    const waits = Promise.all([later(), later()]);
    for (let n = 0; n < 3; n += 1) client.socket.send("null");
    return waits;
  },
  "say too much": () => {
    client.once("closed", (code) => console.error(`closed ${code}`));
    const waits = later();
    client.send({ type: "sendMessage", message: "x".repeat(17 << 20) });
    return waits;
  },
};

client.on("message", async (frame) => {
  if (frame.type !== "messageResponse") return void unasked.push(frame);
  const { userMessage } = frame.message;
  try {
    const plain = words[userMessage] || (async () => `you said: ${userMessage}`);
    const result = await (userMessage.startsWith("[") ? follow(JSON.parse(userMessage)) : plain());
    client.send({ type: "processStoped", message: result });
  } catch (error) {
    if (client.socket.readyState !== WebSocket.OPEN) return rejected(error);
    client.send({ type: "processStoped", error: error.message });
  }
});

client.connect(where).catch(rejected);
