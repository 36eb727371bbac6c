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
  const { constants } = require('node:os');
  const { performance } = require('node:perf_hooks');
  const now = performance.now.bind(performance);
  const send = process.send;

  const COMMAND = 'NODE_PHALANX'; // Node shows frames of a `cmd` with this prefix to no program
  const SWEEP = 250; // ms between looks at what still keeps a draining worker
  const SILENT = 5000; // ms that a draining worker waits for a client that never sent a request
  const LAG_SAMPLE = 1000; // ms between samples of the event loop's lag
  const BUCKETS = 24; // latencies from under 1 µs, doubled each time, to over 4 s
  const EARLY = 1 << 20; // characters of messages that are kept for a program that does not listen yet
  const EARLY_FOR = 60000; // ms for which they are
  const LAST_WORDS = 5000; // ms for what a program without a handler for signals still does when all is closed
  const LATE = 1000; // ms before the end of the grace time in which what is idle is closed
  const ORPHAN = 30000; // ms to finish without a primary
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
  /** HTTP connections of which something is known: the newest response that is not finished; what a WebSocket was. */
  const connections = new WeakMap();
  /** Those of TLS: Node finds only the sockets below them. */
  const secure = new Set();
  /** HTTP/2 sessions. */
  const sessions = new Set();
  let draining = 0; // since when

  const getServer = cluster._getServer;
  cluster._getServer = function _getServer(server, ...rest) {
    if (server && !servers.has(server) && typeof server.getConnections === 'function') watch(server);
    return Reflect.apply(getServer, this, [server, ...rest]);
  };

  /** Servers that have listened and do so no more. While draining, their connections are still to be found. */
  function forget() {
    for (const server of servers) {
      if (server.listening) listened.add(server);
      else if (listened.has(server) && !draining) servers.delete(server);
    }
  }
  const listened = new WeakSet();

  function watch(server) {
    forget();
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
    // Of a TLS connection the socket below knows nothing that could be asked later.
    if (typeof server.setSecureContext === 'function' && !isHttp2) server.prependListener('secureConnection', secured);
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
    // What was written before is not the answer to the handshake.
    const known = about(socket);
    known.upgraded = true;
    if (/^websocket$/i.test(request.headers.upgrade)) known.webSocket = socket.bytesWritten;
  }

  function secured(socket) {
    secure.add(socket);
    socket.once('close', () => secure.delete(socket));
  }

  function about(socket) {
    let known = connections.get(socket);
    if (!known) connections.set(socket, (known = { response: null, began: 0, upgraded: false, webSocket: undefined, told: false }));
    return known;
  }

  /** What speaks HTTP/1, by looking for it: a connection costs nothing until then. */
  const sockets = () =>
    (process._getActiveHandles?.() ?? []).concat(...secure).filter(({ server, encrypted, bytesRead }) => {
      if (!servers.has(server) || typeof server.closeIdleConnections !== 'function') return false;
      // Below TLS only what never began.
      return encrypted || bytesRead === 0 || typeof server.setSecureContext !== 'function';
    });

  // --- Requests ---

  let requests = 0;
  let responses = 0;
  let spent = 0; // ms, all responses together
  const latency = new Array(BUCKETS).fill(0);

  /** From the drain on, or when somebody asks for the first time: publishing costs every request a little. */
  let attends = false;
  function attend() {
    if (attends) return;
    attends = true;
    channels.subscribe('http.server.request.start', started);
    channels.subscribe('http.server.response.finish', finished);
  }

  function started({ server, socket, response }) {
    if (!servers.has(server)) return;
    const known = about(socket);
    requests++;
    known.began = now();
    if (draining) {
      // Pipelined: only the last one ends the connection.
      const before = known.response && marked.get(known.response);
      if (before) before.isLast = false;
      isLast(response);
    }
    known.response = response;
  }

  function finished({ socket, response }) {
    const known = connections.get(socket);
    if (!known?.began) return;
    const took = now() - known.began;
    if (known.response === response) known.response = null;
    responses++;
    spent += took;
    latency[Math.min(32 - Math.clz32(Math.min(took * 1000, 2 ** 31)), BUCKETS - 1)]++;
  }

  // --- Draining ---

  // Before the cluster's own listener, which closes the servers.
  process.prependListener('internalMessage', (frame) => {
    if (frame?.cmd === 'NODE_CLUSTER' && frame.act === 'disconnect') drain(true);
    else if (frame?.cmd === COMMAND && frame.act === 'leave') ({ grace, upgraded: graceUpgraded, signal: asked, message: byMessage } = frame);
    else if (frame?.cmd === COMMAND && frame.act === 'ask') report(frame.id);
    else if (frame?.cmd === COMMAND && frame.act === 'count') tellCounts();
  });
  const { disconnect } = cluster.worker;
  hidden(cluster.worker, 'disconnect', function () {
    drain(false);
    return Reflect.apply(disconnect, this, []);
  });
  // Without a primary Node would exit at once, unless its own listener finds this true: no other does.
  const { worker } = cluster;
  let orphaned = false;
  process.prependListener('disconnect', () => {
    if (worker.exitedAfterDisconnect) return;
    orphaned = true;
    worker.once('disconnect', () => (worker.exitedAfterDisconnect = true));
  });
  process.on('disconnect', () => {
    if (!orphaned) return;
    worker.exitedAfterDisconnect = undefined;
    drain(false);
    let open = 1;
    const closed = () => --open === 0 && process.exit(0);
    for (const server of servers) {
      if (!server.listening) continue;
      open++;
      server.close(closed);
    }
    setTimeout(() => process.exit(0), ORPHAN).unref();
    closed();
  });

  let grace; // ms; unknown: as long as it takes
  let graceUpgraded; // ms for connections that speak another protocol by now
  const forwarding = process.listeners('message'); // Node's own, from the process to `cluster.worker`
  let asked; // the signal that the primary was told to use
  let byMessage = false; // the program is told by a message
  let handed = false; // the program's handler was called

  /** What the program does on a signal, it does now: it may know what holds the drain up. */
  function handOver() {
    const own = (listener) => listener !== keepEarly && !forwarding.includes(listener);
    if (byMessage && (process.listeners('message').some(own) || worker.listenerCount('message') > 0)) {
      if (!handed) process.emit('message', 'shutdown', undefined);
      handed = true;
      return true;
    }
    const signals = [asked, 'SIGTERM', 'SIGINT'].filter((name) => name in constants.signals);
    const signal = signals.find((name) => process.listenerCount(name) > 0);
    if (signal && !handed) {
      handed = true;
      process.emit(signal, signal, constants.signals[signal]);
    }
    return signal !== undefined;
  }

  /** `told`: by the primary; else the program itself wants to go, and knows. */
  function drain(told) {
    if (draining) return;
    draining = now();
    attend();
    servers.forEach(closesQuietly);
    sessions.forEach(goAway);
    sweep();
    setInterval(sweep, SWEEP).unref();
    if (!told) return;
    atTheEndOf(grace, () => {
      const goesOn = graceUpgraded === undefined || graceUpgraded > grace;
      closeIdle(!goesOn);
      if (!goesOn || countUpgraded() === 0) return void handOver();
      // The others have had their time, and the program is not to end for their sake.
      setTimeout(() => sockets().forEach((socket) => isUpgraded(socket) || socket.destroy()), LATE).unref();
      atTheEndOf(graceUpgraded, () => {
        closeIdle(true);
        handOver();
      });
    });
    // Told to disconnect while a message is half read, Node waits for its end, and then does not take it.
    const unheard = setInterval(() => {
      if (!process.connected) process.emit('internalMessage', {}, undefined);
    }, SWEEP).unref();
    process.once('disconnect', () => clearInterval(unheard));
    // A timer or a client of a database keeps a process for ever.
    process.once('disconnect', () => handOver() || setTimeout(() => process.exit(0), LAST_WORDS).unref());
  }

  /** A moment before so many milliseconds since the drain began are over. */
  function atTheEndOf(time, doIt) {
    const late = time - Math.min(LATE, time / 2) - (now() - draining);
    if (late < 2 ** 31) setTimeout(doIt, late).unref();
  }

  /** Better than to be cut in the middle of a request a moment later. */
  function closeIdle(all) {
    for (const socket of sockets()) {
      if (isUpgraded(socket) ? all : !socket._httpMessage) socket.end();
    }
  }

  const isUpgraded = (socket) => connections.get(socket)?.upgraded === true;
  const countUpgraded = () => sockets().filter(isUpgraded).length;

  /** How many there are, for whose sake the primary waits. It may hear of the drain only after the first time. */
  let told = [0, 0];
  function tellUpgraded() {
    const count = countUpgraded();
    if (told.some((before) => before !== count)) tell('upgraded', { count });
    told = [told[1], count];
  }

  /** The program may close it as well when it hears of the end: that is no error of its. */
  function closesQuietly(server) {
    if (!server.listening) return;
    const { close } = server;
    let calls = 0;
    let closed = false;
    server.once('close', () => (closed = true));
    hidden(server, 'close', function (callback) {
      if (calls++ === 0) return Reflect.apply(close, this, [callback]);
      if (typeof callback === 'function') {
        if (closed) process.nextTick(callback);
        else this.once('close', () => callback());
      }
      return this;
    });
  }

  /** The response tells its client that the connection ends with it, whatever the program says. */
  function isLast(response) {
    if (response.headersSent || typeof response.writeHead !== 'function') return;
    const { writeHead } = response;
    const mark = { isLast: true };
    marked.set(response, mark);
    hidden(response, 'writeHead', function (...head) {
      if (mark.isLast) {
        this.shouldKeepAlive = false;
        if (staysOpen(this.getHeader('connection'))) this.setHeader('Connection', 'close');
        const at = head.length - 1;
        if (at > 0 && head[at] && typeof head[at] === 'object') head[at] = withoutKeepAlive(head[at]);
      }
      return Reflect.apply(writeHead, this, head);
    });
  }

  /** Responses that end their connection, unless another request comes. */
  const marked = new WeakMap();

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
    const silent = now() - draining >= SILENT;
    for (const socket of sockets()) {
      const known = connections.get(socket);
      if (known?.webSocket !== undefined) {
        // Not before the handshake was answered. “Going away” (RFC 6455, 7.4.1) between two frames of the
        // program's: each of those is written as one, but by a proxy, which pipes what comes.
        const answered = socket.bytesWritten > known.webSocket && socket.writable;
        if (!known.told && answered && socket.listenerCount('unpipe') === 0) {
          known.told = true;
          socket.write(Buffer.from([0x88, 0x02, 0x03, 0xe9]));
        }
      } else if (known?.upgraded) {
        // Only the program knows how to say that it goes.
      } else if (isEventSource(socket._httpMessage)) {
        // It ends never, and has no word for it but its end: the client connects again by itself.
        if (socket._httpMessage.chunkedEncoding) socket.write('0\r\n\r\n');
        socket.destroySoon();
      } else if (silent && socket.bytesRead === 0) {
        socket.end();
      }
    }
    tellUpgraded();
  }

  /** What a browser's EventSource asked for, and gets. */
  const isEventSource = (response) =>
    response?.req?.method === 'GET' &&
    /text\/event-stream/i.test(response.req.headers.accept) &&
    /\ncontent-type: *text\/event-stream/i.test(response._header);

  // --- What is told ---

  let lagMax = 0;
  let lagCounted = 0; // since the last counts
  let lag = 0;
  let expected = now() + LAG_SAMPLE;
  setInterval(() => {
    const at = now();
    lag = Math.max(0, at - expected);
    lagMax = Math.max(lagMax, lag);
    lagCounted = Math.max(lagCounted, lag);
    expected = at + LAG_SAMPLE;
    if (!serves) tellServing();
  }, LAG_SAMPLE).unref();

  let accepted = -1; // nobody has asked
  /** How many connections came: where the number is limited, or the primary scales by the event loop. */
  function tellCounts() {
    if (accepted < 0) {
      accepted = 0;
      channels.subscribe('net.server.socket', ({ socket }) => {
        if (servers.has(socket.server)) accepted++;
      });
    }
    let open = 0;
    for (const server of servers) server.getConnections((error, count) => (open += error ? 0 : count));
    process.nextTick(() => {
      tell('counts', { accepted, open, lag: lagCounted });
      lagCounted = 0;
    });
  }

  /** The primary hears of servers that listen through it; not of `exclusive` and `reusePort` ones. */
  let serves = false;
  function tellServing() {
    serves = [...servers].some((server) => server.listening);
    if (serves || !process.getActiveResourcesInfo().some((name) => /^(TCP|Pipe)ServerWrap$/.test(name))) return;
    serves = true;
    tell('serves');
  }
  let since = performance.eventLoopUtilization();

  function report(id) {
    attend();
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
  let room = EARLY;
  const keepEarly = (message, handle) => {
    room -= JSON.stringify(message)?.length ?? 0;
    if (room >= 0) early.push([message, handle]);
    else (handle?.destroy ?? handle?.close)?.call(handle);
  };
  const keepNoMore = () => {
    process.removeListener('message', keepEarly);
    process.removeListener('newListener', listens);
    cluster.worker.removeListener('newListener', listens);
  };
  const listens = (type, listener) => {
    if (type !== 'message' || listener === keepEarly) return;
    keepNoMore();
    process.nextTick(() => {
      for (const [message, handle] of early.splice(0)) process.emit('message', message, handle);
    });
  };
  setTimeout(() => {
    keepNoMore();
    for (const [, handle] of early.splice(0)) (handle?.destroy ?? handle?.close)?.call(handle);
  }, EARLY_FOR).unref();
  process.on('message', keepEarly);
  process.on('newListener', listens);
  cluster.worker.on('newListener', listens);
})();
