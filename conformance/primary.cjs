'use strict';
// A primary on node:cluster that does what it is told: a JSON command per line on its standard
// input, a JSON event or reply per line on its standard output. README.md lists both.
const cluster = require('node:cluster');
const dgram = require('node:dgram');
const fs = require('node:fs');
const net = require('node:net');

// Every worker that ever was: cluster.workers forgets them early.
const workers = new Map();

// Written at once, so that nothing is lost when this process dies.
function say(line) {
  fs.writeSync(1, `${JSON.stringify(line)}\n`);
}

function tell(event, worker, more = {}) {
  say({ event, id: worker.id, ...more });
}

cluster.on('fork', (worker) => {
  workers.set(worker.id, worker);
  tell('fork', worker, { pid: worker.process.pid });
});
cluster.on('online', (worker) => tell('online', worker));
cluster.on('listening', (worker, raw) => {
  const unix = raw.addressType === -1;
  // What is asked for without a host is every address.
  const address = unix ? { path: raw.address } : { host: raw.address ?? '::', port: raw.port };
  tell('listening', worker, { address, raw, keys: Object.keys(raw).sort() });
});
cluster.on('message', (worker, message, handle) => {
  tell('message', worker, { message, handle: handle && use(handle) });
});
cluster.on('disconnect', (worker) => {
  tell('disconnect', worker, { exitedAfterDisconnect: worker.exitedAfterDisconnect });
});
cluster.on('exit', (worker, code, signal) => {
  const { exitedAfterDisconnect } = worker;
  tell('exit', worker, { code, signal, exitedAfterDisconnect });
});

// Uses a handle that came from a worker, so that its client can tell that it works here. A raw
// handle (net.Native) is wrapped.
function use(handle) {
  if (handle.constructor.name === 'TCP') handle = new net.Socket({ handle });
  if (handle instanceof net.Socket) {
    handle.on('error', () => {});
    handle.end('primary has it\n');
    return 'socket';
  }
  if (handle instanceof net.Server) {
    handle.once('connection', (socket) => {
      socket.end('primary accepts\n');
      handle.close();
    });
    return 'server';
  }
  handle.once('message', (text, from) => {
    handle.send(`primary got ${text}`, from.port, from.address, () => handle.close());
  });
  return 'udp';
}

// Makes a handle to send to a worker; says where it is.
function make(wish, done) {
  switch (wish.kind) {
    case 'tcp':
    case 'unix': {
      const to = wish.kind === 'tcp' ? { host: '127.0.0.1', port: wish.port } : wish.path;
      const socket = net.connect(to, () => done(socket, {}));
      break;
    }
    case 'tcp-server':
    case 'unix-server': {
      const on = wish.kind === 'tcp-server' ? { host: '127.0.0.1', port: 0 } : { path: wish.path };
      const server = net.createServer().listen(on, () => done(server, { port: server.address().port }));
      break;
    }
    case 'udp4':
    case 'udp6': {
      const socket = dgram.createSocket(wish.kind);
      const host = wish.kind === 'udp4' ? '127.0.0.1' : '::1';
      socket.bind(0, host, () => done(socket, { port: socket.address().port }));
      break;
    }
    default:
      throw new Error(`no handle is called ${wish.kind}`);
  }
}

function fork({ exec, args = [], cwd, env = {} }) {
  // Standard output is for events: workers write to standard error.
  cluster.setupPrimary({ exec, args, cwd, stdio: ['ignore', 2, 2, 'ipc'] });
  const worker = cluster.fork(env);
  worker.on('error', (error) => tell('error', worker, { error: String(error) }));
  return worker;
}

const orders = {
  fork(order, done) {
    const worker = fork(order);
    done({ id: worker.id, pid: worker.process.pid });
  },
  // Keeps a number of workers, as supervisors on node:cluster do.
  supervise(order, done) {
    cluster.on('exit', () => fork(order));
    for (let n = 0; n < order.workers; n++) fork(order);
    done(true);
  },
  send(order, done) {
    const worker = workers.get(order.id);
    if (!order.handle) {
      worker.send(order.message);
      return done(true);
    }
    make(order.handle, (handle, where) => {
      worker.send(order.message, handle);
      // Of a listening or UDP socket, both sides have a copy: this one is not to get anything.
      if (!(handle instanceof net.Socket)) handle.close();
      done(where);
    });
  },
  disconnect(order, done) {
    workers.get(order.id).disconnect();
    done(true);
  },
  kill(order, done) {
    workers.get(order.id).kill(order.signal);
    done(true);
  },
  destroy(order, done) {
    workers.get(order.id).destroy(order.signal);
    done(true);
  },
  state(order, done) {
    const worker = workers.get(order.id);
    const { exitedAfterDisconnect = null } = worker;
    const [connected, dead] = [worker.isConnected(), worker.isDead()];
    done({ connected, dead, exitedAfterDisconnect });
  },
  // cluster.disconnect(): answered when it calls back, with the workers that still run then.
  disconnectAll(order, done) {
    cluster.disconnect(() => {
      done({ alive: [...workers.values()].filter((worker) => !worker.isDead()).length });
    });
  },
  // Lets the event loop do what is already there.
  ping(order, done) {
    setImmediate(done, true);
  },
  quit() {
    process.exit(0);
  },
};

function obey(line) {
  const order = JSON.parse(line);
  try {
    orders[order.do](order, (ok) => say({ reply: order.n, ok }));
  } catch (error) {
    say({ reply: order.n, error: String(error) });
  }
}

// Not node:readline: for it, U+2028 in a string ends a line too.
let rest = '';
process.stdin.setEncoding('utf8');
process.stdin.on('data', (text) => {
  const lines = text.split('\n');
  lines[0] = rest + lines[0];
  rest = lines.pop();
  lines.forEach(obey);
});
// Whoever gave the orders is gone.
process.stdin.on('close', () => process.exit(0));
