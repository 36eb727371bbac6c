// Messages both ways, each a request with an answer: workers ask the primary, the primary asks the workers.
//
// Under phalanx: it is the primary, and does not know these questions (`--print-messages` prints them).
// A worker that gets no answer in time goes on with its default, as it should with any busy primary.

'use strict';

const cluster = require('node:cluster');
const http = require('node:http');
const os = require('node:os');

const port = Number(process.env.PORT) || 8000;
const workers = Number(process.env.WORKERS) || os.availableParallelism();
const every = Number(process.env.ASK_MS) || 2000;
const DEFAULT_GREETING = 'hello';

if (cluster.isPrimary) {
  for (let i = 0; i < workers; i += 1) cluster.fork();
  cluster.on('exit', () => cluster.fork());

  cluster.on('message', (worker, message) => {
    if (message.ask === 'greeting') {
      console.log(`primary: worker ${worker.process.pid} asks for the greeting`);
      worker.send({ id: message.id, answer: DEFAULT_GREETING });
    } else if (message.served !== undefined) {
      console.log(`primary: worker ${worker.process.pid} has served ${message.served} requests`);
    }
  });

  setInterval(() => {
    for (const worker of Object.values(cluster.workers)) {
      if (worker.isConnected()) worker.send({ ask: 'served' });
    }
  }, every);
} else {
  let served = 0;
  let nextId = 0;
  const waiting = new Map();

  // An answer carries the number of its question.
  const ask = (what, otherwise) =>
    new Promise((resolve) => {
      const id = (nextId += 1);
      const timer = setTimeout(() => {
        waiting.delete(id);
        resolve(otherwise);
      }, 200);
      waiting.set(id, (answer) => {
        clearTimeout(timer);
        waiting.delete(id);
        resolve(answer);
      });
      if (process.connected) process.send({ ask: what, id });
    });

  process.on('message', (message) => {
    if (message.ask === 'served') process.send({ served });
    else waiting.get(message.id)?.(message.answer);
  });

  const server = http.createServer(async (req, res) => {
    const greeting = await ask('greeting', DEFAULT_GREETING);
    served += 1;
    res.writeHead(200, { 'Content-Type': 'text/plain' });
    res.end(`${greeting} from ${process.pid}\n`);
  });
  server.listen(port, '127.0.0.1');
}
