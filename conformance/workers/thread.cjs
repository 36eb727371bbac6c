'use strict';
// A thread inside a worker is not clustered: its server is its own.
const cluster = require('node:cluster');
const { Worker, isMainThread, parentPort } = require('node:worker_threads');

if (isMainThread) {
  const thread = new Worker(__filename);
  thread.on('message', (told) => process.send(told));
  process.on('message', () => thread.terminate().then(() => process.exit(0)));
} else {
  const server = require('node:net').createServer((socket) => socket.end('thread\n'));
  server.listen(0, '127.0.0.1', () => {
    parentPort.postMessage({ isPrimary: cluster.isPrimary, port: server.address().port });
  });
}
