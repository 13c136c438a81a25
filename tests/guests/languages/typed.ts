// Uses what needs no template: a compiler takes it as it stands.

import * as files from "./sdk/files.js";
import * as http from "./sdk/http.js";
import * as process from "./sdk/process.js";
import * as socket from "./sdk/socket.js";

const headers = { ...http.bearer("github"), accept: "text/plain" };
const answer: http.Response = http.get("https://a", { headers, timeoutMs: 5 }).success();
for (const piece of answer.pieces()) {
  const bytes: number = piece.length;
  void bytes;
}
const parsed: { a: number } = answer.json();
http.post("https://a", { json: parsed, headers: [["a", "b"], ["c", http.secret("d", "e ")]] }).close();

const size: number | undefined = files.stat("docs", "a")?.size;
for (const piece of files.open("docs", "a", size ?? 0)) {
  files.write("cache", "a", piece);
}
const names: string[] = files.list("docs").map((entry) => entry.name);
files.write("cache", "names", names.join() + files.readText("docs", "b"));

const { code, signal }: process.Ending = process.start("git", ["status"], { folder: "docs", timeoutMs: 5 }).finish();
const said: string = process.run("git").success().text() + (signal ?? code.toFixed());
const connection: socket.Connection = socket.open("docker", { timeoutMs: 5 });
connection.send(said);
for (const piece of connection) {
  const bytes: number = piece.length;
  void bytes;
}
connection.close();
