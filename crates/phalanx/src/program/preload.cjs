// Loaded into each Node worker before the program (`node --require`). It makes draining lossless, keeps early
// messages, and answers the primary's questions. The program must not be able to tell that it is there.
'use strict';

(() => {
  const cluster = require('node:cluster');
  const { isMainThread } = require('node:worker_threads');

  // Out of sight: what the program starts must not load it again.
  for (let at = 0; at < process.execArgv.length; at++) {
    if (process.execArgv[at] === '--require' && process.execArgv[at + 1] === __filename) {
      process.execArgv.splice(at, 2);
      break;
    }
  }
  delete require.cache[__filename];
  if (!isMainThread || !cluster.worker || !process.connected) return;

  const channels = require('node:diagnostics_channel');
  // The program may replace these.
  const { setInterval, setTimeout } = globalThis;
  const { performance } = require('node:perf_hooks');
  const now = performance.now.bind(performance);
  const send = process.send;

  const COMMAND = 'NODE_PHALANX'; // Node shows frames of a `cmd` with this prefix to no program
  const SWEEP = 250; // ms between looks at what still keeps a draining worker
  const SILENT = 5000; // ms that a draining worker waits for a client that never sent a request
  const LAG_SAMPLE = 1000; // ms between samples of the event loop's lag
  const BUCKETS = 24; // latencies from under 1 µs, doubled each time, to over 4 s
  const EARLY = 1024; // messages that are kept for a program that does not listen yet
  const LAST_WORDS = 1000; // ms that the program has for itself when all is closed
  const TEXT = 16384; // characters that are told of an exception's stack

  const hidden = (object, name, value) =>
    Object.defineProperty(object, name, { value, configurable: true, enumerable: false, writable: true });
  const nothing = () => {};
  const tell = (act, more) => {
    if (!process.connected) return;
    try {
      Reflect.apply(send, process, [{ cmd: COMMAND, act, ...more }, undefined, {}, nothing]);
    } catch {
      // The channel closed in between: nobody is there to be told.
    }
  };

  // --- What is open ---

  /** Servers that listen through the primary. */
  const servers = new Set();
  /** Connections of the HTTP ones, from their first request on: when the last began, whether it is a WebSocket. */
  const connections = new Map();
  /** HTTP/2 sessions. */
  const sessions = new Set();
  let draining = 0; // since when

  const getServer = cluster._getServer;
  cluster._getServer = function _getServer(server, ...rest) {
    if (server && !servers.has(server) && typeof server.getConnections === 'function') watch(server);
    return Reflect.apply(getServer, this, [server, ...rest]);
  };

  function watch(server) {
    for (const known of servers) if (!known.listening) servers.delete(known);
    servers.add(server);
    const isHttp2 = typeof server.updateSettings === 'function';
    if (isHttp2) server.on('session', joined);
    if (typeof server.closeIdleConnections !== 'function') return;
    // Node's `close` closes idle connections under their clients' hands. That is the program's right; a drain
    // leaves them to their own time-out.
    const close = server.closeIdleConnections;
    hidden(server, 'closeIdleConnections', function closeIdleConnections() {
      if (!draining) Reflect.apply(close, this, []);
    });
    // Node asks whether somebody listens to `upgrade`: this one does only beside the program's own.
    if (server.listenerCount('upgrade') > 0) server.prependListener('upgrade', upgraded);
    server.on('newListener', (type, listener) => {
      const first = type === 'upgrade' && listener !== upgraded && !server.listeners('upgrade').includes(upgraded);
      if (first) server.prependListener('upgrade', upgraded);
    });
    server.on('removeListener', (type) => {
      const left = type === 'upgrade' ? server.listeners('upgrade') : [];
      if (left.length === 1 && left[0] === upgraded) server.removeListener('upgrade', upgraded);
    });
  }

  function joined(session) {
    sessions.add(session);
    session.once('close', () => sessions.delete(session));
    if (draining) goAway(session);
  }

  function upgraded(request, socket) {
    if (/^websocket$/i.test(request.headers.upgrade)) (connections.get(socket) ?? opened(socket)).webSocket = true;
  }

  function opened(socket) {
    const connection = { began: 0, webSocket: false, told: false };
    connections.set(socket, connection);
    socket.once('close', () => connections.delete(socket));
    return connection;
  }

  // --- Requests ---

  let requests = 0;
  let responses = 0;
  let spent = 0; // ms, all responses together
  const latency = new Array(BUCKETS).fill(0);

  channels.subscribe('http.server.request.start', ({ server, socket, response }) => {
    const connection = connections.get(socket) ?? (servers.has(server) ? opened(socket) : undefined);
    if (!connection) return;
    requests++;
    connection.began = now();
    if (draining) isLast(response);
  });
  channels.subscribe('http.server.response.finish', ({ socket }) => {
    const connection = connections.get(socket);
    if (!connection) return;
    const took = now() - connection.began;
    responses++;
    spent += took;
    latency[Math.min(32 - Math.clz32(took * 1000), BUCKETS - 1)]++;
  });

  // --- Draining ---

  // Before the cluster's own listener, which closes the servers.
  process.prependListener('internalMessage', (frame) => {
    if (frame?.cmd === 'NODE_CLUSTER' && frame.act === 'disconnect') drain();
    else if (frame?.cmd === COMMAND && frame.act === 'ask') report(frame.id);
  });
  const { disconnect } = cluster.worker;
  hidden(cluster.worker, 'disconnect', function () {
    drain();
    return Reflect.apply(disconnect, this, []);
  });

  function drain() {
    if (draining) return;
    draining = now();
    for (const socket of connections.keys()) {
      const response = socket._httpMessage;
      if (response) isLast(response);
    }
    sessions.forEach(goAway);
    sweep();
    setInterval(sweep, SWEEP).unref();
    // A timer or a client of a database keeps a process for ever. What the program does on a signal, it does now.
    process.once('disconnect', () => {
      setTimeout(() => {
        const signal = ['SIGTERM', 'SIGINT'].find((name) => process.listenerCount(name) > 0);
        if (signal) process.kill(process.pid, signal);
        else process.exit(0);
      }, LAST_WORDS).unref();
    });
  }

  /** The response tells its client that the connection ends with it, whatever the program says. */
  function isLast(response) {
    if (response.headersSent || typeof response.writeHead !== 'function') return;
    response.shouldKeepAlive = false;
    const { writeHead } = response;
    hidden(response, 'writeHead', function (...head) {
      this.shouldKeepAlive = false;
      if (staysOpen(this.getHeader('connection'))) this.setHeader('Connection', 'close');
      const at = head.length - 1;
      if (at > 0 && head[at] && typeof head[at] === 'object') head[at] = withoutKeepAlive(head[at]);
      return Reflect.apply(writeHead, this, head);
    });
  }

  /** A word on the connection that does not end it, and is not about another protocol on it. */
  const staysOpen = (value) => value !== undefined && !/upgrade|close/i.test(String(value));

  function withoutKeepAlive(head) {
    const keep = (name, value) => String(name).toLowerCase() !== 'connection' || !staysOpen(value);
    if (!Array.isArray(head)) {
      return Object.fromEntries(Object.entries(head).filter(([name, value]) => keep(name, value)));
    }
    if (Array.isArray(head[0])) return head.filter(([name, value]) => keep(name, value));
    const pairs = [];
    for (let at = 0; at + 1 < head.length; at += 2) {
      if (keep(head[at], head[at + 1])) pairs.push(head[at], head[at + 1]);
    }
    return pairs;
  }

  /** HTTP/2: no new requests, please; and a moment later, those that were on their way are here (RFC 9113, 6.8). */
  function goAway(session) {
    try {
      session.goaway(0, 2 ** 31 - 1);
    } catch {
      return; // it ended by itself
    }
    setTimeout(() => {
      if (!session.closed && !session.destroyed) session.close();
    }, 2 * SWEEP).unref();
  }

  function sweep() {
    for (const [socket, connection] of connections) {
      if (socket.destroyed) {
        connections.delete(socket);
      } else if (connection.webSocket) {
        // Not before the handshake was answered. “Going away” (RFC 6455, 7.4.1) between two frames of the
        // program's: each of those is written as one.
        if (!connection.told && socket.bytesWritten > 0 && socket.writable) {
          connection.told = true;
          socket.write(Buffer.from([0x88, 0x02, 0x03, 0xe9]));
        }
      }
    }
    if (now() - draining >= SILENT) silent().forEach((socket) => socket.end());
  }

  /** Connections of HTTP/1 on which nothing ever came; nothing but this looks for them. */
  function silent() {
    const isSilent = ({ server, bytesRead }) =>
      bytesRead === 0 && servers.has(server) && typeof server.closeIdleConnections === 'function';
    return (process._getActiveHandles?.() ?? []).filter(isSilent);
  }

  // --- What is told ---

  let lagMax = 0;
  let lag = 0;
  let expected = now() + LAG_SAMPLE;
  setInterval(() => {
    const at = now();
    lag = Math.max(0, at - expected);
    lagMax = Math.max(lagMax, lag);
    expected = at + LAG_SAMPLE;
    if (!serves) tellServing();
  }, LAG_SAMPLE).unref();

  /** The primary hears of servers that listen through it; not of `exclusive` and `reusePort` ones. */
  let serves = false;
  function tellServing() {
    serves = servers.size > 0;
    if (serves || !process.getActiveResourcesInfo().some((name) => /^(TCP|Pipe)ServerWrap$/.test(name))) return;
    serves = true;
    tell('serves');
  }
  let since = performance.eventLoopUtilization();

  function report(id) {
    const until = performance.eventLoopUtilization();
    const { utilization } = performance.eventLoopUtilization(until, since);
    since = until;
    const { heapUsed, heapTotal, external, rss } = process.memoryUsage();
    let open = 0;
    // `getConnections` answers on the next tick.
    for (const server of servers) server.getConnections((error, count) => (open += error ? 0 : count));
    process.nextTick(() => {
      tell('report', {
        id, utilization, lag, lagMax, heapUsed, heapTotal, external, rss, open, requests, responses, spent, latency,
      });
      lagMax = 0;
    });
  }

  // Whatever happens next is the program's own doing; this only says why.
  process.on('uncaughtExceptionMonitor', (error, origin) => {
    try {
      // Half a surrogate pair is no Unicode, and no JSON to everybody.
      const text = (value) => (value === undefined ? undefined : String(value).slice(0, TEXT).toWellFormed());
      const thrown = typeof error?.stack === 'string';
      const message = text(typeof error?.message === 'string' ? error.message : error) ?? 'undefined';
      tell('uncaught', {
        origin,
        caught: process.listenerCount('uncaughtException') > 0,
        name: text(thrown ? error.name : typeof error),
        // What Node says of a rejection without an Error is long, and its point is at the end.
        message: message.replace(/^This error originated either .* The promise rejected/s, 'the promise rejected'),
        stack: thrown ? text(error.stack) : undefined,
      });
    } catch {
      // Something was thrown that cannot even be looked at.
    }
  });

  // --- Early messages ---

  // Node drops what comes before the program listens; a module is often still loading then.
  const early = [];
  const keepEarly = (message, handle) => {
    if (early.length < EARLY) early.push([message, handle]);
  };
  const listens = (type, listener) => {
    if (type !== 'message' || listener === keepEarly) return;
    process.removeListener('message', keepEarly);
    process.removeListener('newListener', listens);
    cluster.worker.removeListener('newListener', listens);
    if (early.length === 0) return;
    process.nextTick(() => {
      for (const [message, handle] of early.splice(0)) process.emit('message', message, handle);
    });
  };
  process.on('message', keepEarly);
  process.on('newListener', listens);
  cluster.worker.on('newListener', listens);
})();
