'use strict';
// Leaves in the way that HOW says when it is told to, and writes what it saw of it to RECORD: when
// the end comes there is no channel any more.
const cluster = require('node:cluster');
const fs = require('node:fs');
const net = require('node:net');

const { worker } = cluster;
const record = (what) => fs.appendFileSync(process.env.RECORD, `${what}\n`);

worker.on('disconnect', () => record(`disconnect ${worker.exitedAfterDisconnect}`));
process.on('exit', (code) => {
  record(`exit ${code} ${worker.exitedAfterDisconnect} ${worker.isConnected()}`);
});

const ways = {
  disconnect: () => record(`returns ${worker.disconnect() === worker}`),
  'disconnect twice': () => worker.disconnect().disconnect(),
  kill: () => worker.kill(),
  destroy: () => worker.destroy(),
  'process.disconnect': () => process.disconnect(),
  'process.disconnect, exit': () => {
    process.disconnect();
    process.exit(6);
  },
  exit: () => process.exit(3),
  throw: () => setImmediate(() => { throw new Error('on purpose'); }),
  SIGKILL: () => process.kill(process.pid, 'SIGKILL'),
  abort: () => process.abort(),
  unref: () => {
    server.close();
    process.channel.unref();
  },
};

process.on('message', (how) => {
  record(`before ${worker.exitedAfterDisconnect}`);
  ways[how]?.();
  record(`after ${worker.exitedAfterDisconnect}`);
});
if (process.env.SIGTERM) process.on('SIGTERM', () => process.exit(5));
const server = net.createServer();
if (process.env.IDLE) process.send('ready');
else server.listen(0, '127.0.0.1', () => process.send('ready'));
