// A counter of all requests: each worker reports what it served, the primary adds up.
//
// Under phalanx: `--stats` logs each worker's requests per second without the program's help; these reports it
// takes no notice of (`--print-messages` prints them). A number that must be right belongs in a store: session.mjs.

'use strict';

const cluster = require('node:cluster');
const http = require('node:http');
const os = require('node:os');

const port = Number(process.env.PORT) || 8000;
const workers = Number(process.env.WORKERS) || os.availableParallelism();
const every = Number(process.env.PRINT_MS) || 1000;

if (cluster.isPrimary) {
  let total = 0;
  let printed = 0;

  cluster.on('message', (worker, message) => {
    if (message.cmd === 'served') total += 1;
  });
  setInterval(() => {
    if (total !== printed) console.log(`total: ${total} requests`);
    printed = total;
  }, every);

  for (let i = 0; i < workers; i += 1) cluster.fork();
  cluster.on('exit', () => cluster.fork());
} else {
  const server = http.createServer((req, res) => {
    if (process.connected) process.send({ cmd: 'served' });
    res.writeHead(200, { 'Content-Type': 'text/plain' });
    res.end(`counted, from ${process.pid}\n`);
  });
  server.listen(port, '127.0.0.1');
}
