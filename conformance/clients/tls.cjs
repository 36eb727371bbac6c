'use strict';
// tls.cjs PORT CA SESSION COUNT HTTP: connects COUNT times, one after the other, with the session that
// is in the file SESSION, and leaves the newest one there. Prints a JSON line for each: which worker, and
// whether the session was resumed.
const fs = require('node:fs');
const tls = require('node:tls');

const [port, ca, file, count, protocol] = process.argv.slice(2);
const options = { host: '127.0.0.1', port: Number(port), ca: fs.readFileSync(ca), servername: 'localhost' };

function connect(left) {
  if (left === 0) return;
  const session = fs.existsSync(file) ? fs.readFileSync(file) : undefined;
  const socket = tls.connect({ ...options, session }, () => {
    if (protocol === 'https') socket.write('GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n');
  });
  let text = '';
  let newest;
  socket.setEncoding('utf8');
  // Of TLS 1.3, tickets come after the handshake; the last one is the newest.
  socket.on('session', (ticket) => { newest = ticket; });
  socket.on('data', (some) => { text += some; });
  socket.on('error', (error) => {
    console.error(String(error));
    process.exit(1);
  });
  const reused = () => socket.isSessionReused();
  let resumed;
  socket.on('secureConnect', () => { resumed = reused(); });
  socket.on('close', () => {
    if (newest) fs.writeFileSync(file, newest);
    console.log(JSON.stringify({ worker: text.split('\r\n\r\n').pop().trim(), resumed }));
    connect(left - 1);
  });
}
connect(Number(count));
