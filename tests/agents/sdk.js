// An agent on the published SDK. Its prompt is a JSON list of steps, each `[module, method, ...arguments]`; it makes them
// one after the other, each with a deadline, and answers with what each resolved. `"together"` in front of a list makes
// its steps at once. A prompt that is no JSON is answered as it is.
const codebolt = require("@codebolt/codeboltjs").default;

const DEADLINE = 10000;
const unanswered = new Promise(() => {});

async function step([module, method, ...args]) {
  const late = new Promise((resolve) => setTimeout(resolve, DEADLINE, "nothing came"));
  const owner = codebolt[module];
  const made = owner[method](...args);
  // What the SDK does not wait for has no promise to wait for either.
  if (!made || typeof made.then !== "function") return null;
  try {
    return await Promise.race([made, late]);
  } catch (error) {
    return `threw ${error && error.message}`;
  }
}

async function steps(list) {
  if (list[0] === "together") return Promise.all(list.slice(1).map(step));
  const results = [];
  for (const one of list) results.push(await step(one));
  return results;
}

codebolt.chat.onActionMessage().on("userMessage", async (frame, reply) => {
  const { userMessage } = frame.message;
  if (userMessage === "stop me") {
    const { event } = codebolt.chat.processStarted();
    event.on("stopProcessClicked", () => reply("stopped as I was told"));
    codebolt.chat.sendMessage("I wait");
    return;
  }
  if (userMessage === "fall silent") return void codebolt.chat.sendMessage("I wait");
  if (userMessage === "exit") return void setTimeout(() => { console.error("no more paper"); process.exit(3); }, 10);
  if (userMessage === "hang up") return void codebolt.websocket.close();
  if (userMessage === "finish") {
    codebolt.chat.sendMessage("my last words");
    return void codebolt.chat.processFinished();
  }
  if (userMessage === "environment") return void reply(JSON.stringify({ variables: process.env, message: frame, folder: process.cwd() }));
  let list;
  try {
    list = JSON.parse(userMessage);
  } catch {
    return void reply(`you said: ${userMessage}`);
  }
  reply(JSON.stringify(await steps(list)));
});

codebolt.waitForConnection().then(() => unanswered);
// A connection that ends takes the process with it, as the published runner does.
setInterval(() => {}, 1 << 30);
