// A worker that does what it is asked to: ends, talks to the others, listens in more places, starts processes.
const dgram = require('dgram');
const http = require('http');
const { spawn } = require('child_process');

const slot = Number(process.env.NODE_APP_INSTANCE);
let heard = {};
let sent = 0;
const children = [];

const does = {
  '/exit': () => process.exit(3),
  '/segv': () => process.kill(process.pid, 'SIGSEGV'),
  // Every other worker hears it.
  '/say': (word) => process.send({ phalanx: 'broadcast', message: { word, slot } }),
  // A message that is longer than any socket's queue.
  '/much': () => process.send({ much: 'x'.repeat(5 << 20) }, () => (sent += 1)),
  // So many that the channel is never empty, for a while.
  '/flood': (ms) => {
    const until = Date.now() + Number(ms);
    const more = () => {
      for (let n = 0; n < 50; n++) process.send({ flood: 'y'.repeat(2000) });
      if (Date.now() < until) setTimeout(more, 1);
    };
    more();
  },
  '/child': (words) => {
    const [command, ...args] = JSON.parse(words);
    children.push(spawn(command, args, { stdio: 'ignore' }).pid);
  },
  '/forget': () => (heard = {}),
};

const server = http.createServer((request, response) => {
  const [path, word] = decodeURIComponent(request.url).split('?');
  does[path]?.(word);
  response.setHeader('Content-Type', 'application/json');
  response.end(JSON.stringify({ pid: process.pid, slot, heard, sent, children }));
});
server.listen(process.env.PORT, '127.0.0.1');
if (process.env.UNIX) http.createServer(server.listeners('request')[0]).listen(process.env.UNIX);
if (process.env.UDP) {
  const socket = dgram.createSocket('udp4');
  socket.on('message', (text, peer) => socket.send(`${text} ${process.pid}`, peer.port, peer.address));
  socket.bind(Number(process.env.UDP), '127.0.0.1');
}
process.on('message', (message) => {
  if (message.word) heard[message.word] = (heard[message.word] ?? 0) + 1;
});
