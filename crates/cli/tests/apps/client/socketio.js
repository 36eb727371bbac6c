'use strict';

// node socketio.js URL N [say]: so many socket.io clients, a third each that only polls, that only
// has a WebSocket, and that begins with the one and changes to the other. Each asks again and
// again; how they come back after a loss is the library's own business. With `say` they also talk
// to each other, and ask for who is there. SIGTERM: no more reconnections, and it ends with the
// last connection.

const http = require('node:http');
const { io } = require('socket.io-client');
const { report, servedBy, lost, failed, source } = require('./report.js');

const [url, count, say] = process.argv.slice(2);
const TRANSPORTS = [['polling'], ['websocket'], ['polling', 'websocket']];
const pause = (millis) => new Promise((resolve) => setTimeout(resolve, millis));

function connect(client) {
  const transports = TRANSPORTS[client % TRANSPORTS.length];
  const socket = io(url, {
    transports,
    agent: new http.Agent({ keepAlive: true, localAddress: source(client) }),
    forceNew: true,
    reconnectionDelay: 20,
    reconnectionDelayMax: 200,
  });
  const kind = transports.join('+');
  let connection = 0;

  socket.on('connect', async () => {
    const mine = (connection += 1);
    for (let seq = 1; mine === connection && socket.connected; seq += 1) {
      await ask(socket, client, `hello ${seq} from ${client}`, () => mine === connection);
      await pause(20);
    }
  });
  socket.on('disconnect', (reason, details) => {
    connection += 1;
    lost(client);
    report({ event: 'closed', client, kind, reason, code: details?.context?.code });
  });
  socket.on('connect_error', (error) => {
    report({ event: 'refused', client, kind, message: error.message });
  });
  if (say) talk(socket, client);
  return socket;
}

/** One question; that the connection is lost meanwhile is no failure, silence is. */
async function ask(socket, client, text, current) {
  try {
    const answer = await socket.timeout(10_000).emitWithAck('ask', text);
    if (answer.text !== text.toUpperCase()) failed(client, `${text}: ${answer.text}`);
    if (current()) servedBy(client, answer.pid);
  } catch (error) {
    if (current()) failed(client, `${text}: ${error.message}`);
  }
}

/** Says something to all clients now and then, and reports from which workers it hears. */
function talk(socket, client) {
  const heard = new Set();
  const seen = new Set();
  let said = 0;
  let last;
  socket.on('said', ({ from, number, pid }) => {
    const message = `${from}/${number}`;
    if (seen.has(message)) failed(client, `heard ${message} twice`);
    seen.add(message);
    if (heard.has(pid)) return;
    heard.add(pid);
    report({ event: 'heard', client, pid });
  });
  setInterval(async () => {
    if (!socket.connected) return;
    socket.emit('say', { from: client, number: (said += 1) });
    if (client !== 0) return;
    try {
      const there = await socket.timeout(2_000).emitWithAck('count');
      const now = JSON.stringify(there);
      if (now !== last) report({ event: 'count', client, ...there });
      last = now;
    } catch {
      // The connection was lost meanwhile; the next one tells.
    }
  }, 200).unref();
}

const sockets = Array.from({ length: Number(count) }, (_, client) => connect(client));
process.on('SIGTERM', () => {
  for (const socket of sockets) {
    socket.io.reconnection(false);
    // One that is between two attempts would go on trying.
    if (!socket.connected) socket.disconnect();
  }
  report({ event: 'ending' });
});
