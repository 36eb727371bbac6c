'use strict';

// node ws.js URL N: so many WebSocket clients, each asks again and again, and connects again by
// itself when the server says that it goes away. SIGTERM: no more of that, and it ends with the
// last connection.

const { WebSocket } = require('ws');
const { report, servedBy, lost, failed, source } = require('./report.js');

const [url, count] = process.argv.slice(2);
let ending = false;

function connect(client) {
  if (ending) return;
  const socket = new WebSocket(url, { localAddress: source(client), handshakeTimeout: 10_000 });
  const text = `hello from ${client}`;
  let seq = 0;
  let timer;
  const ask = () => {
    if (socket.readyState !== WebSocket.OPEN) return;
    seq += 1;
    socket.send(JSON.stringify({ seq, text }));
    timer = setTimeout(() => {
      failed(client, `question ${seq} was not answered on an open connection`);
      socket.terminate();
    }, 10_000);
  };
  socket.on('open', ask);
  socket.on('message', (data) => {
    clearTimeout(timer);
    const answer = JSON.parse(data);
    if (answer.seq !== seq || answer.text !== text.toUpperCase()) {
      failed(client, `asked ${seq}, answered ${data}`);
    }
    servedBy(client, answer.pid);
    timer = setTimeout(ask, 20);
  });
  socket.on('error', (error) => failed(client, error.message));
  socket.on('close', (code) => {
    clearTimeout(timer);
    lost(client);
    report({ event: 'closed', client, code });
    if (!ending) setTimeout(connect, 10 + 90 * Math.random(), client);
  });
}

process.on('SIGTERM', () => {
  ending = true;
  report({ event: 'ending' });
});
for (let client = 0; client < Number(count); client += 1) connect(client);
