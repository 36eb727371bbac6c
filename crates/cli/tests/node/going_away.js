// A client of going_away_server.js: a WebSocket, an HTTP/2 session, an idle and two silent connections. It says
// “ready” when all are open, and then what becomes of each.
const crypto = require('crypto');
const http2 = require('http2');
const net = require('net');
const tls = require('tls');

const port = Number(process.argv[2]);
const say = (text) => process.stdout.write(`${text}\n`);
let missing = 5;
const isOpen = () => --missing === 0 && say('ready');

const key = crypto.randomBytes(16).toString('base64');
const ws = net.connect(port, '127.0.0.1', () => {
  ws.write(`GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ${key}\r\n\r\n`);
});
let upgraded = false;
ws.on('data', (data) => {
  if (!upgraded) {
    upgraded = data.includes('101 Switching');
    return isOpen();
  }
  say(`websocket ${data.toString('hex')}`);
  // The closing handshake: masked, the same status.
  ws.write(Buffer.from([0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe9]));
});
ws.on('end', () => say('websocket end'));
ws.on('error', (error) => say(`websocket ${error.code}`));

const session = http2.connect(`http://127.0.0.1:${process.argv[3]}`);
session.on('goaway', (code) => say(`http2 goaway ${code}`));
session.on('close', () => say('http2 close'));
session.on('error', (error) => say(`http2 ${error.code}`));
const first = session.request({ ':path': '/' });
first.on('end', isOpen).resume();
// A response that is under way when the worker is told to leave is finished.
const slow = session.request({ ':path': '/slow' });
let text = '';
slow.setEncoding('utf8').on('data', (data) => (text += data)).on('end', () => say(`http2 slow ${text}`));

const idle = net.connect(port, '127.0.0.1', () => idle.write('GET / HTTP/1.1\r\nHost: x\r\n\r\n'));
let answers = 0;
idle.on('data', (data) => {
  answers++;
  if (answers === 1) return isOpen();
  say(`idle ${/connection: close/i.test(data) ? 'close' : 'keep-alive'}`);
});
idle.on('end', () => say('idle end'));
process.stdin.once('data', () => idle.write('GET / HTTP/1.1\r\nHost: x\r\n\r\n'));

const secret = tls.connect({ port: process.argv[4], host: '127.0.0.1', rejectUnauthorized: false }, isOpen);
secret.on('end', () => say('tls silent end')).resume();

const silent = net.connect(port, '127.0.0.1', isOpen);
silent.on('end', () => say('silent end')).resume();
