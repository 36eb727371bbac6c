// The demo's answers from TypeScript.
const http = require('http');

interface Answer {
  pid: number;
  slot: number;
}
const answer: Answer = { pid: process.pid, slot: Number(process.env.NODE_APP_INSTANCE) };
http.createServer((_, response) => response.end(JSON.stringify(answer))).listen(process.env.PORT, '127.0.0.1');
