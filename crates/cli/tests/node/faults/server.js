// The demo's answers; a path that names a fault is answered first, then the fault happens. `?PID`: in that
// process only.
'use strict';
const cluster = require('node:cluster');
const fs = require('node:fs');
const http = require('node:http');
const net = require('node:net');
const { spawn } = require('node:child_process');

const CHANNEL = 3;
const raw = (text) => fs.writeSync(CHANNEL, text);
const line = (frame) => raw(`${JSON.stringify(frame)}\n`);

/** Runs once for each number, one after the other. */
const each = (count, step, end) => {
  let at = 0;
  const next = () => (at < count ? step(at++, next) : end());
  next();
};

/** Sends both kinds of sockets: a server's, which Node counts, and a client's. */
function handles(count) {
  let closed = 0;
  const server = net.createServer({ pauseOnConnect: true });
  // Its own: the primary does not know of it.
  server.listen({ port: 0, host: '127.0.0.1', exclusive: true }, () => {
    const { port } = server.address();
    const one = (at, next) => {
      const client = net.connect(port, '127.0.0.1');
      server.once('connection', (socket) => {
        const [sent, kept] = at % 2 ? [client, socket] : [socket, client];
        kept.on('error', () => {}).on('close', () => closed++).resume();
        process.send({ handle: at }, sent, {}, next);
      });
    };
    each(count, one, () => {
      // Goes out when every handle before it is acknowledged.
      process.send({ handles: count }, () => {
        // Needs the primary's word that no socket of this server is left there.
        server.close(() => {
          const done = setInterval(() => {
            if (closed < count) return;
            clearInterval(done);
            console.log(`${count} handles were sent, and closed by the primary`);
          }, 10);
        });
      });
    });
  });
}

const faults = {
  flood() {
    for (let at = 0; at < 200_000; at++) process.send({ flood: at, filler: 'x'.repeat(40) });
    process.send({ flood: 'over' });
  },
  half() {
    raw('{"cmd":"NODE_CL');
    process.exit(7);
  },
  garbage: () => raw('{"unfinished": \u001b[2J}\n'),
  huge: () => process.send('x'.repeat(200 * 1024 * 1024)),
  unknown() {
    line({ cmd: 'NODE_CLUSTER', act: 'dance', seq: 1000 });
    line({ cmd: 'NODE_CLUSTER', ack: 99999, accepted: false });
    line({ cmd: 'NODE_CLUSTER', act: 'close', key: 'nothing' });
    line({ cmd: 'NODE_PHALANX', act: 'report', id: -1 });
    line({ cmd: 'NODE_PHALANX', act: 'uncaught', name: 5 });
    line({ cmd: 'NODE_SOMETHING', with: { more: [1, 2] } });
    line({ cmd: 'NODE_HANDLE_ACK' });
    line({ cmd: '\ud800', '\udfff': 1 });
    line({ phalanx: 'broadcast' });
    raw('{"cmd":5,"cmd":null}\n1e999\n');
    process.send(JSON.parse('['.repeat(1000) + ']'.repeat(1000)));
    process.send('all said');
  },
  handles: () => handles(1000),
  disconnect: () => process.disconnect(),
  // Node ends a worker that loses its channel, but not one that said it would leave.
  'live-on'() {
    cluster.worker.exitedAfterDisconnect = true;
    process.disconnect();
  },
  // Node does not see this one.
  close: () => fs.closeSync(CHANNEL),
  // A child keeps the channel open when its parent is gone.
  heir() {
    // In a group of its own, or it would go with its parent.
    const stdio = ['ignore', 'ignore', 'ignore', CHANNEL];
    const child = spawn('sleep', ['60'], { stdio, detached: true });
    child.on('spawn', () => {
      console.log(`heir ${child.pid}`);
      process.kill(process.pid, 'SIGKILL');
    });
  },
  // The next connection ends or stops it before it says that it took it.
  'die-on-connection': () => onConnection('SIGKILL'),
  'stop-on-connection': () => onConnection('SIGSTOP'),
  // Half a gigabyte for workers of which one may not read.
  broadcast() {
    const message = 'x'.repeat(1 << 20);
    const one = (_, next) => process.send({ phalanx: 'broadcast', message }, next);
    each(500, one, () => console.log('all broadcast'));
  },
  chatter() {
    for (let at = 0; at < 20_000; at++) process.send({ phalanx: 'broadcast', message: at });
    process.send('over', () => console.log('all chattered'));
  },
  'throw-null': () => raise(null),
  'throw-text': () => raise('text \u001b[2J\nof two lines'),
  'throw-nothing': () => raise(undefined),
  'throw-long': () => raise(new Error('long '.repeat(200_000))),
  'throw-half-character': () => raise(new Error('half \ud800')),
  'throw-bare': () => raise(Object.create(null)),
  'throw-getter': () =>
    raise({
      get stack() {
        throw new Error('from the getter');
      },
    }),
  'reject-nothing': () => void Promise.reject(undefined),
  'reject-object': () => void Promise.reject({ code: 5 }),
};

function raise(what) {
  throw what;
}

function onConnection(signal) {
  process.prependListener('internalMessage', (frame) => {
    if (frame?.act === 'newconn') process.kill(process.pid, signal);
  });
  process.send({ armed: signal });
}

http
  .createServer((request, response) => {
    const [, name, only] = /^\/([^?]*)\??(.*)/.exec(request.url);
    const fault = !only || Number(only) === process.pid ? faults[name] : undefined;
    response.setHeader('Content-Type', 'application/json');
    response.setHeader('Connection', 'close');
    response.end(JSON.stringify({ pid: process.pid, slot: Number(process.env.NODE_APP_INSTANCE ?? 0) }));
    // The answer is with the client when its connection is closed.
    if (fault) response.on('close', () => setImmediate(fault));
  })
  .listen(process.env.PORT, '127.0.0.1');
